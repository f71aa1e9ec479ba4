"""The supervisor: the parent of every daemon of a local cluster, and of their leftovers.

::

    guard ── supervisor ── authd
                       ├── gexecd of node001 ── relay, helpers, tasks
                       └── gexecd of node002 ── ...

Guard and supervisor are child subreapers. A leftover of a dead daemon becomes the supervisor's child and is
ended at once, as systemd does for a service with KillMode=control-group; daemons are not restarted. If the
supervisor dies, the daemons get SIGTERM from the kernel (PR_SET_PDEATHSIG) and become children of the guard,
which ends what is left; if the guard dies, the supervisor gets SIGTERM. So daemons are left behind only if
guard and supervisor both cannot act.

All daemons are forked from the supervisor after its warm-up: their modules are imported once and their pages
are shared (docs/decisions/0008-local-cluster.md). A daemon's code is passed as a callable, so this module
does not depend on gexecd.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gexec.cluster import processes
from gexec.cluster.daemon import REPORT_MAX_BYTES, STOP_SIGNALS, Daemon, be_daemon, failure, log_hint
from gexec.cluster.layout import ClusterError
from gexec.posix import descendants, identity
from gexec.posix.reaping import reaped

#: How many daemons start at the same time: enough to keep the cores busy while some wait.
STARTING_MAX = 16
#: How long one daemon may take from its fork until it is ready.
READY_TIMEOUT_S = 60.0
#: From SIGTERM to SIGKILL when the cluster ends; each daemon adds the time that its end takes.
STOP_GRACE_S = 5.0
STOP_GRACE_PER_DAEMON_S = 0.02
#: After this time a second SIGTERM makes a draining daemon end its jobs at once.
STOP_AGAIN_S = 2.0
#: A daemon's log is emptied when it is larger than this, because a cluster on one disk has a thousand logs.
LOG_MAX_BYTES = 16 * 1024 * 1024
LOG_CHECK_S = 60.0


@dataclass
class _Starting:
    daemon: Daemon
    deadline_s: float
    report: bytearray = field(default_factory=bytearray)


class Stopped(Exception):
    """A stop signal arrived while the supervisor was starting daemons."""


class Supervisor:
    """Starts daemons, ends their leftovers, and ends all daemons at the end.

    The calling process must be single-threaded and is the supervisor from then on: its signal
    handlers and its subreaper flag are changed.

    Args:
        progress: called with the number of ready daemons as they come up.
        client: a connected socket of the process that waits for the start; its end stops the start.
    """

    def __init__(
        self,
        daemons: Iterable[Daemon],
        progress: Callable[[int], None] = lambda ready: None,
        client: socket.socket | None = None,
    ) -> None:
        self.daemons = list(daemons)
        self._progress = progress
        self._client = client
        self._by_pid: dict[int, Daemon] = {}
        self._stop = False
        self._selector = selectors.DefaultSelector()
        self._install_signals()
        identity.become_subreaper()
        gc.collect()
        gc.freeze()

    # -- start --------------------------------------------------------------------------------

    def bring_up(self) -> None:
        """Start the first daemon alone and then the others; return when all are ready.

        Raises:
            ClusterError: a daemon failed; the message has its name and the reason.
            Stopped: a signal arrived, or the client is gone. In both cases the caller must call
                ``take_down``.
        """
        waiting = list(reversed(self.daemons))
        starting: dict[int, _Starting] = {}
        ready = 0
        if self._client is not None:
            self._selector.register(self._client, selectors.EVENT_READ)
        try:
            while waiting or starting:
                # The first is authd, from which the others request their certificates.
                while waiting and len(starting) < (STARTING_MAX if ready else 1):
                    self._start(waiting.pop(), starting)
                ready += self._await_reports(starting)
                self._progress(ready)
        finally:
            for descriptor in starting:
                self._selector.unregister(descriptor)
                os.close(descriptor)
            if self._client is not None:
                self._selector.unregister(self._client)

    def _start(self, daemon: Daemon, starting: dict[int, _Starting]) -> None:
        descriptor, writer = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(descriptor)
            os.close(writer)
            raise ClusterError(
                f"{daemon.name}: cannot start a process ({error.strerror}); "
                "see `ulimit -u` and /proc/sys/kernel/pid_max, or start fewer nodes"
            ) from error
        if pid == 0:
            be_daemon(daemon, writer)
        os.close(writer)
        os.set_blocking(descriptor, False)
        daemon.process = processes.seen(pid)
        self._by_pid[pid] = daemon
        starting[descriptor] = _Starting(daemon, time.monotonic() + READY_TIMEOUT_S)
        self._selector.register(descriptor, selectors.EVENT_READ)

    def _await_reports(self, starting: dict[int, _Starting]) -> int:
        """Wait for the next reports of starting daemons; return how many became ready."""
        ready = 0
        deadline_s = min(one.deadline_s for one in starting.values())
        for key, _ in self._wait(deadline_s - time.monotonic()):
            if key.fileobj is self._client:
                raise Stopped
            one = starting.get(key.fd)
            if one is None:
                continue
            data = os.read(key.fd, REPORT_MAX_BYTES)
            one.report += data
            if data and not one.report.endswith(b"\n"):
                continue
            if one.report != b"ready\n":
                raise ClusterError(failure(one.daemon, bytes(one.report)))
            self._selector.unregister(key.fd)
            os.close(key.fd)
            del starting[key.fd]
            ready += 1
        if self._stop:
            raise Stopped
        for one in starting.values():
            if one.daemon.process is None or one.daemon.process.pid not in self._by_pid:
                raise ClusterError(failure(one.daemon, bytes(one.report)))
            if time.monotonic() > one.deadline_s:
                raise ClusterError(
                    f"{one.daemon.name}: not ready after {READY_TIMEOUT_S:g} s; {log_hint(one.daemon.log)}"
                )
        return ready

    # -- run ----------------------------------------------------------------------------------

    def watch(self) -> None:
        """Reap daemons and end their leftovers until a stop signal arrives or no daemon is left."""
        next_check_s = time.monotonic() + LOG_CHECK_S
        while not self._stop and self._by_pid:
            self._wait(next_check_s - time.monotonic())
            if time.monotonic() >= next_check_s:
                self._bound_logs()
                next_check_s = time.monotonic() + LOG_CHECK_S

    def _bound_logs(self) -> None:
        for daemon in self.daemons:
            try:
                if daemon.log.stat().st_size > LOG_MAX_BYTES:
                    # Daemons append, so they continue at the new end.
                    os.truncate(daemon.log, 0)
            except OSError:
                pass

    # -- stop ---------------------------------------------------------------------------------

    def take_down(self) -> None:
        """End all daemons, the first one last, and return when no descendant is left.

        SIGTERM, and after the grace time SIGKILL.
        """
        grace_s = STOP_GRACE_S + STOP_GRACE_PER_DAEMON_S * len(self.daemons)
        self._end(self.daemons[1:], grace_s)
        self._end(self.daemons[:1], STOP_GRACE_S)
        while descendants.children_of(os.getpid()):
            self._reap()
            self._end_orphans()
            self._wait(0.05)

    def _end(self, daemons: list[Daemon], grace_s: float) -> None:
        deadline_s = time.monotonic() + grace_s
        living = [one.process for one in daemons if one.process and one.process.pid in self._by_pid]
        for process in living:
            processes.send_signal(process, signal.SIGTERM)
        steps = [
            (deadline_s, signal.SIGKILL),
            (deadline_s - grace_s + STOP_AGAIN_S, signal.SIGTERM),
        ]
        while any(process.pid in self._by_pid for process in living):
            if steps and time.monotonic() >= steps[-1][0]:
                _, signum = steps.pop()
                for process in living:
                    processes.send_signal(process, signum)
            self._wait(steps[-1][0] - time.monotonic() if steps else 1.0)

    # -- children and signals -----------------------------------------------------------------

    def _wait(self, timeout_s: float) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events; reap children when one has ended."""
        events = self._selector.select(max(0.0, timeout_s))
        for key, _ in events:
            if key.fileobj is self._wakeup:
                self._take_signals()
                if self._reap():
                    self._end_orphans()
        return events

    def _reap(self) -> bool:
        some = False
        for pid, _ in reaped():
            some = True
            self._by_pid.pop(pid, None)
        return some

    def _end_orphans(self) -> None:
        """Kill children that are not daemons. When they end, this process inherits their children."""
        for pid in descendants.children_of(os.getpid()):
            if pid not in self._by_pid:
                process = processes.seen(pid)
                if process is not None:
                    processes.send_signal(process, signal.SIGKILL)

    def _install_signals(self) -> None:
        self._wakeup, writer = socket.socketpair()
        self._wakeup.setblocking(False)
        writer.setblocking(False)
        self._wakeup_writer = writer  # kept: closing it would end the wake-ups
        for signum in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(signum, lambda signum, frame: None)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wakeup, selectors.EVENT_READ)

    def _take_signals(self) -> None:
        try:
            signals = self._wakeup.recv(4096)
        except BlockingIOError:
            return
        if any(signum in STOP_SIGNALS for signum in signals):
            self._stop = True
