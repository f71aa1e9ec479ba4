"""The spawner: the privileged half of gexecd. No network; one blocking poll loop.

It believes the relay nothing but the credential and the job that it signed (``daemon.vetting``),
starts tasks of its own identity itself and those of other users through one helper process per
user (``proc.helper``), and ends when its relay has gone and the tasks with it.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import stat
import time
from collections.abc import Callable

from gexec.core import outcome
from gexec.core.outcome import Outcome
from gexec.daemon.vetting import Admission, Admitted
from gexec.errors import CredentialError, ProtocolError
from gexec.observe.audit import AuditLog
from gexec.observe.log import Log
from gexec.proc.channel import HelperPort, SpawnerPort
from gexec.proc.helper import fork_helper
from gexec.proc.launcher import Launcher, mark_of
from gexec.proc.messages import (
    Check,
    Event,
    ForgetTask,
    KillTask,
    Launch,
    LaunchSpec,
    Request,
    Run,
    SignalTask,
    TaskEnded,
    TaskReady,
    TaskRefused,
    TaskStarted,
)
from gexec.security.policy import Account

#: A helper takes no new tasks after this long, so that a user's new groups come to count.
_HELPER_AGE_MAX_S = 600.0
#: What a helper gets beyond a task's grace before it is ended itself.
_HELPER_PATIENCE_S = 5.0
_NULL_DEVICE = os.makedev(1, 3)
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class _Helper:
    __slots__ = ("detached", "made_s", "pid", "port", "tasks", "uid")

    def __init__(self, pid: int, port: HelperPort, uid: int) -> None:
        self.pid = pid
        self.port = port
        self.uid = uid
        self.made_s = time.monotonic()
        self.tasks: set[int] = set()
        self.detached: set[tuple[bytes, ...]] = set()


class _Task:
    __slots__ = ("account", "helper", "kill_by_s", "launch", "pid")

    def __init__(self, account: Account, launch: LaunchSpec) -> None:
        self.account = account
        self.launch = launch
        self.helper: _Helper | None = None
        self.pid = 0
        self.kill_by_s: float | None = None


class Spawner:
    """The spawner's loop.

    Args:
        port: its end of the channel to the relay.
        relay_pid: the relay, our child; 0 if it is none (tests).
        admission: who may run what.
        audit, log: where it is told.
        tasks_max: tasks at the same time.
        on_signal: called with SIGHUP, SIGTERM and SIGINT.
    """

    def __init__(
        self,
        *,
        port: SpawnerPort,
        relay_pid: int,
        admission: Admission,
        audit: AuditLog,
        log: Log,
        tasks_max: int = 65_536,
        on_signal: Callable[[int], None] | None = None,
    ) -> None:
        self._port = port
        self._relay_pid = relay_pid
        self._admission = admission
        self._audit = audit
        self._log = log
        self._tasks_max = tasks_max
        self._on_signal = on_signal
        self._tasks: dict[int, _Task] = {}
        self._checked: dict[int, Admitted] = {}
        self._helpers: dict[int, _Helper] = {}  # by pid
        self._helper_of: dict[int, _Helper] = {}  # by uid: the one that takes new tasks
        self._launcher = Launcher(
            self._from_launcher, other_ended=self._other_ended, not_orphans=self._own_children
        )
        self._identity = (os.geteuid(), os.getegid(), frozenset(os.getgroups()) | {os.getegid()})
        self._poller = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timers_made = 0
        self._others: dict[int, Callable[[int], None]] = {}
        self._ending = False
        self._end_by_s = float("inf")
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until the relay is gone and everything attached has ended; return 0."""
        self.install_handlers()
        self.watch(self._wake_read, self._woken)
        self.watch(self._port.endpoint.fileno(), self._from_relay)
        self._launcher.reap()  # what ended before the handler was there
        while not self._finished():
            for fd, _ in self._poller.poll(self._timeout_ms()):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler()
            self._tick()
            self._want_writes()
        return 0

    def install_handlers(self) -> None:
        """Take the signals from now on; those that come before ``run`` are handled by it."""
        for signum in _HANDLED:
            signal.signal(signum, _noted)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    @property
    def relay_pid(self) -> int:
        """The relay's pid, 0 once it was reaped."""
        return self._relay_pid

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` whenever the descriptor is readable or at its end."""
        self._handlers[fd] = handler
        self._poller.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Watch the descriptor no more; before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def call_at(self, when_s: float, callback: Callable[[], None]) -> None:
        """Call once, at this monotonic time."""
        self._timers_made += 1
        heapq.heappush(self._timers, (when_s, self._timers_made, callback))

    def adopt(self, pid: int, ended: Callable[[int], None]) -> None:
        """Reap this child of ours too and call ``ended`` with its wait status."""
        self._others[pid] = ended

    def tell(self, event: Event) -> None:
        """Send an event to the relay, if it is still there."""
        if not self._ending:
            try:
                self._port.tell(event)
            except ProtocolError as error:
                self._relay_gone(str(error))

    def shut_down(self, now: bool) -> None:
        """End all attached tasks, then the loop; ``now`` with SIGKILL at once."""
        grace_s = max((task.launch.kill_grace_s for task in self._tasks.values()), default=0.0)
        first = not self._ending
        self._ending = True
        self._end_by_s = time.monotonic() + (1.0 if now else grace_s) + 2 * _HELPER_PATIENCE_S
        if first:
            self.unwatch(self._port.endpoint.fileno())
            self._port.endpoint.close()
        for number, task in list(self._tasks.items()):
            self._kill(number, task, now, "gexecd ends")
        self._launcher.end_all(now)
        for helper in self._helpers.values():
            self._dismiss(helper)

    def retire_helpers(self) -> None:
        """Give new tasks to new helpers; the present ones end with their tasks."""
        for uid in list(self._helper_of):
            self._retire(uid)

    def _finished(self) -> bool:
        if not self._ending:
            return False
        if time.monotonic() > self._end_by_s:
            for helper in list(self._helpers.values()):
                os.kill(helper.pid, signal.SIGKILL)
            self._end_by_s = float("inf") if self._helpers else self._end_by_s
        return not self._helpers and self._launcher.settled

    def _timeout_ms(self) -> int:
        dues = [due for due in (self._launcher.next_deadline_s(), self._kill_deadline_s()) if due is not None]
        if self._timers:
            dues.append(self._timers[0][0])
        if self._ending:
            dues.append(time.monotonic() + 0.1)
        if not dues:
            return -1
        return max(0, int((min(dues) - time.monotonic()) * 1000) + 1)

    def _tick(self) -> None:
        self._launcher.tick()
        now_s = time.monotonic()
        while self._timers and self._timers[0][0] <= now_s:
            heapq.heappop(self._timers)[2]()
        overdue = self._kill_deadline_s()
        if overdue is not None and overdue <= now_s:
            for task in self._tasks.values():
                if task.helper is not None and task.kill_by_s is not None and task.kill_by_s <= now_s:
                    self._log.warning(f"the helper of {task.account.name} does not end its task: ending it")
                    task.kill_by_s = None
                    os.kill(task.helper.pid, signal.SIGKILL)

    def _kill_deadline_s(self) -> float | None:
        return min((t.kill_by_s for t in self._tasks.values() if t.kill_by_s is not None), default=None)

    def _want_writes(self) -> None:
        endpoints = [helper.port.endpoint for helper in self._helpers.values()]
        if not self._ending:
            endpoints.append(self._port.endpoint)
        for endpoint in endpoints:
            if endpoint.wants_write:
                endpoint.flush()
            if endpoint.fileno() in self._handlers:
                wanted = select.POLLIN | (select.POLLOUT if endpoint.wants_write else 0)
                self._poller.modify(endpoint.fileno(), wanted)

    def _woken(self) -> None:
        signums = set(os.read(self._wake_read, 4096))
        if signal.SIGCHLD in signums:
            self._launcher.reap()
        for signum in signums - {signal.SIGCHLD}:
            if self._on_signal is not None:
                self._on_signal(signum)
            elif signum != signal.SIGHUP:
                self.shut_down(now=False)

    # -- the relay ---------------------------------------------------------------------------

    def _from_relay(self) -> None:
        try:
            requests = self._port.receive()
        except ConnectionError:
            self._relay_gone("the relay has ended")
            return
        except (ProtocolError, OSError) as error:
            self._relay_gone(f"the relay said what no relay says: {error}")
            return
        for request in requests:
            self._handle(request)

    def _relay_gone(self, why: str) -> None:
        if not self._ending:
            self._log.info(f"{why}: ending {len(self._tasks)} tasks")
            self.shut_down(now=False)
            if self._relay_pid:
                try:
                    os.kill(self._relay_pid, signal.SIGTERM)
                except ProcessLookupError:
                    self._relay_pid = 0

    def _handle(self, request: Request) -> None:
        match request:
            case Run(number, rank, credential, blob, fds):
                self._run(number, rank, credential, blob, fds)
            case Check(number, rank, credential, blob):
                self._check(number, rank, credential, blob)
            case SignalTask(number, signum):
                self._signal(number, signum)
            case KillTask(number, now):
                self._checked.pop(number, None)
                task = self._tasks.get(number)
                if task is not None:
                    self._kill(number, task, now, "asked for")
            case ForgetTask(number):
                self._forget(number)
            case Launch(number, _, fds):
                # Only ever said to a helper: a relay that says it wants to pass the checks by.
                _close_all(fds)
                self._relay_gone(f"the relay asked for an unchecked launch (task {number})")

    def _check(self, number: int, rank: int, credential: bytes, blob: bytes) -> None:
        admitted = self._admitted(number, rank, credential, blob)
        if admitted is None:
            return
        self._checked[number] = admitted
        self._launch(number, admitted, ())

    def _run(self, number: int, rank: int, credential: bytes, blob: bytes, fds: tuple[int, ...]) -> None:
        wrong = _wrong_fd(fds)
        admitted = None
        if wrong:
            self._refuse(number, rank, "fds", wrong, None)
        else:
            admitted = self._admitted(number, rank, credential, blob)
        if admitted is None:
            _close_all(fds)
            return
        self._launch(number, admitted, fds)

    def _admitted(self, number: int, rank: int, credential: bytes, blob: bytes) -> Admitted | None:
        """Return what may be launched, or refuse it and return None."""
        if number in self._tasks:
            self._refuse(number, rank, "task", f"task {number} already runs", None)
            return None
        if len(self._tasks) >= self._tasks_max:
            text = f"this node runs {len(self._tasks)} tasks: at most {self._tasks_max} are allowed"
            self._refuse(number, rank, "busy", text, outcome.not_started(text))
            return None
        before = self._checked.pop(number, None)
        try:
            admitted = self._admission.admit(
                credential,
                blob,
                rank,
                now_s=time.time(),
                jobs_of=self._jobs_of,
                claimed=None if before is None else (before.launch.job_id, before.launch.rank),
            )
        except CredentialError as error:
            self._refuse(number, rank, error.code, str(error), None)
            return None
        self._audit_admitted(number, admitted)
        return admitted

    def _jobs_of(self, uid: int, but: bytes) -> int:
        return len({t.launch.job_id for t in self._tasks.values() if t.account.uid == uid} - {but})

    def _refuse(self, number: int, rank: int, code: str, text: str, refused: Outcome | None) -> None:
        self._audit.write("deny", task=number, rank=rank, code=code, reason=text)
        self.tell(TaskRefused(number, refused or outcome.denied(text)))

    def _audit_admitted(self, number: int, admitted: Admitted) -> None:
        credential, launch = admitted.credential, admitted.launch
        self._audit.write(
            "accept",
            task=number,
            job=launch.job_id.hex(),
            rank=launch.rank,
            user=credential.user,
            uid=credential.uid,
            origin=credential.host,
            node=admitted.job.names[launch.rank],
            program=launch.program,
            argv=_clipped(launch.argv),
            cwd=launch.cwd,
        )

    # -- tasks -------------------------------------------------------------------------------

    def _launch(self, number: int, admitted: Admitted, fds: tuple[int, ...]) -> None:
        account, launch = admitted.account, admitted.launch
        if self._is_own(account):
            if fds:
                self._tasks[number] = _Task(account, launch)
                self._launcher.start(number, launch, fds)
            else:
                self._launcher.check(number, launch)
            return
        try:
            helper = self._helper_for(account)
            helper.port.ask(Launch(number, launch, fds))
        except (OSError, ProtocolError) as error:
            text = f"no helper for {account.name} on this node: {error}"
            self._refuse(number, launch.rank, "helper", text, outcome.not_started(text))
            return
        finally:
            _close_all(fds)
        helper.tasks.add(number)
        task = self._tasks[number] = _Task(account, launch)
        task.helper = helper

    def _is_own(self, account: Account) -> bool:
        uid, gid, groups = self._identity
        if uid != 0:
            return True  # nobody else gets this far
        return account.uid == 0 and account.gid == gid and frozenset(account.gids) | {gid} == groups

    def _signal(self, number: int, signum: int) -> None:
        task = self._tasks.get(number)
        if task is None:
            return
        if task.helper is None:
            self._launcher.signal(number, signum)
        else:
            self._ask(task.helper, SignalTask(number, signum))

    def _kill(self, number: int, task: _Task, now: bool, reason: str) -> None:
        launch = task.launch
        self._audit.write(
            "kill",
            task=number,
            job=launch.job_id.hex(),
            rank=launch.rank,
            pid=task.pid,
            now=now,
            reason=reason,
        )
        if task.helper is None:
            self._launcher.kill(number, now)
            return
        task.kill_by_s = time.monotonic() + (0 if now else launch.kill_grace_s) + _HELPER_PATIENCE_S
        # The user may have stopped its own helper; it is our unreaped child, so the pid is right.
        os.kill(task.helper.pid, signal.SIGCONT)
        self._ask(task.helper, KillTask(number, now))

    def _forget(self, number: int) -> None:
        task = self._tasks.pop(number, None)
        if task is None:
            return
        if task.helper is None:
            self._launcher.forget(number)
            return
        task.helper.tasks.discard(number)
        task.helper.detached.add(mark_of(task.launch.job_id, task.launch.rank))
        self._ask(task.helper, ForgetTask(number))

    def _from_launcher(self, event: Event) -> None:
        match event:
            case TaskStarted(number, pid):
                task = self._tasks[number]
                task.pid = pid
                launch = task.launch
                self._audit.write(
                    "exec",
                    task=number,
                    job=launch.job_id.hex(),
                    rank=launch.rank,
                    uid=task.account.uid,
                    pid=pid,
                )
            case TaskRefused(number, refused):
                gone = self._tasks.pop(number, None)
                self._checked.pop(number, None)
                rank = gone.launch.rank if gone else None
                self._audit.write("deny", task=number, rank=rank, code="start", reason=refused.text)
            case TaskEnded(number, ended):
                self._ended(number, ended)
            case TaskReady(number) if number in self._tasks:
                del self._tasks[number]  # a check through a helper: the helper has no task of it
        self.tell(event)

    def _ended(self, number: int, ended: Outcome) -> None:
        task = self._tasks.pop(number, None)
        if task is not None:
            launch = task.launch
            self._audit.write(
                "exit",
                task=number,
                job=launch.job_id.hex(),
                rank=launch.rank,
                pid=task.pid,
                outcome=ended.describe(),
            )

    # -- helpers -----------------------------------------------------------------------------

    def _helper_for(self, account: Account) -> _Helper:
        helper = self._helper_of.get(account.uid)
        if helper is not None and time.monotonic() - helper.made_s > _HELPER_AGE_MAX_S:
            self._retire(account.uid)
            helper = None
        if helper is None:
            pid, port = fork_helper(account.uid, account.gid, account.gids)
            helper = _Helper(pid, port, account.uid)
            self._helpers[pid] = self._helper_of[account.uid] = helper
            self.watch(port.endpoint.fileno(), lambda: self._from_helper(helper))
        return helper

    def _ask(self, helper: _Helper, request: Request) -> None:
        try:
            helper.port.ask(request)
        except ProtocolError:
            os.kill(helper.pid, signal.SIGKILL)  # it has left a thousand messages unread

    def _from_helper(self, helper: _Helper) -> None:
        try:
            events = helper.port.receive()
        except (ConnectionError, ProtocolError, OSError):
            # Ended by idleness or by its user's hand; reaping it does the rest.
            self.unwatch(helper.port.endpoint.fileno())
            self._forsake(helper)
            if helper.pid in self._helpers:
                os.kill(helper.pid, signal.SIGTERM)
            return
        for event in events:
            number = getattr(event, "task", None)
            if number not in helper.tasks:
                continue  # forgotten meanwhile; or none of its business
            if isinstance(event, (TaskRefused, TaskEnded, TaskReady)):
                helper.tasks.discard(number)
            self._from_launcher(event)
        if helper is not self._helper_of.get(helper.uid) and not helper.tasks and not helper.detached:
            self._dismiss(helper)

    def _retire(self, uid: int) -> None:
        helper = self._helper_of.pop(uid, None)
        if helper is not None and not helper.tasks and not helper.detached:
            self._dismiss(helper)

    def _forsake(self, helper: _Helper) -> None:
        if self._helper_of.get(helper.uid) is helper:
            del self._helper_of[helper.uid]

    def _dismiss(self, helper: _Helper) -> None:
        """Close a helper's channel: it ends its attached tasks and then itself."""
        self._forsake(helper)
        endpoint = helper.port.endpoint
        if endpoint.fileno() >= 0:
            endpoint.flush()
            self.unwatch(endpoint.fileno())
            endpoint.close()

    def _other_ended(self, pid: int, status: int) -> None:
        helper = self._helpers.pop(pid, None)
        if helper is not None:
            self._helper_ended(helper)
        elif pid == self._relay_pid:
            self._relay_pid = 0
            self._relay_gone(f"the relay has ended (wait status {status})")
        elif pid in self._others:
            self._others.pop(pid)(status)

    def _helper_ended(self, helper: _Helper) -> None:
        if helper.port.endpoint.fileno() >= 0 and helper.port.endpoint.fileno() in self._handlers:
            self._from_helper(helper)  # what it said before it ended
        self._dismiss(helper)
        for number in list(helper.tasks):
            task = self._tasks.get(number)
            name = task.account.name if task else str(helper.uid)
            if task is not None:
                self._from_launcher(
                    TaskEnded(number, outcome.lost(f"the helper process of {name} was ended"))
                )
        # All that it started is ours now, and would be nobody's.
        self._launcher.hunt(helper.uid, helper.detached)

    def _own_children(self) -> set[int]:
        return {self._relay_pid, *self._helpers, *self._others}


def _noted(signum: int, frame: object) -> None:
    """Let the wake-up descriptor do the telling."""


def _clipped(argv: list[bytes]) -> list[bytes]:
    shown = [argument[:256] for argument in argv[:32]]
    if len(argv) > 32:
        shown.append(b"... (%d in all)" % len(argv))
    return shown


def _wrong_fd(fds: tuple[int, ...]) -> str | None:
    """Tell what is wrong with a task's stdio: only pipes and /dev/null are taken (attack 67)."""
    for name, fd in zip(("stdin", "stdout", "stderr"), fds, strict=True):
        status = os.fstat(fd)
        null = stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE
        if not null and not stat.S_ISFIFO(status.st_mode):
            return f"{name} from the relay is neither a pipe nor /dev/null"
    return None


def _close_all(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
