"""Simulated daemons: the relay's own code for jobs (gexec.relay.jobs) on simulated ports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from gexec import limits
from gexec.core import events
from gexec.core.node import Node
from gexec.core.root import Root
from gexec.core.saving import Saved
from gexec.core.states import BrokenInvariantError
from gexec.relay.job import RelayJob
from gexec.relay.jobs import Jobs
from gexec.relay.pool import may_carry
from gexec.relay.ports import LinkPort, ProcessEvent
from gexec.relay.quotas import Quotas
from gexec.relay.turns import Turns
from gexec.security.credential import Credential
from gexec.security.quota import Shares
from gexec.settings.config import GexecdSettings
from gexec.wire import denials, messages
from gexec.wire import outcome as outcomes
from gexec.wire.jobspec import JobSpec
from laboratory.links import SimEnd, SimLink
from laboratory.pipes import SimPipes
from laboratory.processes import Plan, ProcessRecord, SimProcess
from laboratory.upgrades import UID, Outlasting
from laboratory.world import SimTimers, Violation, World

ROOT = -1
JOB_ID = b"simulated job id"
#: The name of the root's host.
HEAD = "head"
CREDENTIAL = b"a credential"
#: Checking a machine costs as much as a step of it, so only one seed of eight checks at every step.
VALIDATES_EVERY = (1, *(16,) * 7)
SETTINGS = GexecdSettings()


class Cluster:
    """Everything that daemons share: the daemons by name, each rank's plan, and the record of what it did."""

    def __init__(self, world: World, spec: JobSpec, plans: list[Plan], dials: int) -> None:
        self.world = world
        self.dials = dials
        self.spec = spec
        self.blob = spec.encode()
        self.plans = plans
        self.records = [ProcessRecord() for _ in plans]
        #: Every job machine that ever existed, with its daemon's index.
        self.machines: list[tuple[int, Node | Root]] = []
        self.entry = SimEntry(spec, self.blob)
        self.root = SimDaemon(self, ROOT)
        self.nodes = [SimDaemon(self, rank) for rank in range(len(plans))]
        self.by_name = dict(zip(spec.names, self.nodes, strict=True))
        self.link_numbers = 0
        #: How often a machine's invariants are checked: at every step, or at every n-th of all machines.
        self.validates_every = Random(f"checks of {world.seed}").choice(VALIDATES_EVERY)
        self.steps = 0
        #: Ranks to which a captured relay may do everything.
        self.betrayed: frozenset[int] = frozenset()

    @property
    def daemons(self) -> list[SimDaemon]:
        """All of them, the root's first."""
        return [self.root, *self.nodes]


class SimEntry:
    """A gexec.relay.ports.EntryPort: the only credential is valid, and only for the job's own bytes."""

    def __init__(self, spec: JobSpec, blob: bytes) -> None:
        self._spec = spec
        self._blob = blob
        self._credential = Credential(
            realm="",
            audience="gexec",
            host=HEAD,
            uid=UID,
            gid=UID,
            user="",
            issued_s=0.0,
            ttl_s=0,
            job_id=JOB_ID,
            digest=b"",
            key_id=b"",
        )

    def check(self, raw: bytes, blob: bytes, runs_here: bool = True) -> tuple[Credential, JobSpec]:
        """Return their content."""
        if raw != CREDENTIAL or blob != self._blob:
            raise Violation("a daemon got other bytes than the client's")
        return self._credential, self._spec

    def shared(self, raw: bytes, blob: bytes) -> bytes:
        """Return the shared copy of the blob."""
        return self._blob

    def known(self, raw: bytes, blob: bytes) -> tuple[Credential, JobSpec]:
        """Return the content of a credential that was accepted before."""
        return self.check(raw, blob)

    def keep(self, raw: bytes) -> None:
        """Nothing to keep."""

    def release(self, raw: bytes) -> None:
        """Nothing to release."""


class SimMachine:
    """The machine of a daemon and its processes; frozen while it is suspended."""

    def __init__(self) -> None:
        self.life = 0
        self.frozen_until_s = 0.0


