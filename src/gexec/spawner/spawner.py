"""The spawner: the privileged half of gexecd. No network; one blocking poll loop.

It trusts only the signed bytes that the relay passes on (``spawner.admission``). The starter and one helper
per user start the tasks (``spawner.helpers``). It ends when its relay and all attached tasks have ended.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gexec import limits
from gexec.core.deadlines import earlier
from gexec.errors import ProtocolError
from gexec.posix import clock, memory
from gexec.posix.audit import AuditLog
from gexec.posix.channel import MessageLost, Port
from gexec.posix.log import Log
from gexec.posix.loop import PollLoop
from gexec.posix.reaping import reaped
from gexec.spawner.admission import Admission
from gexec.spawner.auditing import AuditRecords
from gexec.spawner.helpers import Helpers
from gexec.spawner.tasks import HELPER_PATIENCE_S, Tasks
from gexec.wire import outcome
from gexec.wire.denials import PeerDenied
from gexec.wire.messages import CERTIFICATES, CHECK, RUN, Event, Request
from gexec.wire.upgrades import (
    FROM_RELAY,
    FROM_SPAWNER,
    HandoverFailed,
    OfRelay,
    UpgradeEnded,
    UpgradeWanted,
)

if TYPE_CHECKING:
    from gexec.spawner.replacing import RelayReplacement
    from gexec.spawner.upgrading import RelayUpgrade

#: Turns of the loop that fail in succession before all tasks are ended: they take five seconds.
_FAULTS_MAX: Final = 100
_FAULT_PAUSE_S: Final = 0.05
_CHILD: Final = int(signal.SIGCHLD)
#: The signals that it handles; start-up blocks them before it forks anything.
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Spawner:
    """The spawner's loop.

    Args:
        relay: its end of the channel to the relay.
        start: returns the starter's pid and the channel to it; called at the first use.
        admission: decides who may run what.
        audit, log: the audit log and the daemon's log.
        audited_only: start no task while the audit log cannot be written.
        tasks_max: places for processes of all ordinary users together.
        on_signal: called with SIGHUP, SIGTERM and SIGINT.
        on_wish: called when the relay passes on the wish for an upgrade.
        replaces: called when the relay has died, and why; returns whether another one is started.
        is_clean: as for ``Helpers``.

    Attributes:
        relay_pid, starter_pid: our children; 0 after they were reaped, or if there are none (tests).
        loop: the descriptors, signals and timers of this process.
        upgrade: the relay's last upgrade.
        port, tasks, helpers: the channel to the relay, and what it asks for.
    """

    def __init__(
        self,
        *,
        relay: socket.socket,
        start: Callable[[], tuple[int, socket.socket]],
        admission: Admission,
        audit: AuditLog,
        log: Log,
        audited_only: bool = False,
        relay_pid: int = 0,
        tasks_max: int = limits.JOBS_MAX,
        on_signal: Callable[[int], None] | None = None,
        on_wish: Callable[[UpgradeWanted], None] = lambda wish: None,
        replaces: Callable[[str], bool] = lambda why: False,
        is_clean: bool = False,
    ) -> None:
        self.port = Port(relay, hears=FROM_RELAY, says=FROM_SPAWNER)
        self.relay_pid = relay_pid
        self.starter_pid = 0
        self._start = start
        self._log = log
        self._on_signal = on_signal
        self._on_wish = on_wish
        self._replaces = replaces
        self.upgrade: RelayUpgrade | RelayReplacement | None = None
        #: What is to be sent to the relay, while that is being upgraded.
        self._held: list[Event | UpgradeEnded] | None = None
        self._trail = AuditRecords(audit, audited_only)
        self.tasks = Tasks(admission, self._trail, log, self.tell, tasks_max)
        self.loop = PollLoop(self._signalled, self._fault)
        self.helpers = Helpers(
            self.loop,
            self._started,
            self.tasks.from_helper,
            self.tasks.helper_gone,
            self._starter_gone,
            note=log.warning,
            is_clean=is_clean,
        )
        self.tasks.helpers = self.helpers
        self._others: dict[int, Callable[[int], None]] = {}
        self._ending = False
        self._end_by_s = float("inf")
        self._is_faulty = False
        self._has_failed = False

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until the relay and all attached tasks have ended.

        Returns 0, or 1 if it ended because turn after turn failed or because the starter ended.
        """
        self.install_handlers()
        self.loop.watch(self.port.endpoint.fileno(), self._from_relay)
        self._reap()  # children that ended before the handler was installed
        faults = 0
        while not self._finished() and faults < 2 * _FAULTS_MAX:
            self._is_faulty = False
            for step in (self._turn, self._tick, self._flush):
                try:
                    step()
                except Exception as error:
                    self._fault(error)
            faults = faults + 1 if self._is_faulty else 0
            if faults == _FAULTS_MAX:
                self._log.error(f"{faults} turns in succession have failed: ending {len(self.tasks)} tasks")
                self._has_failed = True
                self.shut_down(now=True)
            elif faults > 1:
                time.sleep(_FAULT_PAUSE_S)
        return int(self._has_failed)

    def _turn(self) -> None:
        self.loop.turn(self._due_s())

    def _fault(self, error: Exception) -> None:
        """Log an exception of a turn and continue: no user may be able to end the tasks of others."""
        self._is_faulty = True
        self._log.error(f"unexpected {type(error).__name__}: {error}")

    def install_handlers(self) -> None:
        """Take the signals from now on; ``run`` handles those that arrive before it."""
        self.loop.take_signals(SIGNALS)

    def adopt(self, pid: int, ended: Callable[[int], None]) -> None:
        """Reap this child, too, and call ``ended`` with its wait status."""
        self._others[pid] = ended

    def tell(self, event: Event | UpgradeEnded) -> None:
        """Send an event to the relay, unless the spawner is ending."""
        if self._held is not None:
            self._held.append(event)
        elif not self._ending:
            try:
                self.port.say(event)
            except ProtocolError as error:
                self.relay_gone(str(error))

    def pass_certificates(self, memfd: int) -> None:
        """Send the relay the sealed memfd with its renewed certificate, without reading it.

        Raises:
            OSError: the memfd cannot be sent.
        """
        if self._held is not None:
            raise OSError(errno.EAGAIN, "the relay is being upgraded")
        if not self._ending:
            self.port.endpoint.pass_on(CERTIFICATES, memfd)

    @property
    def is_settled(self) -> bool:
        """True if no program that this process has asked for something still runs."""
        return not self._others

    @property
    def is_ending(self) -> bool:
        """True once it takes no more requests."""
        return self._ending

    # -- upgrades of the relay ---------------------------------------------------------------

    @property
    def is_upgrading(self) -> bool:
        """True while the relay is being upgraded."""
        return self.upgrade is not None and self.upgrade.is_under_way

    def hold_events(self) -> Port:
        """Keep what is to be sent to the relay from now on; return the port to it."""
        self._held = []
        return self.port

    def take_relay(self, port: Port, pid: int) -> None:
        """From now on this is the relay; the one before it has ended."""
        self.loop.unwatch(self.port.endpoint.fileno())
        self.port.endpoint.close()
        self.port = port
        self._others.pop(pid)
        self.relay_pid = pid
        self.loop.watch(port.endpoint.fileno(), self._from_relay)

    def release_events(self) -> None:
        """Send what was kept to the relay."""
        held, self._held = self._held or [], None
        for event in held:
            self.tell(event)

    def shut_down(self, now: bool) -> None:
        """End all attached tasks, then the loop; if ``now``, with SIGKILL at once."""
        first = not self._ending
        if self.upgrade is not None:
            self.upgrade.give_up("gexecd ends")
        self._ending = True
        self._end_by_s = clock.now_s() + (1.0 if now else self.tasks.grace_s) + 2 * HELPER_PATIENCE_S
        if first:
            self.loop.unwatch(self.port.endpoint.fileno())
            self.port.endpoint.close()
        self.tasks.kill_all(now)
        self.helpers.dismiss_all()

    def begin_starter(self) -> None:
        """Start the starter now, not with the first task."""
        self.helpers.begin()

    def retire_helpers(self) -> None:
        """Give new tasks to new helpers; the existing ones end when their tasks have ended."""
        self.helpers.retire_all()

    def _finished(self) -> bool:
        if not self._ending:
            return False
        overdue = clock.now_s() > self._end_by_s
        if not self.helpers and (overdue or not self.tasks):
            self.helpers.close_starter()
        if overdue:
            self.helpers.kill_all()
            if not self.helpers and self.starter_pid:
                os.kill(self.starter_pid, signal.SIGKILL)
            self._end_by_s += HELPER_PATIENCE_S
        return not self.helpers and not self.starter_pid

    def _due_s(self) -> float | None:
        due_s = earlier(self.helpers.wake_s(), self.tasks.next_deadline_s())
        due_s = earlier(due_s, self._trail.next_deadline_s())
        return earlier(due_s, clock.now_s() + 0.1) if self._ending else due_s

    def _tick(self) -> None:
        self.helpers.wake()
        self._trail.tick()
        if self.tasks.tick():
            memory.trim()

    def _flush(self) -> None:
        self.helpers.flush()
        if not self._ending:
            endpoint = self.port.endpoint
            if endpoint.wants_write:
                try:
                    endpoint.flush()
                except OSError as error:
                    self.relay_gone(f"the relay cannot be told what it must know ({error.strerror})")
                    return
            self.loop.want_write(endpoint.fileno(), endpoint.wants_write)

    def _signalled(self, signum: int) -> None:
        if signum == _CHILD:
            self._reap()
        elif self._on_signal is not None:
            self._on_signal(signum)
        elif signum != signal.SIGHUP:
            self.shut_down(now=False)

    # -- the relay ---------------------------------------------------------------------------

    def _from_relay(self) -> None:
        try:
            request: Request | PeerDenied | OfRelay | None = self.port.receive()
        except ConnectionError:
            if self.upgrade is not None and self.upgrade.awaits_end:
                self.loop.unwatch(self.port.endpoint.fileno())  # its successor goes on when it is reaped
            elif self.relay_pid:
                self.loop.unwatch(self.port.endpoint.fileno())
                os.kill(self.relay_pid, signal.SIGKILL)  # what follows is decided when it is reaped
            else:
                self.relay_gone("the relay has ended")
            return
        except MessageLost as lost:
            # No descriptor or memory was available for it.
            if lost.kind in (RUN, CHECK):
                self.tasks.give_up(lost.task, lost.value, outcome.no_room(str(lost)))
            return
        except ProtocolError as broken:
            self.relay_gone(f"protocol violation by the relay: {broken}")
            return
        if isinstance(request, PeerDenied):
            self._trail.peer_denied(request)
        elif isinstance(request, UpgradeWanted):
            self._on_wish(request)
        elif isinstance(request, OfRelay):
            if self.upgrade is not None and isinstance(request, HandoverFailed):
                self.upgrade.relay_failed(request.text)
        elif request is not None:
            self.tasks.handle(request)

    def relay_gone(self, why: str) -> None:
        """The relay has ended, or must not go on, and there will be no other: end."""
        if not self._ending:
            self._log.info(f"{why}: ending {len(self.tasks)} tasks")
            self.shut_down(now=False)
            if self.relay_pid:
                try:
                    os.kill(self.relay_pid, signal.SIGTERM)
                except ProcessLookupError:
                    self.relay_pid = 0

    # -- children ----------------------------------------------------------------------------

    def _reap(self) -> None:
        for pid, status in reaped():
            if pid == self.relay_pid:
                self.relay_pid = 0
                if self.upgrade is not None and not self._ending and self.upgrade.relay_reaped():
                    continue
                why = f"the relay has ended (wait status {status})"
                if self._ending or not self._replaces(why):
                    self.relay_gone(why)
            elif pid == self.starter_pid:
                self.starter_pid = 0
                self.tasks.starter_reaped()
            elif pid in self._others:
                self._others.pop(pid)(status)

    def _started(self) -> socket.socket:
        self.starter_pid, sock = self._start()
        return sock

    def _starter_gone(self, why: str) -> None:
        if not self._ending:
            self._log.error(f"the starter has ended ({why}): ending {len(self.tasks)} tasks")
            self._has_failed = True
            self.shut_down(now=False)
        # Its tasks are killed once it was reaped, which is before or after the end of its channel.
        if self.starter_pid:
            os.kill(self.starter_pid, signal.SIGKILL)
        else:
            self.tasks.starter_reaped()
