"""Simulated daemons: the relay's own code for jobs (gexec.relay.jobs) on simulated ports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from gexec import limits
from gexec.core import events
from gexec.core.node import Node
from gexec.core.root import Root
from gexec.core.saving import Saved
from gexec.relay.job import RelayJob
from gexec.relay.jobs import Jobs
from gexec.relay.pool import may_carry
from gexec.relay.ports import LinkPort, OrphanTask
from gexec.relay.quotas import Quotas
from gexec.relay.turns import Turns
from gexec.security.credential import Credential
from gexec.security.quota import Shares
from gexec.settings.config import GexecdSettings
from gexec.wire.frames import Frame, Start
from laboratory.admission import SimEntry
from laboratory.checks import honesty, memory
from laboratory.checks.machines import MachineChecks
from laboratory.clogs import Clogs
from laboratory.jobs import HEAD, SimJob
from laboratory.keepers import Ground
from laboratory.links import SimEnd, SimLink
from laboratory.moments import Moments
from laboratory.pipes import SimPipes
from laboratory.spawners import SimSpawner
from laboratory.world import SimTimers, World

ROOT = -1
#: The channel of a Start on a connection of its own.
_APART = 1
#: How far the daemons' wall clocks may differ.
SKEW_S = 60.0
SETTINGS = GexecdSettings()


def _no_client(frame: Frame) -> None:
    """There is no client yet."""


class Cluster:
    """What daemons share: the daemons by index, and the jobs. Rank 0 of the first job is on node 0.

    Attributes:
        jobs: all jobs, by the bytes of their credentials.
        job: the first one, to which faults belong.
        size: the number of nodes, without the root's host.
        machines: every job machine that ever existed, with its daemon's index.
    """

    def __init__(self, world: World, jobs: Sequence[SimJob], dials: int) -> None:
        self.world = world
        self.clogs = Clogs()
        self.moments = Moments(world)
        self.job = jobs[0]
        self.jobs = {job.raw: job for job in jobs}
        self.size = max(job.nodes.stop for job in jobs)
        self.checks = MachineChecks(world, self.job.spec.ranks)
        self.dials = dials
        self.machines: list[tuple[int, Node | Root]] = []
        self.root = SimDaemon(self, ROOT)
        self.nodes = NodeDaemons(self)
        self._node_of = {name: job.first + rank for job in jobs for rank, name in enumerate(job.spec.names)}
        self.link_numbers = 0
        #: Sends a frame of the first job's client.
        self.client_sends: Callable[[Frame], None] = _no_client

    def daemon(self, node: int) -> SimDaemon:
        """Return a node's daemon, or with -1 the root's."""
        return self.nodes[node] if node >= 0 else self.root

    def named(self, name: bytes) -> SimDaemon:
        """Return the daemon of the node with this name."""
        return self.nodes[self._node_of[name]]

    @property
    def daemons(self) -> list[SimDaemon]:
        """All of them, the root's first, whether something has happened to them or not."""
        return [self.root, *(self.nodes[node] for node in range(self.size))]


class NodeDaemons(dict[int, "SimDaemon"]):
    """The nodes' daemons by index. Each is made when it is first looked at: a large world has many others."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster

    def __missing__(self, node: int) -> SimDaemon:
        self[node] = daemon = SimDaemon(self._cluster, node)
        return daemon


class SimMachine:
    """The machine of a daemon and its processes; frozen while it is suspended."""

    def __init__(self) -> None:
        self.life = 0
        self.frozen_until_s = 0.0


class Outlasting:
    """The host of what an upgrade does not end: the spawner's reports, the bytes of clients, the backlog."""

    def __init__(self, daemon: SimDaemon) -> None:
        self.life = 0
        self._daemon = daemon

    @property
    def frozen_until_s(self) -> float:
        """The relay takes nothing while its daemon does not run."""
        return self._daemon.frozen_until_s