class SimDaemon:
    """One gexecd, as its jobs use it: a gexec.relay.ports.Surroundings."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.index = index
        self.name = HEAD if index == ROOT else cluster.spec.names[index].decode()
        self.alive = True
        self.life = 0
        self.frozen_until_s = 0.0
        self.machine = SimMachine()
        self.slow = 1.0
        #: Its relay also does what an attacker wants (laboratory.captured).
        self.captured = False
        self.refuses = False
        self.swallows = False
        #: Open ends of links, by the link's number.
        self.ends: dict[int, SimEnd] = {}
        self.timers = SimTimers(self.world, self)
        self.entry = cluster.entry
        #: The host of what outlasts an upgrade.
        self.outlasting = Outlasting(self)
        self._begin()

    def _begin(self) -> None:
        """Begin with empty memory."""
        self.processes = SimSpawner(self)
        self.begin_relay()

    def begin_relay(self) -> None:
        """Begin with a relay that has no jobs."""
        self.quotas = Quotas(SETTINGS)
        self.quotas.dials = Turns(Shares(self.cluster.dials))
        self.jobs = Jobs(self, SETTINGS, self._stepped)
        self._known: set[RelayJob] = set()
        self._dialled: dict[str, SimEnd] = {}

    # -- faults ---------------------------------------------------------------------------

    def kill(self, vanish: bool) -> None:
        """The daemon, its processes and their memory are gone; with ``vanish`` the peers are not notified."""
        self.alive = False
        self.life += 1
        self.outlasting.life += 1
        self.frozen_until_s = 0.0
        self.machine.life += 1
        self.machine.frozen_until_s = 0.0
        self.swallows = self.swallows or vanish
        self.processes.die()
        self._begin()
        for end in self.ends.values():
            end.silent = end.silent or vanish
            end.gone()
        self.ends.clear()
        # Nothing happens that its jobs, which heard of their processes' ends, have just planned.
        self.life += 1
        self.outlasting.life += 1
        self.machine.life += 1
        self.world.news = True

    def restart(self) -> None:
        """A new daemon takes its place, with empty memory."""
        self.alive = True
        self.swallows = False
        self.refuses = False
        self._begin()
        self.processes.born_s = self.world.now_s

    def freeze(self, duration_s: float, machine: bool = True) -> None:
        """Delay all its events, and with ``machine`` those of its processes, by this time."""
        until_s = self.world.now_s + duration_s
        self.frozen_until_s = max(self.frozen_until_s, until_s)
        if machine:
            self.machine.frozen_until_s = max(self.machine.frozen_until_s, until_s)

    # -- ports of its jobs -------------------------------------------------------------------

    def dial(self, name: str, addresses: str, timeout_s: float, uid: int, urgent: bool) -> SimEnd:
        """Return this daemon's end of a link to a node, dialled if there is none."""
        end = self._dialled.get(name)
        if end is not None and end.here and (end.waiting or may_carry(end, self.world.now_s, timeout_s)):
            if end.waiting and urgent and end.turn is not None:
                self.quotas.dials.hurry(end.turn)
            return end
        self.cluster.link_numbers += 1
        link = SimLink(self.world, self.cluster.link_numbers, self, self.cluster.by_name[name.encode()])
        self._dialled[name] = end = link.dialler
        end.begin()
        end.waiting = True
        end.turn = self.quotas.dials.ask(uid, 1, partial(self._dial, link, timeout_s), urgent)
        return end

    def _dial(self, link: SimLink, timeout_s: float) -> None:
        link.dialler.waiting = False
        link.dial(timeout_s)
        self.jobs.link_begun(link.dialler)

    def open_pipes(
        self,
        tell: Callable[[events.Event], None],
        with_stdin: bool,
        with_output: bool,
        freed: Callable[[], None],
    ) -> SimPipes:
        """Return pipes for a process; they are charged until its end."""

        def check_and_tell(event: events.Event) -> None:
            tell(event)
            self._check_kept()

        return self.processes.open_pipes(check_and_tell, with_stdin, with_output)

    def continue_pipes(
        self, tell: Callable[[events.Event], None], saved: Saved, freed: Callable[[], None]
    ) -> SimPipes:
        """Return the pipes of a process that the relay before this one had."""

        def check_and_tell(event: events.Event) -> None:
            tell(event)
            self._check_kept()

        pipes = self.processes.pipes[saved["number"]]
        pipes.continue_with(check_and_tell)
        return pipes

    def start_refusal(self, link: LinkPort, host: str) -> str:
        """Every daemon is a head."""
        return ""

    def holds(self, name: str) -> bool:
        """Tell whether this daemon's certificate holds this name."""
        return name == self.name

    def jobs_changed(self) -> None:
        """A job has arrived or ended."""
        self.world.news = True

    def denied(self, link: LinkPort, code: int, reason: str, credential: Credential | None = None) -> None:
        """No honest parent is refused."""
        assert isinstance(link, SimEnd)
        if code == denials.PARENT and not link.peer.daemon.captured:
            raise Violation(f"{self.index} refused a parent: {reason}")

    def job_failed(self, job: str, error: Exception) -> None:
        """A machine must not fail at all."""
        if isinstance(error, Violation):
            raise error
        raise Violation(f"{job} failed: {type(error).__name__}: {error}") from error

    def _stepped(self, job: RelayJob) -> None:
        """Check the invariants of a job's machine after every step."""
        if job not in self._known:
            self._known.add(job)
            self.cluster.machines.append((self.index, job.machine))
        self.cluster.steps += 1
        if self.cluster.steps % self.cluster.validates_every:
            return
        try:
            job.machine.validate()
        except BrokenInvariantError:
            self.world.suspects = [job.key[1]] if job.key[1] >= 0 else []
            raise

    def _check_kept(self) -> None:
        """Check that the kept output of a process is bounded."""
        bound = 2 * (self.cluster.spec.window + limits.READ_CHUNK_BYTES)
        for job in self.jobs.by_key.values():
            if isinstance(job.machine, Node) and job.machine.retained_bytes > bound:
                raise Violation(f"{job} keeps {job.machine.retained_bytes} bytes of output, over {bound}")


