"""Simulated daemons: the real machines of core, with the shell of gexec.relay.job in simulated form."""

from __future__ import annotations

from collections import deque

from gexec import limits
from gexec.core import events
from gexec.core.deadlines import SteadyClock, wake_s
from gexec.core.node import Node
from gexec.core.root import Root
from gexec.core.states import BrokenInvariantError
from gexec.errors import ProtocolError
from gexec.wire import frames
from gexec.wire import outcome as outcomes
from gexec.wire.frames import Frame, Start
from gexec.wire.jobspec import JobSpec
from laboratory.links import ACCEPTOR, DIALLER, SimLink
from laboratory.processes import Plan, ProcessRecord, SimProcess
from laboratory.world import Violation, World

ROOT = -1
JOB_ID = b"simulated job id"


class Cluster:
    """Everything that daemons share: who is where, what each rank is to do, what it did."""

    def __init__(self, world: World, spec: JobSpec, plans: list[Plan]) -> None:
        self.world = world
        self.spec = spec
        self.blob = spec.encode()
        self.plans = plans
        self.records = [ProcessRecord() for _ in plans]
        #: Every machine that there ever was, with its daemon's index.
        self.machines: list[tuple[int, Node | Root]] = []
        self.root = SimDaemon(self, ROOT)
        self.nodes = [SimDaemon(self, rank) for rank in range(len(plans))]
        self.link_numbers = 0

    @property
    def daemons(self) -> list[SimDaemon]:
        """All of them, the root's first."""
        return [self.root, *self.nodes]


class SimMachine:
    """Where a daemon and its processes run; frozen when the machine is suspended."""

    def __init__(self) -> None:
        self.life = 0
        self.frozen_until_s = 0.0


class SimDaemon:
    """One gexecd: links, the machines of its jobs, its processes and its memory of what it started."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.index = index
        self.alive = True
        self.life = 0
        self.frozen_until_s = 0.0
        self.machine = SimMachine()
        self.clock = SteadyClock(0.0)
        self.slow = 1.0
        self.refuses = False
        self.swallows = False
        #: Credentials issued before this are refused; the job's is issued at 0.
        self.born_s = 0.0
        self.started: set[int] = set()
        self.links: dict[int, SimLink] = {}
        self.jobs: dict[int, SimJob] = {}
        self._parents = 0

    # -- faults ---------------------------------------------------------------------------

    def kill(self, vanish: bool) -> None:
        """The daemon, its processes and their memory are gone; with ``vanish`` without a word."""
        self.alive = False
        self.life += 1
        self.frozen_until_s = 0.0
        self.machine.life += 1
        self.machine.frozen_until_s = 0.0
        self.swallows = self.swallows or vanish
        for job in self.jobs.values():
            job.die()
        self.jobs.clear()
        for link in list(self.links.values()):
            side = DIALLER if link.ends[DIALLER] is self and link.open[DIALLER] else ACCEPTOR
            link.open[side] = False
            if vanish:
                link.silent[side] = True
            link.peer_ended(side)
        self.links.clear()
        self.started.clear()

    def restart(self) -> None:
        """A new daemon takes its place; it knows nothing."""
        self.alive = True
        self.clock = SteadyClock(self.world.now_s)
        self.swallows = False
        self.refuses = False
        self.born_s = self.world.now_s

    def freeze(self, duration_s: float, machine: bool = True) -> None:
        """Everything that happens to it, and with ``machine`` to its processes, waits until then."""
        until_s = self.world.now_s + duration_s
        self.frozen_until_s = max(self.frozen_until_s, until_s)
        if machine:
            self.machine.frozen_until_s = max(self.machine.frozen_until_s, until_s)
        for link in list(self.links.values()):
            link.watch_frozen(DIALLER if link.ends[DIALLER] is self else ACCEPTOR)

    # -- links ----------------------------------------------------------------------------

    def dial(self, peer: SimDaemon) -> SimLink:
        """Return a link to a peer, dialled if there is none."""
        for link in self.links.values():
            if link.ends == (self, peer) and link.open[DIALLER]:
                return link
        self.cluster.link_numbers += 1
        link = SimLink(self.world, self.cluster.link_numbers, self, peer)
        self.links[link.number] = link
        link.dial(self.cluster.spec.connect_timeout_s)
        return link

    def link_reached(self, link: SimLink) -> None:
        """The machine of a peer that is being dialled has answered."""
        for job, number in list(link.children.values()):
            job.child_reached(number)

    def link_opened(self, link: SimLink) -> None:
        """A link that this daemon dialled is there."""
        for job, number in list(link.children.values()):
            if number in job.children:
                job.children[number].open()

    def link_closed(self, link: SimLink, side: int, text: str) -> None:
        """A link ended, or could not be made: every job on it is told."""
        if side == DIALLER:
            for job, number in list(link.children.values()):
                child = job.children.pop(number, None)
                if child is not None:
                    job.tell(events.ChildLost(number, text, child.sent))
        else:
            for job, number in list(link.parents.values()):
                job.parents.pop(number, None)
                job.tell(events.ParentLost(number, text))

    def link_frame(self, link: SimLink, side: int, channel: int, frame: Frame) -> None:
        """A frame of the job has come."""
        if side == DIALLER:
            if channel in link.children:
                job, number = link.children[channel]
                job.tell(events.ChildFrame(number, frame))
        elif channel in link.parents:
            job, number = link.parents[channel]
            job.tell(events.ParentFrame(number, frame))
        elif isinstance(frame, Start):
            self._start(link, channel, frame)

    def _start(self, link: SimLink, channel: int, start: Start) -> None:
        job = self.jobs.get(start.low)
        self._parents += 1
        parent = self._parents
        if job is not None:
            link.parents[channel] = (job, parent)
            job.parents[parent] = (link, channel)
            job.tell(events.ParentFrame(parent, start))
            return
        if start.attach_only:
            refused = frames.Refused(frames.REFUSED_UNKNOWN, "the job is not known here")
            link.send(ACCEPTOR, channel, refused)
            return
        node = Node(job_id=JOB_ID, spec=self.cluster.spec, start=start, parent=parent)
        job = self.jobs[start.low] = SimJob(self, start.low, node)
        link.parents[channel] = (job, parent)
        job.parents[parent] = (link, channel)
        job.begin()


class SimChild:
    """A child's channel, and what waits for its link to open."""

    __slots__ = ("channel", "link", "sent", "start", "waiting")

    def __init__(self, link: SimLink, channel: int, start: Start) -> None:
        self.link = link
        self.channel = channel
        self.start = start
        self.waiting: list[Frame] = []
        self.sent = False

    def send(self, frame: Frame) -> None:
        """Send, or keep until the link is open."""
        if self.sent:
            self.link.send(DIALLER, self.channel, frame)
        else:
            self.waiting.append(frame)

    def open(self) -> None:
        """The link is open: send the Start and what came after it."""
        if not self.sent:
            self.sent = True
            for frame in (self.start, *self.waiting):
                self.link.send(DIALLER, self.channel, frame)
            self.waiting.clear()


