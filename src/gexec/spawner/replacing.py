"""The replacement of a relay that died: from the start of another one to the tasks that continue in it.

    start the program ─► SuccessorReady ─► Survivor for each task that has outlived the relay ─► GoOn

Meanwhile the events of these tasks are held, and connections wait in the listening sockets. If it fails,
gexecd ends. Source: docs/decisions/0032-killed-relays.md.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, Final

from gexec.errors import ProtocolError
from gexec.posix import channel, clock
from gexec.posix.channel import MessageLost, Port
from gexec.spawner.stdio import close_all
from gexec.spawner.upgrading import START_S, Upgradable, start_program
from gexec.wire.upgrades import FROM_RELAY, FROM_SPAWNER, GoOn, SuccessorReady, Survivor

#: So many relays may die within this time; the next one's death ends gexecd.
DEATHS_MAX: Final = 3
WITHIN_S: Final = 600.0


class RelayReplacement:
    """The replacement of one relay.

    Args:
        survivors: the tasks that have outlived it; their descriptors are this object's.
        ended: called once, with why it has failed ("" = it has not).

    Attributes:
        expires_s: until when the new relay's certificate is valid, UNIX time.
        awaits_end: as for ``RelayUpgrade``.
    """

    def __init__(
        self, spawner: Upgradable, survivors: Sequence[Survivor], ended: Callable[[str], None]
    ) -> None:
        self.expires_s = 0
        self.awaits_end = False
        self._spawner = spawner
        self._survivors = survivors
        self._ended = ended
        self._port: Port | None = None
        self._pid = 0

    @property
    def is_under_way(self) -> bool:
        """True from ``begin`` until ``ended`` is called."""
        return self._port is not None

    def begin(self, argv: list[str], told: bytes, listeners: Sequence[int]) -> None:
        """Start the program of the new relay.

        Args:
            told: what it must know; in a memfd that it inherits.
            listeners: the listening sockets.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = channel.pair()
        memfd = -1
        try:
            memfd = channel.sealed(told)
            self._pid = start_program(argv, (theirs.fileno(), theirs.fileno(), memfd, *listeners))
        except OSError:
            ours.close()
            self._close_all()
            raise
        finally:
            theirs.close()
            if memfd >= 0:
                os.close(memfd)
        self._port = Port(ours, hears=FROM_RELAY, says=FROM_SPAWNER)
        self._spawner.hold_events()
        self._spawner.loop.watch(ours.fileno(), self._heard)
        self._spawner.adopt(self._pid, lambda status: self.give_up("the new relay has ended: see the log"))
        late = f"the new relay is not ready within {START_S:g} s"
        self._spawner.loop.call_at(clock.now_s() + START_S, lambda: self.give_up(late))

    def relay_reaped(self) -> bool:
        """No relay runs meanwhile."""
        return False

    def relay_failed(self, text: str) -> None:
        """No relay runs meanwhile."""

    def give_up(self, why: str) -> None:
        """End the new relay, if it is not the relay yet."""
        if self._port is None:
            return
        port, self._port = self._port, None
        self._spawner.loop.unwatch(port.endpoint.fileno())
        port.endpoint.close()
        self._close_all()
        try:
            os.kill(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._ended(why)

    def _close_all(self) -> None:
        for survivor in self._survivors:
            close_all(survivor.fds)

    def _heard(self) -> None:
        if self._port is None:
            return
        try:
            said: Any = self._port.receive()
        except (ConnectionError, ProtocolError, MessageLost) as error:
            self.give_up(f"the new relay cannot go on: {error}")
            return
        if not isinstance(said, SuccessorReady):
            return
        port, self._port = self._port, None
        self.expires_s = said.expires_s
        self._spawner.loop.unwatch(port.endpoint.fileno())
        try:
            for survivor in self._survivors:
                port.say(survivor)
            port.say(GoOn())
        except (OSError, ProtocolError) as error:
            self._port = port
            self.give_up(f"the new relay cannot be told: {error}")
            return
        self._close_all()
        self._spawner.take_relay(port, self._pid)
        self._spawner.release_events()
        self._ended("")