class SimDaemon:
    """One gexecd, as its jobs use it: a gexec.relay.ports.Surroundings."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.index = index
        self.name = HEAD if index == ROOT else f"node{index}"
        self.alive = True
        self.life = 0
        self.frozen_until_s = 0.0
        self.machine = SimMachine()
        self.slow = 1.0
        #: The newest protocol version that it speaks.
        self.version = limits.PROTOCOL_VERSION
        #: Its relay also does what an attacker wants (laboratory.captured).
        self.captured = False
        self.refuses = False
        self.swallows = False
        #: The last Start that came, and who sent it; it outlives the daemon's memory.
        self.last_asked: tuple[Start, SimDaemon] | None = None
        #: Open ends of links, by the link's number.
        self.ends: dict[int, SimEnd] = {}
        self.timers = SimTimers(self.world, self)
        #: How far its wall clock is ahead of the client's.
        self.wall_ahead_s = 0.0
        self.outlasting = Outlasting(self)
        self._ground: Ground | None = None
        self.begin()

    def begin(self) -> None:
        """Begin with empty memory."""
        self.processes = SimSpawner(self)
        self._begin_relay()

    def _begin_relay(self) -> None:
        self.entry = SimEntry(self)
        self.quotas = Quotas(SETTINGS)
        self.quotas.dials = Turns(Shares(self.cluster.dials))
        self.jobs = Jobs(self, SETTINGS, self._stepped)
        self.jobs.opens_at_once = max(1, self.cluster.dials // 4)
        self._known: set[RelayJob] = set()
        self._orphans: dict[tuple[bytes, int], OrphanTask] = {}
        self._dialled: dict[str, SimEnd] = {}

    @property
    def ground(self) -> Ground:
        """What the node has without gexecd."""
        if self._ground is None:
            self._ground = Ground(self)
        return self._ground

    # -- faults ---------------------------------------------------------------------------

    def kill(self, vanish: bool = False) -> None:
        """The daemon, its processes and their memory are gone; with ``vanish`` the peers are not notified."""
        self.alive = False
        self.life += 1
        self.outlasting.life += 1
        self.frozen_until_s = 0.0
        self.machine.life += 1
        self.machine.frozen_until_s = 0.0
        self.swallows = self.swallows or vanish
        self.processes.die()
        self.begin()
        for end in self.ends.values():
            end.silent = end.silent or vanish
            end.gone()
        self.ends.clear()
        # Nothing happens that its jobs, which heard of their processes' ends, have just planned.
        self.life += 1
        self.outlasting.life += 1
        self.machine.life += 1
        self.world.news = True

    def end_relay(self) -> None:
        """The relay has ended, and another one begins, without jobs."""
        self.life += 1
        for end in self.ends.values():
            end.gone()
        self.ends.clear()
        self._begin_relay()

    def relay_dies(self, lasts_s: float) -> None:
        """The relay is killed, and after ``lasts_s`` another one serves, if processes have outlived it."""
        survivors = self.processes.relay_died()
        if not survivors:
            self.kill()
            return
        self.end_relay()
        for job, rank, orphan in survivors:
            key = (job.id, rank)
            self._orphans[key] = orphan
            orphan.adopted = partial(self._orphans.pop, key, None)
            self.entry.expect(job)
        self.freeze(lasts_s, machine=False)
        self.world.after(lasts_s + SETTINGS.orphan_grace_s, self, self._end_orphans)

    def _end_orphans(self) -> None:
        for orphan in self._orphans.values():
            self.processes.close_task(orphan.task)
            self.processes.kill(orphan.task, False)
        self._orphans.clear()

    def restart(self) -> None:
        """A new daemon takes its place, with empty memory."""
        self.alive = True
        self.swallows = False
        self.refuses = False
        self.begin()
        self.processes.born_s = self.world.now_s

    def freeze(self, duration_s: float, machine: bool = True) -> None:
        """Delay all its events, and with ``machine`` those of its processes, by this time."""
        until_s = self.world.now_s + duration_s
        self.frozen_until_s = max(self.frozen_until_s, until_s)
        if machine:
            self.machine.frozen_until_s = max(self.machine.frozen_until_s, until_s)

    # -- what faults look at ------------------------------------------------------------------

    @property
    def upward(self) -> list[SimLink]:
        """The open links on which it was dialled."""
        return [
            end.link for end in self.ends.values() if end is end.link.acceptor and end.link.dialler.opened
        ]

    def asked_by(self) -> list[tuple[Start, SimDaemon]]:
        """Return the Starts that were sent to it on its open links, with the daemons that sent them."""
        asked = []
        for link in self.upward:
            parent = link.dialler.daemon
            for job in parent.jobs.by_key.values():
                children = job.children.values()
                asked += [(child.start, parent) for child in children if child.link is link.dialler]
        return asked

    def send_apart(self, child: SimDaemon, start: Start) -> None:
        """Send a Start on a connection of its own, which is closed later."""
        link = self.new_link(child)
        self.jobs.link_accepted(link.dialler, None)
        link.dial(1.0)
        rng = self.world.rng
        self.world.after(rng.uniform(0.01, 0.5), self, link.dialler.send, _APART, start)
        self.world.after(rng.uniform(0.5, 5.0), self, link.dialler.close, "it was not needed")

    def new_link(self, other: SimDaemon) -> SimLink:
        """Return a link to another daemon, that is not dialled yet."""
        self.cluster.link_numbers += 1
        link = SimLink(self.world, self.cluster.link_numbers, self, other)
        link.dialler.begin()
        return link

    def credential_fault(self, job: SimJob) -> str:
        """Return why a job's credential is not valid here now, "" if it is."""
        age_s = self.world.now_s - job.issued_s + self.wall_ahead_s
        if age_s < -SKEW_S:
            return "the credential is from the future"
        return "the credential has expired" if age_s > job.ttl_s else ""

    # -- ports of its jobs -------------------------------------------------------------------

    def dial(self, name: str, addresses: str, timeout_s: float, uid: int, urgent: bool) -> SimEnd:
        """Return this daemon's end of a link to a node, dialled if there is none."""
        end = self._dialled.get(name)
        if end is not None and end.here and (end.waiting or may_carry(end, self.timers.time(), timeout_s)):
            if end.waiting and urgent and end.turn is not None:
                self.quotas.dials.hurry(end.turn)
            return end
        link = self.new_link(self.cluster.named(name.encode()))
        self._dialled[name] = end = link.dialler
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
            memory.at_output(self)

        return self.processes.open_pipes(check_and_tell, with_stdin, with_output)

    def continue_pipes(
        self, tell: Callable[[events.Event], None], saved: Saved, freed: Callable[[], None]
    ) -> SimPipes:
        """Return the pipes of a process that the relay before this one had."""

        def check_and_tell(event: events.Event) -> None:
            tell(event)
            memory.at_output(self)

        return self.processes.continue_pipes(saved["number"], check_and_tell)

    def adopt_pipes(
        self, tell: Callable[[events.Event], None], outputs: dict[int, int], freed: Callable[[], None]
    ) -> SimPipes:
        """Return the pipes of a process whose relay died."""

        def check_and_tell(event: events.Event) -> None:
            tell(event)
            memory.at_output(self)

        return self.processes.adopt_pipes(check_and_tell, outputs)

    def orphan(self, key: tuple[bytes, int], credential: bytes) -> OrphanTask | None:
        """Return the process of (job id, rank) whose relay died."""
        return self._orphans.get(key)

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
        """A peer was refused."""
        if isinstance(link, SimEnd):
            honesty.at_denial(link, code, reason)

    def job_failed(self, job: str, error: Exception) -> None:
        """A machine must not fail at all."""
        honesty.at_failure(job, error)

    def _stepped(self, job: RelayJob) -> None:
        """Remember every machine, and check its invariants."""
        if job not in self._known:
            self._known.add(job)
            self.cluster.machines.append((self.index, job.machine))
        self.cluster.checks.stepped(job)
