"""The spawner: the privileged half of gexecd. No network; one blocking poll loop.

It believes the relay nothing but the credential and the job that it signed (``spawner.admission``),
starts tasks of its own identity itself and those of other users through one helper process per
user (``spawner.helper``), and ends when its relay has gone and the tasks with it.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable
from typing import Final

from gexec.core.deadlines import earlier
from gexec.errors import CredentialError, ProtocolError
from gexec.posix import clock, descendants, memory
from gexec.posix.audit import AuditLog
from gexec.posix.channel import MessageLost, SpawnerPort
from gexec.posix.log import Log
from gexec.posix.loop import PollLoop
from gexec.security.policy import Account
from gexec.spawner.admission import Admission, Admitted
from gexec.spawner.auditing import AuditRecords, EndedTask
from gexec.spawner.checks import CHECKS_OF_USER_MAX, Checks
from gexec.spawner.helpers import Helper, Helpers
from gexec.spawner.launcher import Launcher
from gexec.spawner.starting import unexpected
from gexec.spawner.task import TaskProcess, mark_of
from gexec.wire import outcome
from gexec.wire.messages import (
    CHECK,
    RUN,
    Check,
    Event,
    ForgetProcess,
    KillProcess,
    Launch,
    LaunchSpec,
    ProcessEnded,
    ProcessLeft,
    ProcessReady,
    ProcessRefused,
    ProcessStarted,
    Request,
    RunProcess,
    SignalProcess,
)
from gexec.wire.outcome import Outcome

#: What a helper gets beyond a task's grace before it is ended itself.
_HELPER_PATIENCE_S: Final = 5.0
#: How long the news that a task runs may wait for the news that it has ended.
_STARTED_HELD_S: Final = 0.05
#: How long after a job what it left in memory is given back, if nothing runs then.
_TIDY_S: Final = 6.0
#: Turns of the loop that fail one after another before all is ended: five seconds of them.
_FAULTS_MAX: Final = 100
_FAULT_PAUSE_S: Final = 0.05
#: And of how many tasks at a time: the relay may wait for it with further launches.
_HELD_MAX: Final = 32
_NULL_DEVICE: Final = os.makedev(1, 3)
_STDIO: Final = ("stdin", "stdout", "stderr")
_CHILD: Final = int(signal.SIGCHLD)
#: Tasks that have ended and are remembered; the oldest are forgotten first.
_ENDED_MAX: Final = 4096
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class _Task:
    __slots__ = ("account", "helper", "kill_by_s", "launch", "pid", "since")

    def __init__(self, account: Account, launch: LaunchSpec) -> None:
        self.account = account
        self.launch = launch
        self.helper: Helper | None = None
        self.pid = 0
        self.kill_by_s: float | None = None
        self.since = descendants.ticks()

    def ended(self, number: int, ending: bool) -> TaskProcess:
        """Return the task as one that has just ended, by itself or not."""
        launch = self.launch
        task = TaskProcess(
            number,
            self.pid,
            mark_of(launch.job_id, launch.rank),
            uid=self.account.uid,
            since=self.since,
            kill_grace_s=launch.kill_grace_s,
            leaves=launch.leaves,
        )
        task.signalled = ending
        task.until, task.ended_s = descendants.ticks(), clock.now_s()
        return task


class Spawner:
    """The spawner's loop.

    Args:
        port: its end of the channel to the relay.
        relay_pid: the relay, our child; 0 if it is none (tests).
        admission: who may run what.
        audit, log: where it is told.
        tasks_max: tasks at the same time.
        on_signal: called with SIGHUP, SIGTERM and SIGINT.
        task_descriptors: the soft limit of descriptors that tasks get; None = this process's own.
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
        task_descriptors: int | None = None,
    ) -> None:
        self._port = port
        self._relay_pid = relay_pid
        self._admission = admission
        self._trail = AuditRecords(audit)
        self._log = log
        self._tasks_max = tasks_max
        self._on_signal = on_signal
        self._tasks: dict[int, _Task] = {}
        #: By task, oldest first: when it is told at the latest.
        self._held: dict[int, tuple[float, ProcessStarted]] = {}
        self._checks = Checks()
        self._tidy_by_s: float | None = None
        self._ended: dict[int, EndedTask] = {}
        #: The descriptors, signals and timers of this process.
        self.loop = PollLoop(self._signalled, self._fault)
        self._helpers = Helpers(self.loop, self._from_launcher, task_descriptors)
        self._launcher = Launcher(
            self._from_launcher,
            other_ended=self._other_ended,
            not_orphans=self._own_children,
            descriptors=task_descriptors,
        )
        self._identity = (os.geteuid(), os.getegid(), frozenset(os.getgroups()) | {os.getegid()})
        self._others: dict[int, Callable[[int], None]] = {}
        self._ending = False
        self._end_by_s = float("inf")
        self._is_faulty = False
        self._has_failed = False

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until the relay is gone and everything attached has ended.

        Returns 0, or 1 if it came to an end because turn after turn failed.
        """
        self.install_handlers()
        self.loop.watch(self._port.endpoint.fileno(), self._from_relay)
        self._launcher.reap()  # what ended before the handler was there
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
                self._log.error(f"{faults} turns in succession have failed: ending {len(self._tasks)} tasks")
                self._has_failed = True
                self.shut_down(now=True)
            elif faults > 1:
                time.sleep(_FAULT_PAUSE_S)
        return int(self._has_failed)

    def _turn(self) -> None:
        self.loop.turn(self._due_s())

    def _fault(self, error: Exception) -> None:
        """Note what went wrong in a turn: nothing that one user does may end everybody's tasks."""
        self._is_faulty = True
        self._log.error(f"unexpected {type(error).__name__}: {error}")

    def install_handlers(self) -> None:
        """Take the signals from now on; those that come before ``run`` are handled by it."""
        self.loop.take_signals(_HANDLED)

    @property
    def relay_pid(self) -> int:
        """The relay's pid, 0 once it was reaped."""
        return self._relay_pid

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
        grace_s = max([task.launch.kill_grace_s for task in self._tasks.values()], default=0.0)
        first = not self._ending
        self._ending = True
        self._end_by_s = clock.now_s() + (1.0 if now else grace_s) + 2 * _HELPER_PATIENCE_S
        if first:
            self.loop.unwatch(self._port.endpoint.fileno())
            self._port.endpoint.close()
        for number, task in list(self._tasks.items()):
            self._kill(number, task, now, "gexecd ends")
        self._launcher.end_all(now)
        self._helpers.dismiss_all()

    def retire_helpers(self) -> None:
        """Give new tasks to new helpers; the present ones end with their tasks."""
        self._helpers.retire_all()

    def _finished(self) -> bool:
        if not self._ending:
            return False
        if clock.now_s() > self._end_by_s:
            self._helpers.kill_all()
            self._end_by_s = float("inf") if self._helpers else self._end_by_s
        return not self._helpers and self._launcher.settled

    def _due_s(self) -> float | None:
        due_s = earlier(self._launcher.next_deadline_s(), self._kill_deadline_s())
        due_s = earlier(due_s, self._helpers.wake_s())
        for held_s, _ in self._held.values():
            due_s = earlier(due_s, held_s)
            break
        due_s = earlier(due_s, self._tidy_by_s)
        return earlier(due_s, clock.now_s() + 0.1) if self._ending else due_s

    def _tick(self) -> None:
        if self._held:
            now_s = clock.now_s()
            for number in [number for number, (due_s, _) in self._held.items() if due_s <= now_s]:
                self._tell_held(number)
        if self._tidy_by_s is not None and self._tidy_by_s <= clock.now_s():
            self._tidy()
        self._launcher.tick()
        self._helpers.wake()
        overdue_s = self._kill_deadline_s()
        if overdue_s is not None and overdue_s <= (now_s := clock.now_s()):
            for task in self._tasks.values():
                if task.helper is not None and task.kill_by_s is not None and task.kill_by_s <= now_s:
                    self._log.warning(f"the helper of {task.account.name} does not end its task: ending it")
                    task.kill_by_s = None
                    task.helper.end()

    def _tidy(self) -> None:
        """Forget what is kept for the next rank of a job, and give free memory back if nothing runs."""
        now_s = time.time()
        self._admission.expire(now_s)
        self._checks.expire(now_s)
        self._tidy_by_s = clock.now_s() + _TIDY_S if self._tasks or self._checks else None
        if not self._tasks:
            memory.trim()

    def _kill_deadline_s(self) -> float | None:
        due_s: float | None = None
        for task in self._tasks.values():
            due_s = earlier(due_s, task.kill_by_s)
        return due_s

    def _flush(self) -> None:
        self._helpers.flush()
        if not self._ending:
            endpoint = self._port.endpoint
            if endpoint.wants_write:
                try:
                    endpoint.flush()
                except OSError as error:
                    self._relay_gone(f"the relay cannot be told what it must know ({error.strerror})")
                    return
            self.loop.want_write(endpoint.fileno(), endpoint.wants_write)

    def _signalled(self, signum: int) -> None:
        if signum == _CHILD:
            self._launcher.reap()
        elif self._on_signal is not None:
            self._on_signal(signum)
        elif signum != signal.SIGHUP:
            self.shut_down(now=False)

    # -- the relay ---------------------------------------------------------------------------

    def _from_relay(self) -> None:
        try:
            request = self._port.receive()
        except ConnectionError:
            self._relay_gone("the relay has ended")
            return
        except MessageLost as lost:
            self._lost(lost)
            return
        except ProtocolError as broken:
            self._relay_gone(f"protocol violation by the relay: {broken}")
            return
        if request is None:
            return
        try:
            self._handle(request)
        except Exception as error:
            # One task's trouble is that task's: every other one goes on.
            self._log.error(f"task {request.task}: {type(error).__name__}: {error}")
            if isinstance(request, (RunProcess, Check)):
                self._give_up(request.task, request.rank, unexpected(error))

    def _lost(self, lost: MessageLost) -> None:
        """A request came for which there was no descriptor or memory."""
        if lost.kind in (RUN, CHECK):
            self._give_up(lost.task, lost.value, outcome.no_room(str(lost)))

    def _give_up(self, number: int, rank: int, refused: Outcome) -> None:
        """Refuse a task that cannot be dealt with; whatever was begun for it is ended."""
        self._checks.pop(number)
        task = self._tasks.get(number)
        if task is not None and (task.helper is not None or task.pid):
            self._kill(number, task, True, refused.text)
            return  # its end is reported as that of any other
        self._tasks.pop(number, None)
        self._refuse(number, rank, "resources", refused.text, refused)

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
        number = request.task
        if isinstance(request, RunProcess):
            self._run(number, request.rank, request.credential, request.blob, request.fds)
        elif isinstance(request, Check):
            self._check(number, request.rank, request.credential, request.blob)
        elif isinstance(request, SignalProcess):
            self._signal(number, request.signum)
        elif isinstance(request, KillProcess):
            self._checks.pop(number)
            task = self._tasks.get(number)
            if task is not None:
                self._kill(number, task, request.now, "asked for")
            else:
                self._ask_ended(request)
        elif isinstance(request, ForgetProcess):
            self._forget(number)
        elif isinstance(request, Launch):
            # Only ever said to a helper: a relay that says it wants to pass the checks by.
            _close_all(request.fds)
            self._relay_gone(f"the relay asked for an unchecked launch (task {number})")

    def _check(self, number: int, rank: int, credential: bytes, blob: bytes) -> None:
        admitted = self._admitted(number, rank, credential, blob)
        if admitted is None:
            return
        if self._checks.is_full(admitted.credential.uid):
            text = (
                f"{CHECKS_OF_USER_MAX} processes of {admitted.account.name}'s strict jobs wait to be started "
                "on this node, and no more may: run the job when those have begun"
            )
            self._refuse(number, rank, "busy", text, outcome.not_started(text))
            return
        uid, launch = admitted.credential.uid, admitted.launch
        until_s = admitted.credential.expires_s + self._admission.skew_s
        self._checks.add(number, (launch.job_id, launch.rank), uid, until_s)
        self._launch(number, admitted, ())

    def _run(self, number: int, rank: int, credential: bytes, blob: bytes, fds: tuple[int, ...]) -> None:
        admitted = None
        try:
            wrong = _wrong_fd(fds)
            if wrong:
                self._refuse(number, rank, "fds", wrong, None)
            else:
                admitted = self._admitted(number, rank, credential, blob)
        finally:
            if admitted is None:
                _close_all(fds)
        if admitted is not None:
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
        before = self._checks.pop(number)
        if self._tidy_by_s is None:
            self._tidy_by_s = clock.now_s() + _TIDY_S
        try:
            admitted = self._admission.admit(
                credential,
                blob,
                rank,
                now_s=time.time(),
                jobs_of=self._jobs_of,
                claimed=before,
            )
        except CredentialError as error:
            self._refuse(number, rank, error.code, str(error), None)
            return None
        self._trail.accepted(number, admitted)
        return admitted

    def _jobs_of(self, uid: int, but: bytes) -> int:
        return len({t.launch.job_id for t in self._tasks.values() if t.account.uid == uid} - {but})

    def _refuse(self, number: int, rank: int, code: str, text: str, refused: Outcome | None) -> None:
        self._trail.refused(number, rank, code, text)
        self.tell(ProcessRefused(number, refused or outcome.denied(text)))

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
            helper = self._helpers.for_account(account)
            helper.launch(Launch(number, launch, fds))
        except (OSError, ProtocolError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            refused = outcome.no_room(f"no process for {account.name}: {reason}")
            self._refuse(number, launch.rank, "helper", refused.text, refused)
            return
        finally:
            _close_all(fds)
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
            self._ask_ended(SignalProcess(number, signum))
        elif task.helper is None:
            self._launcher.signal(number, signum)
        else:
            task.helper.ask(SignalProcess(number, signum))

    def _kill(self, number: int, task: _Task, now: bool, reason: str) -> None:
        launch = task.launch
        self._trail.killed(number, launch, task.pid, now, reason)
        if task.helper is None:
            self._launcher.kill(number, now)
            return
        task.kill_by_s = clock.now_s() + (0 if now else launch.kill_grace_s) + _HELPER_PATIENCE_S
        # The user may have stopped its own helper; it is our unreaped child, so the pid is right.
        os.kill(task.helper.pid, signal.SIGCONT)
        task.helper.ask(KillProcess(number, now))

    def _forget(self, number: int) -> None:
        task = self._tasks.pop(number, None)
        if task is None:
            self._ask_ended(ForgetProcess(number))
            return
        if task.helper is None:
            self._launcher.forget(number)
            return
        task.helper.tasks.discard(number)
        task.helper.unanswered.pop(number, None)
        task.helper.detached.add(mark_of(task.launch.job_id, task.launch.rank))
        task.helper.ask(ForgetProcess(number))

    def _ask_ended(self, request: SignalProcess | KillProcess | ForgetProcess) -> None:
        """Pass on what concerns only what a task left behind when it ended by itself."""
        ended = self._ended.get(request.task)
        if ended is None:
            return
        if ended.helper_pid:
            helper = self._helpers.of_pid(ended.helper_pid)
            if helper is not None:
                os.kill(helper.pid, signal.SIGCONT)
                helper.ask(request)
        elif isinstance(request, KillProcess):
            self._launcher.kill(request.task, request.now)
        elif isinstance(request, SignalProcess):
            self._launcher.signal(request.task, request.signum)
        else:
            self._launcher.forget(request.task)

    def _from_launcher(self, event: Event) -> None:
        if isinstance(event, ProcessStarted):
            task = self._tasks[event.task]
            task.pid = event.pid
            self._trail.started(event.task, task.launch, task.account.uid, event.pid)
            self._hold(event)
            return
        if isinstance(event, ProcessEnded):
            done = self._tasks.pop(event.task, None)
            if done is not None:
                self._trail.ended(event.task, done.launch, done.pid, event.outcome)
                self._remember(event, done)
            self._held.pop(event.task, None)  # that it has ended says that it ran
        elif isinstance(event, ProcessRefused):
            gone = self._tasks.pop(event.task, None)
            self._checks.pop(event.task)
            rank = gone.launch.rank if gone else None
            self._trail.refused(event.task, rank, "start", event.outcome.text)
        elif isinstance(event, ProcessReady):
            self._tasks.pop(event.task, None)  # a check through a helper: the helper has no task of it
        elif isinstance(event, ProcessLeft):
            self._left(event)
            return
        self.tell(event)

    def _remember(self, event: ProcessEnded, task: _Task) -> None:
        """Keep what is needed to deal with what an ended task left behind."""
        number, helper = event.task, task.helper
        self._ended[number] = EndedTask(task.launch, task.account.uid, 0 if helper is None else helper.pid)
        if helper is not None:
            helper.task_ended(task.ended(number, event.ending))
        if len(self._ended) > _ENDED_MAX:
            self._ended.pop(next(iter(self._ended)))

    def _left(self, event: ProcessLeft) -> None:
        """Write down what a task left behind; the relay is told how many hold its output."""
        ended = self._ended.get(event.task)
        if ended is not None and not ended.told:
            ended.told = True
            self._trail.left(event, ended)
            if event.holders and ended.leaves:
                self.tell(ProcessLeft(event.task, event.holders))

    def _hold(self, event: ProcessStarted) -> None:
        """Keep it a moment: most commands end before it is told, and their end tells it too."""
        self._held[event.task] = (clock.now_s() + _STARTED_HELD_S, event)
        if len(self._held) > _HELD_MAX:
            self._tell_held(next(iter(self._held)))

    def _tell_held(self, number: int) -> None:
        held = self._held.pop(number, None)
        if held is not None:
            self.tell(held[1])

    # -- children that are no tasks ----------------------------------------------------------

    def _other_ended(self, pid: int, status: int) -> None:
        helper = self._helpers.reaped(pid)
        if helper is not None:
            self._helper_ended(helper)
        elif pid == self._relay_pid:
            self._relay_pid = 0
            self._relay_gone(f"the relay has ended (wait status {status})")
        elif pid in self._others:
            self._others.pop(pid)(status)

    def _helper_ended(self, helper: Helper) -> None:
        lost = helper.lost_tasks()
        for number in list(helper.tasks):
            task = self._tasks.get(number)
            name = task.account.name if task else str(helper.uid)
            if task is not None:
                lost.append(task.ended(number, True))
                text = f"the helper process of {name} was ended"
                self._from_launcher(ProcessEnded(number, outcome.lost(text), True))
        # All that it started is ours now, and would be nobody's.
        self._launcher.lost(lost, helper.left_marks(), helper.left_pids)

    def _own_children(self) -> set[int]:
        return {self._relay_pid, *self._helpers.pids, *self._others}


def _wrong_fd(fds: tuple[int, ...]) -> str | None:
    """Tell what is wrong with a task's stdio: only pipes and /dev/null are taken (attack 67)."""
    for number, fd in enumerate(fds):
        status = os.fstat(fd)
        pipe = stat.S_ISFIFO(status.st_mode)
        if not pipe and not (stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE):
            return f"{_STDIO[number]} from the relay is neither a pipe nor /dev/null"
    return None


def _close_all(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