class SimSpawner:
    """A gexec.relay.ports.ProcessPort: checks and starts a daemon's processes, and remembers them.

    Credentials issued before ``born_s`` are refused; the job's is issued at 0.
    """

    def __init__(self, daemon: SimDaemon) -> None:
        self.born_s = 0.0
        self._daemon = daemon
        self._cluster = daemon.cluster
        self._world = daemon.world
        self._started: set[int] = set()
        self._told: dict[int, Callable[[ProcessEvent], None]] = {}
        self._processes: dict[int, SimProcess] = {}
        self.pipes: dict[int, SimPipes] = {}
        self._tasks = 0

    def die(self) -> None:
        """The daemon is gone, with all its processes."""
        for process in self._processes.values():
            process.die(outcomes.killed(9))

    def open_pipes(
        self, tell: Callable[[events.Event], None], with_stdin: bool, with_output: bool
    ) -> SimPipes:
        """Return pipes, whose other ends ``run`` finds by their descriptors."""
        number = len(self.pipes)
        self.pipes[number] = SimPipes(self._daemon, number, tell, with_stdin, with_output)
        return self.pipes[number]

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
        told = self._told.get(task)
        if told is not None:
            told(event)

    def _refusal(self, rank: int) -> outcomes.Outcome | None:
        if self.born_s > 0:
            return outcomes.denied("the credential was issued before this gexecd started")
        if rank in self._started:
            return outcomes.denied("this job was started here before")
        return self._cluster.plans[rank].refusal

    def _answer(self, task: int, event: ProcessEvent) -> None:
        outlasting = self._daemon.outlasting
        self._world.after(self._world.rng.uniform(0.0005, 0.003), outlasting, self.tell, task, event)

    def check(self, task: int, rank: int, credential: bytes, blob: bytes) -> None:
        """Report whether a rank can be started."""
        refusal = self._refusal(rank)
        refused = refusal and messages.ProcessRefused(task, refusal)
        self._answer(task, refused or messages.ProcessReady(task))

    def run(self, task: int, rank: int, credential: bytes, blob: bytes, fds: tuple[int, int, int]) -> None:
        """Start a rank."""
        refusal = self._refusal(rank)
        if refusal is not None:
            self._answer(task, messages.ProcessRefused(task, refusal))
            return
        self._started.add(rank)
        record = self._cluster.records[rank]
        if record.starts:
            raise Violation(f"rank {rank} is started twice")
        self._world.note("run", f"{rank}@{self._daemon.index}")
        self._processes[task] = SimProcess(
            self._daemon,
            task,
            self._cluster.plans[rank],
            record,
            self._cluster.spec.kill_grace_s,
            self.pipes[fds[0]],
        )

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

    def forget(self, task: int) -> None:
        """Release it."""
        self._told.pop(task, None)
        self._processes[task].record.forgotten = True
