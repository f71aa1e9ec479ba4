"""One seed, from the scenario to the checks of the result (docs/decisions/0010-simulation.md).

Three phases: faults happen, and only what is checked all the time can be violated (safety); no more faults
happen, and the job must end within a bound (liveness); nothing of it may be left. Then the result is checked.

``simulate(seed)`` returns a Result; it raises Violation if a rule was violated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gexec.wire.outcome import Outcome
from laboratory import faults
from laboratory.checks import at_end, expected, kept, liveness
from laboratory.clients import SimClient
from laboratory.daemons import Cluster
from laboratory.evidence import Evidence
from laboratory.jobs import SimJob
from laboratory.scenario import scenario
from laboratory.script import Fault, Scenario, betrayed
from laboratory.world import Violation, World

#: Number of ranks for which a violation includes what the machines know.
SUSPECTS_MAX = 3


@dataclass
class Result:
    """The result of a seed."""

    seed: int
    digest: str
    events: int
    ended_s: float
    ranks: int
    outcomes: dict[int, Outcome]
    lines: list[str]


class JobRun:
    """One job of a simulation, with its client."""

    def __init__(self, made: Scenario, cluster: Cluster, job: SimJob) -> None:
        self.made = made
        self.job = job
        self.job.betrayed = betrayed(made)
        self.client = SimClient(cluster, job, made.habits, bool(made.faults))

    def owed(self) -> list[int]:
        """Return the ranks whose outcome the client does not have."""
        return sorted(set(range(self.made.spec.ranks)).difference(self.client.outcomes))

    def running(self) -> list[int]:
        """Return the ranks whose processes run."""
        return [rank for rank, record in enumerate(self.job.records) if record.running]

    def check(self, world: World) -> None:
        """Check the result; the rank that is checked is the world's suspect."""
        evidence = Evidence(self.made, self.job, self.client, expected.untouched(self.made))
        for rank, outcome in sorted(self.client.outcomes.items()):
            world.suspects = [(self.job.id, rank)]
            if rank not in self.job.betrayed:
                for check in at_end.ALL:
                    check(evidence, rank, outcome)


class Simulation:
    """One run of one scenario."""

    def __init__(self, seed: int, made: Scenario, tracing: bool = False) -> None:
        self.world = World(seed, tracing)
        self.seed = seed
        self.made = made
        jobs = [SimJob(number, each) for number, each in enumerate(made.all)]
        self.cluster = Cluster(self.world, jobs, made.dials)
        self.runs = [JobRun(each, self.cluster, job) for each, job in zip(made.all, jobs, strict=True)]
        self.client = self.runs[0].client
        self.cluster.client_sends = self.client.send

    def run(self) -> Result:
        """Run to the end and check; raises Violation, with the machines' knowledge as notes."""
        try:
            return self._run()
        except Violation as error:
            owed = [(run.job.id, rank) for run in self.runs for rank in run.owed()]
            for job, rank in (self.world.suspects or owed)[:SUSPECTS_MAX]:
                error.add_note(self.story(job, rank))
            raise

    def story(self, job: bytes, rank: int) -> str:
        """Return what every machine knows, or knew at its end, about a rank of a job."""
        lines = [f"rank {rank}:"]
        for index, machine in self.cluster.machines:
            where = f"gexecd {index}" if index >= 0 else "root"
            if machine.job_id == job:
                lines += [f"  {where}: {line}" for line in machine.story(rank)]
        return "\n".join(lines)

    # -- phases ---------------------------------------------------------------------------

    def _run(self) -> Result:
        for fault in self.made.faults:
            self._schedule(fault)
        for run in self.runs:
            if run.made.begins_s:
                self.world.after(run.made.begins_s, None, run.client.begin)
            else:
                run.client.begin()
        if not self._until(self.made.quiet_s, self._over):
            self._heal()
        if not self._until(self.made.quiet_s + liveness.ENDS_WITHIN_S, self._over):
            raise Violation(f"the job does not end ({self._left()})")
        ended_s = self.world.now_s
        remains = liveness.Remains(self.cluster, [run.job for run in self.runs])
        if not self._until(liveness.gone_by_s(self.made, ended_s), remains.all_gone):
            raise Violation(f"something of the job is left after its end ({self._left()})")
        for run in self.runs:
            kept.at_end(run.made, run.job)
            if run.client.done:
                run.check(self.world)
        return Result(
            self.seed,
            self.world.digest,
            self.world.events,
            ended_s,
            self.made.spec.ranks,
            self.client.outcomes,
            self.world.lines,
        )

    def _until(self, deadline_s: float, over: Callable[[], bool]) -> bool:
        """Run until something is over; False if it is not by the deadline."""
        while not over():
            self.world.news = False
            events_max = liveness.events_max(self.made)
            if not self.world.run(deadline_s, events_max):
                if self.world.events > events_max:
                    raise Violation(f"it does not settle in {events_max} events ({self._left()})")
                return False
        return True

    def _over(self) -> bool:
        return not self.cluster.root.alive or all(run.client.done or not run.client.here for run in self.runs)

    def _left(self) -> str:
        owed = [rank for run in self.runs for rank in run.owed()]
        jobs = [daemon.index for daemon in self.cluster.daemons if daemon.jobs.by_key]
        running = [rank for run in self.runs for rank in run.running()]
        where = f"outcome: {_few(owed)}; nodes: {_few(jobs)}; processes: {_few(running)}"
        return f"at {self.world.now_s:.1f} s without {where}"

    # -- faults ---------------------------------------------------------------------------

    def _schedule(self, fault: Fault) -> None:
        if fault.at_s > 0:
            self.world.after(fault.at_s, None, self._begin, fault)
        else:
            self._begin(fault)

    def _begin(self, fault: Fault) -> None:
        if fault.moment:
            self.cluster.moments.wait(fault.moment, fault.rank, partial(self._strike, fault))
        else:
            self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        strike = faults.BY_NAME[fault.kind].strike
        alive = self.cluster.daemon(fault.rank).alive
        self.world.note("fault", fault.rank, shown=fault)
        if strike is not None and (alive or fault.kind == "restart"):
            strike(self.cluster, fault)

    def _heal(self) -> None:
        """What is dead stays dead, but from now on nothing else goes wrong."""
        self.world.note("quiet", "world", shown="no more faults")
        self.cluster.moments.clear()


def _few(numbers: list[int]) -> str:
    return f"{numbers[:8]}" + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def simulate(seed: int, tracing: bool = False) -> Result:
    """Run the scenario of a seed. Raises Violation, whose notes have the command that replays it."""
    simulation = Simulation(seed, scenario(seed), tracing)
    try:
        return simulation.run()
    except Violation as error:
        error.add_note(f"replay: python -m laboratory.simulate --seed {seed} --story")
        error.lines = simulation.world.lines  # type: ignore[attr-defined]
        raise
