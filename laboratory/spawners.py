"""Simulated spawners: they check and start the processes of one daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gexec import limits
from gexec.core import events
from gexec.relay.ports import OrphanTask, ProcessEvent
from gexec.wire import messages
from gexec.wire import outcome as outcomes
from laboratory import moments
from laboratory.checks import starts
from laboratory.jobs import SimJob
from laboratory.keepers import SimKeeper
from laboratory.pipes import SimPipes
from laboratory.processes import SimProcess
from laboratory.queries import SimQuery

if TYPE_CHECKING:
    from laboratory.daemons import SimDaemon


class SimSpawner:
    """A gexec.relay.ports.ProcessPort: checks and starts a daemon's processes, and remembers them.

    Credentials issued before ``born_s`` are refused.
    """

    def __init__(self, daemon: SimDaemon) -> None:
        self.born_s = 0.0
        self._daemon = daemon
        self._cluster = daemon.cluster
        self._world = daemon.world
        self._started: set[tuple[bytes, int]] = set()
        self._told: dict[int, Callable[[ProcessEvent], None]] = {}
        self._processes: dict[int, SimProcess] = {}
        self._pipes: dict[int, SimPipes] = {}
        self._tasks = 0
        #: Tasks whose output is kept for the next relay, and what each task was started for.
        self._kept: dict[int, int] = {}
        self._ranks: dict[int, tuple[SimJob, int]] = {}

    def relay_died(self) -> list[tuple[SimJob, int, OrphanTask]]:
        """Return the tasks that outlive the relay; end the others."""
        outlasting = []
        self._told.clear()
        for number, pipes in self._pipes.items():
            if number in self._kept.values():
                pipes.orphan()
            else:
                pipes.close()
        for task, process in self._processes.items():
            if not process.runs or process.outlives or process.record.forgotten:
                continue
            job, rank = self._ranks[task]
            process.record.life += 1
            if task not in self._kept or process.record.life > limits.LIVES_MAX:
                process.kill(False)
                continue
            outputs = self._pipes[self._kept[task]].open_outputs
            orphan = OrphanTask(task, process.record.life, 0.0, outputs)
            self.hear_task(task, orphan.events.append)
            outlasting.append((job, rank, orphan))
        return outlasting

    def adopt_pipes(self, tell: Callable[[events.Event], None], outputs: dict[int, int]) -> SimPipes:
        """Return the pipes of a task that has outlived its relay."""
        if not outputs:
            return self.open_pipes(tell, False, False)
        pipes = self._pipes[next(iter(outputs.values()))]
        pipes.adopt(tell)
        return pipes

    def die(self) -> None:
        """The daemon is gone, with all its processes that have no keeper."""
        for process in self._processes.values():
            if not process.outlives:
                process.die(outcomes.killed(9))

    def open_pipes(
        self, tell: Callable[[events.Event], None], with_stdin: bool, with_output: bool
    ) -> SimPipes:
        """Return pipes, whose other ends ``run`` finds by their descriptors."""
        number = len(self._pipes)
        self._pipes[number] = SimPipes(self._daemon, number, tell, with_stdin, with_output)
        return self._pipes[number]

    def continue_pipes(self, number: int, tell: Callable[[events.Event], None]) -> SimPipes:
        """Return pipes for another relay."""
        self._pipes[number].continue_with(tell)
        return self._pipes[number]

    def open_task(self, told: Callable[[ProcessEvent], None]) -> int:
        """Return a number for a new task."""
        self._tasks += 1
        self._told[self._tasks] = told
        return self._tasks

    def hear_task(self, task: int, told: Callable[[ProcessEvent], None]) -> None:
        """Report the events of a task to another relay."""
        self._told[task] = told

    def close_task(self, task: int) -> None:
        """Report no more events of a task."""
        self._told.pop(task, None)

    def tell(self, task: int, event: ProcessEvent) -> None:
        """Report an event of a task to the relay, if the task is still open there."""
        if isinstance(event, messages.ProcessEnded):
            self._kept.pop(task, None)
        told = self._told.get(task)
        if told is not None:
            told(event)

    def _refusal(self, job: SimJob, rank: int) -> outcomes.Outcome | None:
        if self.born_s > job.issued_s:
            return outcomes.denied("the credential was issued before this gexecd started")
        if (job.id, rank) in self._started:
            return outcomes.denied("this job was started here before")
        if fault := self._daemon.credential_fault(job):
            return outcomes.denied(fault)
        return job.plans[rank].refusal

    def _answer(self, task: int, event: ProcessEvent) -> None:
        outlasting = self._daemon.outlasting
        self._world.after(self._world.rng.uniform(0.0005, 0.003), outlasting, self.tell, task, event)

    def check(self, task: int, rank: int, credential: bytes, blob: bytes) -> None:
        """Report whether a rank can be started."""
        refusal = self._refusal(self._cluster.jobs[credential], rank)
        refused = refusal and messages.ProcessRefused(task, refusal)
        self._answer(task, refused or messages.ProcessReady(task))

    def run(self, task: int, rank: int, credential: bytes, blob: bytes, fds: tuple[int, int, int]) -> None:
        """Start a rank."""
        job = self._cluster.jobs[credential]
        refusal = self._refusal(job, rank)
        if refusal is not None:
            self._answer(task, messages.ProcessRefused(task, refusal))
            return
        if self._cluster.moments.reached(moments.BEFORE_SPAWN, self._daemon.index):
            return
        self._started.add((job.id, rank))
        self._ranks[task] = job, rank
        record = job.records[rank]
        starts.at_start(rank, record)
        self._world.note("run", f"{rank}@{self._daemon.index}")
        self._processes[task] = self._begun(task, job, rank, fds)
        self._cluster.moments.reached(moments.AFTER_SPAWN, self._daemon.index)

    def _begun(self, task: int, job: SimJob, rank: int, fds: tuple[int, int, int]) -> SimProcess:
        if job.spec.background:
            return SimKeeper(self._daemon, task, job, rank).command
        plan, record = job.plans[rank], job.records[rank]
        grace_s, pipes = job.spec.kill_grace_s, self._pipes[fds[0]]
        if plan.query:
            asked = self._cluster.job.places.get(self._daemon.index)
            return SimQuery(self._daemon, task, plan, record, grace_s, pipes, asked)
        return SimProcess(self._daemon, task, plan, record, grace_s, pipes)

    def signal(self, task: int, signum: int) -> None:
        """Send a signal to its process group."""
        process = self._processes.get(task)
        if process is not None and not process.record.forgotten:
            process.signal(signum)

    def kill(self, task: int, now: bool) -> None:
        """End it and its leftovers."""
        process = self._processes.get(task)
        if process is not None and not process.record.forgotten:
            process.kill(now)

    def keep(self, task: int, fds: tuple[int, int]) -> None:
        """Keep its output for the next relay: here the pipes outlive every relay."""
        self._kept[task] = fds[0]

    def release(self, task: int) -> None:
        """Keep it no longer."""
        self._kept.pop(task, None)

    def forget(self, task: int) -> None:
        """Release it."""
        self._told.pop(task, None)
        self._processes[task].record.forgotten = True
