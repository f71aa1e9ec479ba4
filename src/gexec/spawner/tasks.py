"""Executes the relay's requests: the tasks of one node.

It trusts only the signed bytes (``spawner.admission``), writes each event of a task to the audit log
and reports it to the relay.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Final

from gexec.core.deadlines import earlier
from gexec.errors import CredentialError, ProtocolError
from gexec.posix import clock
from gexec.posix.dying import is_dying
from gexec.posix.log import Log
from gexec.posix.reaping import kill_groups
from gexec.security.credential import Credential
from gexec.security.policy import Account
from gexec.spawner.admission import Admission, Admitted
from gexec.spawner.auditing import AuditRecords, EndedTask
from gexec.spawner.helpers import Helpers
from gexec.spawner.launching import STARTER, Helper, LaunchedTask
from gexec.spawner.places import Places
from gexec.spawner.stdio import close_all, wrong_fd
from gexec.spawner.surviving import Surviving
from gexec.wire import outcome
from gexec.wire.launches import HelperEvent, Launch, LaunchCheck, LaunchSpec, LostTasks, ProcessRan
from gexec.wire.messages import (
    Check,
    ForgetProcess,
    KillProcess,
    ProcessEnded,
    ProcessEvent,
    ProcessLeft,
    ProcessReady,
    ProcessRefused,
    ProcessStarted,
    Request,
    RunProcess,
    SignalProcess,
)
from gexec.wire.outcome import Outcome

#: Time that a helper gets beyond a task's grace before the helper itself is ended.
HELPER_PATIENCE_S: Final = 5.0
#: Time between two removals of expired verified jobs and expired checks.
_TIDY_S: Final = 6.0
#: Maximum of ended tasks that are remembered; the oldest are forgotten first.
_ENDED_MAX: Final = 4096


class Tasks:
    """The tasks of one node, from the request to the end of their leftovers.

    Args:
        admission: decides who may run what.
        trail, log: the audit log, and the daemon's log, for the administrator.
        tell: sends an event to the relay.
        tasks_max: places for processes of all ordinary users together (``spawner.places``).

    Attributes:
        helpers: the processes that start the tasks; set before the first request.
        running, detached, ended: the tasks, by the relay's numbers.
    """

    helpers: Helpers

    def __init__(
        self,
        admission: Admission,
        trail: AuditRecords,
        log: Log,
        tell: Callable[[ProcessEvent], None],
        tasks_max: int,
    ) -> None:
        self._admission = admission
        self._trail = trail
        self._log = log
        self._tell = tell
        self.places = Places(tasks_max, os.geteuid())
        self.running: dict[int, LaunchedTask] = {}
        self.surviving = Surviving(self.running)
        self.detached: dict[int, LaunchedTask] = {}
        self.tidy_by_s: float | None = None
        self.ended: dict[int, EndedTask] = {}
        #: Processes of the starter's tasks when the starter ended.
        self.left_by_starter: list[int] = []

    def __len__(self) -> int:
        return len(self.running)

    @property
    def grace_s(self) -> float:
        """The longest grace of the running tasks."""
        return max([task.launch.kill_grace_s for task in self.running.values()], default=0.0)

    # -- the relay's requests ----------------------------------------------------------------

    def handle(self, request: Request) -> None:
        """Execute a request of the relay; an exception affects only the task that the request is about."""
        try:
            self._handle(request)
        except Exception as error:
            self._log.error(f"task {request.task}: {type(error).__name__}: {error}")
            if isinstance(request, RunProcess | Check):
                self.give_up(request.task, request.rank, outcome.unexpected(error))

    def give_up(self, number: int, rank: int, refused: Outcome) -> None:
        """Refuse a task that cannot be handled; end what was started for it."""
        task = self.running.get(number)
        if task is not None:
            self._kill(number, task, True, refused.text)
            return  # its end is reported like that of any other task
        self.places.give_check(number)
        self._refuse(number, rank, "resources", refused.text, refused)

    def _handle(self, request: Request) -> None:
        number = request.task
        if isinstance(request, RunProcess):
            self._run(number, request.rank, request.credential, request.blob, request.fds)
        elif isinstance(request, Check):
            self._check(number, request.rank, request.credential, request.blob)
        elif isinstance(request, SignalProcess):
            self._signal(number, request.signum)
        elif isinstance(request, KillProcess):
            task = self.running.get(number)
            if task is not None:
                self._kill(number, task, request.now, "asked for")
            else:
                self.places.give_check(number)
                self._ask_ended(request)
        elif isinstance(request, ForgetProcess):
            self._forget(number)
        else:
            self.surviving.handle(request)

    def _check(self, number: int, rank: int, credential: bytes, blob: bytes) -> None:
        admitted = self._admitted(number, rank, credential, blob)
        if admitted is not None:
            until_s = admitted.credential.expires_s + self._admission.skew_s
            self._launch(number, admitted, (), until_s)

    def _run(self, number: int, rank: int, credential: bytes, blob: bytes, fds: tuple[int, ...]) -> None:
        admitted = None
        try:
            wrong = wrong_fd(fds)
            if wrong:
                self._refuse(number, rank, "fds", wrong, None)
            else:
                admitted = self._admitted(number, rank, credential, blob)
        finally:
            if admitted is None:
                close_all(fds)
        if admitted is not None:
            self._launch(number, admitted, fds, None)

    def _admitted(self, number: int, rank: int, credential: bytes, blob: bytes) -> Admitted | None:
        """Return the rank that may be launched, or refuse it and return None."""
        if number in self.running or number in self.detached:
            self._refuse(number, rank, "task", f"task {number} already runs", None)
            return None
        before = self.places.claimed(number)
        if self.tidy_by_s is None:
            self.tidy_by_s = clock.now_s() + _TIDY_S
        try:
            admitted = self._admission.admit(
                credential,
                blob,
                rank,
                now_s=time.time(),
                jobs_of=self.places.jobs_of,
                claimed=before,
            )
        except CredentialError as error:
            self.places.give(number)
            self._refuse(number, rank, error.code, str(error), None, self._admission.verified)
            return None
        full = None if before is not None else self.places.refusal(admitted.credential.uid)
        if full is not None:
            self._refuse(number, rank, "busy", full, outcome.not_started(full), admitted.credential)
            return None
        # If it was checked before, there is a line since then.
        if before != admitted.claim and not self._trail.accepted(number, admitted):
            self._refuse(number, rank, "audit", self._trail.refusal, None, admitted.credential)
            return None
        return admitted

    def _refuse(
        self,
        number: int,
        rank: int,
        code: str,
        text: str,
        refused: Outcome | None,
        credential: Credential | None = None,
    ) -> None:
        self._trail.refused(number, rank, code, text, credential)
        self._tell(ProcessRefused(number, refused or outcome.denied(text)))

    # -- helpers -----------------------------------------------------------------------------

    def _launch(
        self, number: int, admitted: Admitted, fds: tuple[int, ...], checked_until_s: float | None
    ) -> None:
        account, launch = admitted.account, admitted.launch
        self.places.take(number, account.uid, admitted.claim, checked_until_s)
        try:
            helper = self.helpers.for_tasks(admitted.becoming)
            helper.launch(Launch(number, launch, fds) if fds else LaunchCheck(number, launch))
        except (OSError, ProtocolError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self.places.give(number)
            self._no_process(number, account, launch, reason)
            return
        finally:
            close_all(fds)
        launch.argv = launch.env = []  # the helper has them: a user's tasks must not keep a MiB each here
        self.running[number] = LaunchedTask(account, launch, helper, admitted.digest)

    def _no_process(
        self, number: int, account: Account, launch: LaunchSpec, reason: str, denied: bool = False
    ) -> None:
        if denied:
            refused = outcome.denied(reason)
        else:
            refused = outcome.no_room(f"no process for {account.name}: {reason}")
        self._trail.not_started(number, (account, launch), "pam" if denied else "helper", refused.text)
        self._tell(ProcessRefused(number, refused))

    def _signal(self, number: int, signum: int) -> None:
        task = self.running.get(number)
        if task is None:
            self._ask_ended(SignalProcess(number, signum))
        else:
            task.helper.ask(SignalProcess(number, signum))

    def _kill(self, number: int, task: LaunchedTask, now: bool, reason: str) -> None:
        launch = task.launch
        if task.told_kills <= now:  # a relay can repeat the request without end
            task.told_kills = 1 + now
            self._trail.killed(number, task, now, reason)
        if task.helper.number != STARTER:
            task.kill_by_s = clock.now_s() + (0 if now else launch.kill_grace_s) + HELPER_PATIENCE_S
        task.helper.resume()  # the user may have stopped the helper
        task.helper.ask(KillProcess(number, now))

    def _forget(self, number: int) -> None:
        task = self.running.pop(number, None)
        if task is None:
            self._ask_ended(ForgetProcess(number))
            return
        task.helper.tasks.discard(number)
        task.helper.unanswered.pop(number, None)
        task.helper.detached[number] = task.mark
        self.detached[number] = task
        task.helper.ask(ForgetProcess(number))

    def _ask_ended(self, request: SignalProcess | KillProcess | ForgetProcess) -> None:
        """Pass on a request about a task that has ended, for its leftovers."""
        ended = self.ended.get(request.task)
        helper = None if ended is None else self.helpers.of_number(ended.helper)
        if helper is not None:
            helper.resume()
            helper.ask(request)

    def from_helper(self, said: HelperEvent) -> None:
        """Handle an event that a helper reports: write it to the audit log, and send it to the relay."""
        event: ProcessEvent
        detached = self.detached.pop(said.task, None)
        if detached is not None:
            self.places.give(said.task)
            if not isinstance(said, ProcessStarted | ProcessReady | ProcessLeft):
                self._trail.ended(said.task, detached, said.outcome)
            return
        if isinstance(said, ProcessRan):
            self._started(said.task, said.pid)
            event = ProcessEnded(said.task, said.outcome, said.ending)  # for the relay it implies the start
        else:
            event = said
        if isinstance(event, ProcessStarted):
            self._started(event.task, event.pid)
        elif isinstance(event, ProcessEnded):
            self.places.give(event.task)
            done = self.running.pop(event.task, None)
            if done is not None:
                done.keep(())
                self._trail.ended(event.task, done, event.outcome)
                self._remember(event, done)
        elif isinstance(event, ProcessRefused):
            gone = self.running.pop(event.task, None)
            self.places.give(event.task)
            about = (gone.account, gone.launch) if gone else None
            self._trail.not_started(event.task, about, "start", event.outcome.text)
        elif isinstance(event, ProcessReady):
            self.running.pop(event.task, None)  # a check makes no task in the helper
        elif isinstance(event, ProcessLeft):
            self._left(event)
            return
        self._tell(event)

    def _started(self, number: int, pid: int) -> None:
        task = self.running[number]
        task.pid = pid
        task.started_s = clock.now_s()
        self._trail.started(number, task)

    def _remember(self, event: ProcessEnded, task: LaunchedTask) -> None:
        """Keep what is needed to handle the leftovers of an ended task."""
        self.ended[event.task] = EndedTask(task.launch, task.account.uid, task.helper.number)
        task.helper.task_ended(event.task, task, event.ending)
        if len(self.ended) > _ENDED_MAX:
            self.ended.pop(next(iter(self.ended)))

    def _left(self, event: ProcessLeft) -> None:
        """Record a task's leftovers; report to the relay how many of them hold the task's output."""
        ended = self.ended.get(event.task)
        if ended is not None and not ended.told:
            ended.told = True
            self._trail.left(event, ended)
            if event.holders and ended.leaves:
                self._tell(ProcessLeft(event.task, event.holders))

    def helper_gone(self, helper: Helper, why: str, denied: bool) -> LostTasks:
        """Handle a helper that ended, could not begin (``why``), or must not (``denied``).

        Returns its tasks for the starter.
        """
        running = [(number, task) for number, task in self.running.items() if task.helper is helper]
        lost = helper.lost_tasks([] if why else running)
        for number in helper.detached:  # they continue, and nobody reports their ends any more
            self.detached.pop(number, None)
            self.places.give(number)
        for number, task in running:
            if why:
                del self.running[number]
                self.places.give(number)
                self._no_process(number, task.account, task.launch, why, denied)
            else:
                if helper.number == STARTER and task.pid:
                    self.left_by_starter.append(task.pid)
                text = f"the helper process of {task.account.name} was ended"
                self.from_helper(ProcessEnded(number, outcome.lost(text), True))
        return lost

    def starter_reaped(self) -> None:
        """Kill the processes of the starter's tasks. They are children of this process now.

        Not before: a process that ends closes its channel before it gives its children away.
        """
        kill_groups(self.left_by_starter)
        self.left_by_starter.clear()

    # -- time --------------------------------------------------------------------------------

    def kill_all(self, now: bool, why: str = "gexecd ends", numbers: Iterable[int] | None = None) -> None:
        """End these tasks, or all, for this reason."""
        for number in list(self.running) if numbers is None else numbers:
            self._kill(number, self.running[number], now, why)

    def next_deadline_s(self) -> float | None:
        """Return when ``tick`` is due (``posix.clock``), or None."""
        return earlier(self.tidy_by_s, self._kill_deadline_s())

    def tick(self) -> bool:
        """Do what is due. Returns True if no task runs and free memory may be returned to the kernel."""
        now_s = clock.now_s()
        overdue_s = self._kill_deadline_s()
        if overdue_s is not None and overdue_s <= now_s:
            self._end_overdue(now_s)
        if self.tidy_by_s is None or self.tidy_by_s > now_s:
            return False
        unix_s = time.time()
        self._admission.expire(unix_s)
        self.places.expire(unix_s)
        self.tidy_by_s = now_s + _TIDY_S if self.running or self.places.checked else None
        return not self.running

    def _end_overdue(self, now_s: float) -> None:
        for task in self.running.values():
            if task.kill_by_s is not None and task.kill_by_s <= now_s:
                task.kill_by_s = None
                user = task.account.name
                if task.pid and is_dying(task.pid):
                    # The helper has done what it can, and may have other tasks.
                    self._log.warning(
                        f"process {task.pid} of {user} does not end on SIGKILL: its storage hangs?"
                    )
                    continue
                self._log.warning(f"the helper of {user} does not end its task: ending it")
                task.helper.end()

    def _kill_deadline_s(self) -> float | None:
        due_s: float | None = None
        for task in self.running.values():
            due_s = earlier(due_s, task.kill_by_s)
        return due_s
