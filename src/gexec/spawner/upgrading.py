"""One upgrade of the relay: the spawner's side, from the start of the successor's program to its first step.

    start the program ─► SuccessorReady ─► HandOver ─► StateTaken ─► the relay ends ─► GoOn
                             the relay stands still │ until the successor goes on, or it continues itself

The relay ends only when its successor has all of its state. If anything fails before that, the successor is
ended and the relay continues as if nothing had happened. Source: docs/decisions/0030-upgrades.md.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from gexec.errors import ProtocolError
from gexec.posix import channel, clock
from gexec.posix.channel import MessageLost, Port
from gexec.posix.loop import PollLoop
from gexec.wire.upgrades import (
    FROM_RELAY,
    FROM_SPAWNER,
    GoOn,
    HandOver,
    HandoverEnds,
    HandoverFailed,
    StateTaken,
    SuccessorReady,
)

#: How long the successor's program may take until it is ready: it asks authd for a certificate.
START_S: Final = 60.0
#: How long the state may take.
HANDING_S: Final = 60.0
#: How long the relay may take to end.
END_S: Final = 10.0
#: Descriptors of the program (``gexecd.succession``).
_FIRST_FD: Final = 3

#: What it waits for: the program, the state, the relay's end, nothing more.
STARTING, HANDING, ENDING, OVER = 0, 1, 2, 3


class Upgradable(Protocol):
    """The spawner, as an upgrade uses it."""

    relay_pid: int
    loop: PollLoop

    def adopt(self, pid: int, ended: Callable[[int], None]) -> None:
        """Reap this child, and call ``ended`` with its wait status."""

    def hold_events(self) -> Port:
        """Keep what is to be sent to the relay from now on; return the port to it."""

    def take_relay(self, port: Port, pid: int) -> None:
        """From now on this is the relay."""

    def release_events(self) -> None:
        """Send what was kept to the relay."""


class RelayUpgrade:
    """The upgrade of one relay.

    Args:
        ended: called once, with why it has failed ("" = it has not), the number of jobs that were handed over
            and the seconds for which the relay stood still.
    """

    def __init__(self, spawner: Upgradable, ended: Callable[[str, int, float], None]) -> None:
        self.state = OVER
        #: Until when the successor's certificate is valid, UNIX time.
        self.expires_s = 0
        self._spawner = spawner
        self._loop = spawner.loop
        self._ended = ended
        self._pid = 0
        self._port: Port | None = None
        self._handing: socket.socket | None = None
        self._relay_port: Port
        self._jobs = 0
        self._began_s = 0.0

    @property
    def is_under_way(self) -> bool:
        """True from ``begin`` until ``ended`` is called."""
        return self.state != OVER

    @property
    def awaits_end(self) -> bool:
        """True while the running relay ends, because its successor has all of its state."""
        return self.state == ENDING

    def begin(self, argv: list[str], told: bytes) -> None:
        """Start the successor's program.

        Args:
            told: what it must know; in a memfd that it inherits.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = channel.pair()
        self._handing, there = channel.pair()
        memfd = -1
        try:
            memfd = channel.sealed(told)
            self._pid = start_program(argv, (theirs.fileno(), there.fileno(), memfd))
        except OSError:
            ours.close()
            self._handing.close()
            raise
        finally:
            theirs.close()
            there.close()
            if memfd >= 0:
                os.close(memfd)
        self._port = Port(ours, hears=FROM_RELAY, says=FROM_SPAWNER)
        self._loop.watch(ours.fileno(), self._heard)
        self._spawner.adopt(self._pid, lambda status: self._fail("the new relay has ended: see the log"))
        self._wait_for(STARTING, START_S, "the new relay is not ready")

    def relay_failed(self, text: str) -> None:
        """The running relay cannot hand over."""
        self._fail(f"the running relay cannot hand over: {text}")

    def relay_reaped(self) -> bool:
        """The running relay has ended; return whether that was expected, and its successor goes on."""
        if self.state != ENDING or self._port is None:
            self._fail("the running relay has ended")
            return False
        self.state = OVER
        port, self._port = self._port, None
        self._loop.unwatch(port.endpoint.fileno())
        self._spawner.take_relay(port, self._pid)
        port.say(GoOn())
        self._spawner.release_events()
        self._ended("", self._jobs, time.monotonic() - self._began_s)
        return True

    def give_up(self, why: str) -> None:
        """End the successor, and let the relay continue, if it has not ended yet."""
        if self.state != ENDING:
            self._fail(why)

    # -- the successor -----------------------------------------------------------------------

    def _heard(self) -> None:
        if self._port is None:
            return
        try:
            said: Any = self._port.receive()
        except ConnectionError:
            said = HandoverFailed("it has ended: see the log")
        except (ProtocolError, MessageLost) as error:
            said = HandoverFailed(str(error))
        if isinstance(said, SuccessorReady) and self.state == STARTING:
            self.expires_s = said.expires_s
            self._hand_over()
        elif isinstance(said, StateTaken) and self.state == HANDING:
            self._jobs = said.jobs
            self._wait_for(ENDING, END_S, "")
            self._relay_port.say(HandoverEnds(False))
        elif isinstance(said, HandoverFailed):
            self._fail(f"the new relay cannot go on: {said.text}")

    def _hand_over(self) -> None:
        self._began_s = time.monotonic()
        self._relay_port = self._spawner.hold_events()
        self._wait_for(HANDING, HANDING_S, "the state has not come")
        assert self._handing is not None
        with self._handing:
            self._relay_port.say(HandOver((self._handing.fileno(),)))

    def _wait_for(self, state: int, within_s: float, otherwise: str) -> None:
        self.state = state

        def overdue() -> None:
            if self.state != state:
                return
            if state == ENDING:
                os.kill(self._spawner.relay_pid, signal.SIGKILL)
            else:
                self._fail(f"{otherwise} within {within_s:g} s")

        self._loop.call_at(clock.now_s() + within_s, overdue)

    def _fail(self, why: str) -> None:
        if self.state == OVER or self._port is None:
            return
        before, self.state = self.state, OVER
        self._loop.unwatch(self._port.endpoint.fileno())
        self._port.endpoint.close()
        try:
            os.kill(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        assert self._handing is not None
        self._handing.close()
        if before >= HANDING:
            self._relay_port.say(HandoverEnds(True))
            self._spawner.release_events()
        self._ended(why, 0, 0.0)


def start_program(argv: list[str], fds: tuple[int, ...]) -> int:
    """Start the program of a relay with these descriptors from _FIRST_FD on; return its pid."""
    copies: list[int] = []
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        # A source must be none of the targets.
        for fd in fds:
            copies.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD + len(fds)))
        actions = [(os.POSIX_SPAWN_DUP2, copy, _FIRST_FD + index) for index, copy in enumerate(copies)]
        actions += [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1)]
        return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsigmask=())
    finally:
        for fd in (null, *copies):
            os.close(fd)