class SimJob:
    """One machine at work at one daemon."""

    def __init__(self, daemon: SimDaemon, low: int, machine: Node | Root) -> None:
        self.low = low
        self.machine = machine
        self.parents: dict[int, tuple[SimLink, int]] = {}
        self.children: dict[int, SimChild] = {}
        #: At the root: takes what goes to the client.
        self.client: deque[Frame] | None = None
        self.process: SimProcess | None = None
        self._daemon = daemon
        self._world = daemon.world
        self._queue: deque[events.Event] = deque()
        #: As in gexec.relay.job: told when all that may be read of the process's pipes was read.
        self._behind_output: deque[events.Event] = deque()
        self._busy = False
        self._wake_s: float | None = None
        self._tick_at_s: float | None = None
        daemon.cluster.machines.append((daemon.index, machine))

    def __str__(self) -> str:
        return f"job@{self.low}"

    # -- driving --------------------------------------------------------------------------

    def begin(self) -> None:
        """Let the machine begin."""
        self._busy = True
        effects = self.machine.begin(self._now_s())
        self._validate()
        self._carry_out(effects)
        self._run_queue()

    def tell(self, event: events.Event) -> None:
        """Hand the machine an event, now or after what it is at."""
        self._queue.append(event)
        if not self._busy:
            self._busy = True
            self._run_queue()

    def _run_queue(self) -> None:
        while not self.machine.finished and (event := self._next_event()) is not None:
            try:
                effects = self.machine.handle(event, self._now_s())
            except ProtocolError as error:
                # Nobody here forges anything, so a machine that complains is wrong about an honest peer.
                raise Violation(f"{self} refuses {event} as no protocol: {error}") from error
            except BrokenInvariantError as error:
                raise self._broken(error) from error
            self._validate()
            self._carry_out(effects)
        self._busy = False
        if not self.machine.finished:
            self._arm()

    def _validate(self) -> None:
        try:
            self.machine.validate()
        except BrokenInvariantError as error:
            raise self._broken(error) from error

    def _broken(self, error: BrokenInvariantError) -> Violation:
        self._world.suspects = [self.low] if self.low >= 0 else []
        return Violation(f"{self}: {error}")

    def _next_event(self) -> events.Event | None:
        if not self._behind_output:
            return self._queue.popleft() if self._queue else None
        piece = self.process.next_piece() if self.process is not None else None
        if piece is not None:
            self._check_kept(piece)
            return piece
        event = self._behind_output.popleft()
        if self.process is not None and isinstance(event, events.TaskEnded):
            event.unread = self.process.unread()
        return event

    def _now_s(self) -> float:
        return self._daemon.clock.now(self._world.now_s, self._wake_s)

    def _arm(self) -> None:
        due_s = self._wake_s = self.machine.next_deadline_s()
        if due_s is None:
            self._tick_at_s = None
            return
        behind_s = self._daemon.clock.behind_s
        self._wake_s = wake_s(self._world.now_s - behind_s, due_s)
        at_s = max(self._world.now_s, self._wake_s + behind_s)
        if self._tick_at_s is None or at_s < self._tick_at_s:
            self._tick_at_s = at_s
            self._world.after(at_s - self._world.now_s, self._daemon, self._tick, at_s)

    def _tick(self, at_s: float) -> None:
        if self._tick_at_s == at_s and not self.machine.finished:
            self._tick_at_s = None
            self.tell(events.Tick())

    def die(self) -> None:
        """The daemon is gone."""
        self.machine.finished = True
        if self.process is not None:
            self.process.die(outcomes.killed(9))

    # -- effects --------------------------------------------------------------------------

    def _carry_out(self, effects: list[events.Effect]) -> None:
        for effect in effects:
            match effect:
                case events.ToParent(parent=parent, frame=frame):
                    if self.client is not None:
                        self.client.append(frame)
                    elif parent in self.parents:
                        link, channel = self.parents[parent]
                        link.send(ACCEPTOR, channel, frame)
                case events.ToChild(child=number, frame=frame):
                    if number in self.children:
                        self.children[number].send(frame)
                case events.OpenChild(child=number, start=start):
                    self._open_child(number, start)
                case events.DropChild(child=number):
                    child = self.children.pop(number, None)
                    if child is not None:
                        child.link.children.pop(child.channel, None)
                case events.DrainOutput():
                    self._behind_output.append(events.OutputDrained())
                case events.Finish():
                    self._finish()
                case _:
                    self._task_effect(effect)

    def _open_child(self, number: int, start: Start) -> None:
        child = self.children.get(number)
        if child is not None:
            if child.sent:
                child.link.send(DIALLER, child.channel, start)
            else:
                child.start = start
            return
        link = self._daemon.dial(self._daemon.cluster.nodes[start.low])
        link.channels += 1
        link.children[link.channels] = (self, number)
        child = self.children[number] = SimChild(link, link.channels, start)
        if link.reached:
            self.child_reached(number)
        if link.opened:
            child.open()

    def child_reached(self, number: int) -> None:
        """A child's machine has answered."""
        child = self.children.get(number)
        if child is not None and child.start.high - child.start.low > 1:
            self.tell(events.ChildReached(number))

    def _finish(self) -> None:
        for link, channel in self.parents.values():
            link.parents.pop(channel, None)
        if self._daemon.jobs.get(self.low) is self:
            del self._daemon.jobs[self.low]

    # -- the process ----------------------------------------------------------------------

    def _task_effect(self, effect: events.Effect) -> None:
        match effect:
            case events.CheckTask():
                self._check_task()
            case events.RunTask():
                self._run_task()
        process = self.process
        if process is None:
            return
        match effect:
            case events.SignalTask(signum=signum):
                process.signal(signum)
            case events.KillTask(now=now):
                process.kill(now)
            case events.ReadOutput(stream=stream, on=on):
                process.read(stream, on)
            case events.CloseOutput():
                process.close_output()
            case events.WriteStdin(data=data):
                process.write(data)
            case events.CloseStdin():
                process.close_stdin()

    def _refusal(self) -> outcomes.Outcome | None:
        """Return what the spawner would say against it."""
        if self._daemon.born_s > 0:
            return outcomes.denied("the credential was issued before this gexecd started")
        if self.low in self._daemon.started:
            return outcomes.denied("this job was started here before")
        return self._daemon.cluster.plans[self.low].refusal

    def _check_task(self) -> None:
        refusal = self._refusal()
        event = events.TaskEnded(refusal) if refusal is not None else events.TaskReady()
        self._world.after(self._world.rng.uniform(0.0005, 0.003), self._daemon, self.tell, event)

    def _run_task(self) -> None:
        refusal = self._refusal()
        if refusal is not None:
            event = events.TaskEnded(refusal)
            self._world.after(self._world.rng.uniform(0.0005, 0.003), self._daemon, self.tell, event)
            return
        cluster = self._daemon.cluster
        self._daemon.started.add(self.low)
        if cluster.records[self.low].starts:
            raise Violation(f"rank {self.low} is started twice")
        self._world.note("run", self)
        self.process = SimProcess(
            self._daemon,
            cluster.plans[self.low],
            cluster.records[self.low],
            cluster.spec.kill_grace_s,
            self.tell_of_process,
        )

    def tell_of_process(self, event: events.Event) -> None:
        """Something happened to the process."""
        if not isinstance(event, events.TaskEnded):
            self._check_kept(event)
            self.tell(event)
            return
        self._behind_output.append(event)
        if not self._busy:
            self._busy = True
            self._run_queue()

    def _check_kept(self, event: events.Event) -> None:
        """Check that what is kept of the process's output is bounded."""
        if isinstance(event, events.OutputRead) and isinstance(self.machine, Node):
            kept = self.machine.retained_bytes
            bound = 2 * (self._daemon.cluster.spec.window + limits.READ_CHUNK_BYTES)
            if kept > bound:
                raise Violation(f"{self} keeps {kept} bytes of output: at most {bound} are allowed")
