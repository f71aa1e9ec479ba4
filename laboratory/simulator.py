"""One seed, from the scenario to the checks of the result (docs/decisions/0010-simulation.md).

``simulate(seed)`` returns a Result; it raises Violation if a rule was violated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gexec import limits
from gexec.core.taken import WHY
from gexec.wire import jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT
from laboratory.captured import CapturedRelay
from laboratory.clients import SimClient
from laboratory.daemons import Cluster, SimDaemon
from laboratory.links import SimLink
from laboratory.scenario import CAPTURED, Fault, Scenario, betrayed, clean, scenario
from laboratory.upgrades import upgrade
from laboratory.world import Violation, World

#: From the last fault to the end of the job, including the time of processes and slow clients.
ENDS_WITHIN_S = 150.0
#: From the end of the job to the end of its last process on any node.
GONE_WITHIN_S = limits.LOST_AFTER_S + limits.ORPHAN_GRACE_S + limits.KILL_GRACE_S + limits.LINGER_S + 5.0
EVENTS_MAX = 3_000_000
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
    outcomes: dict[int, outcomes.Outcome]
    lines: list[str]


class Simulation:
    """One run of one scenario."""

    def __init__(self, seed: int, made: Scenario, tracing: bool = False) -> None:
        self.world = World(seed, tracing)
        self.seed = seed
        self.made = made
        self.cluster = Cluster(self.world, made.spec, made.plans, made.dials)
        self.cluster.betrayed = betrayed(made)
        self.client = SimClient(self.cluster, made.habits)
        self._honest = [rank for rank in range(made.spec.ranks) if rank not in self.cluster.betrayed]
        #: Who was not seen without jobs and processes yet, after the job's end.
        self._left_over = list(self._honest)
        self.quiet_s = max((fault.at_s + fault.value for fault in made.faults), default=0.0)
        if made.habits.stalls is not None:
            self.quiet_s = max(self.quiet_s, made.habits.stalls[1])

    def run(self) -> Result:
        """Run to the end and check; raises Violation, with the machines' knowledge as notes."""
        try:
            return self._run()
        except Violation as error:
            for rank in (self.world.suspects or self._owed())[:SUSPECTS_MAX]:
                error.add_note(self.story(rank))
            raise

    def story(self, rank: int) -> str:
        """Return what every machine knows, or knew at its end, about a rank."""
        lines = [f"rank {rank}:"]
        for index, machine in self.cluster.machines:
            where = f"gexecd {index}" if index >= 0 else "root"
            lines += [f"  {where}: {line}" for line in machine.story(rank)]
        return "\n".join(lines)

    def _owed(self) -> list[int]:
        return sorted(set(range(self.made.spec.ranks)).difference(self.client.outcomes))

    def _run(self) -> Result:
        for fault in self.made.faults:
            if fault.kind == "dead":
                self._break(fault)
            else:
                self.world.after(fault.at_s, None, self._break, fault)
        self.client.begin()
        deadline_s = self.quiet_s + ENDS_WITHIN_S
        self._run_until(deadline_s, self._job_over, "the job does not end")
        ended_s = self.world.now_s
        # A process that not even SIGKILL ends is given up after the stall time.
        deadline_s = max(ended_s, self.quiet_s) + GONE_WITHIN_S + self.made.spec.stall_s
        self._run_until(deadline_s, self._all_gone, "something of the job is left after its end")
        if self.client.done:
            self._check_outcomes()
        return Result(
            self.seed,
            self.world.digest,
            self.world.events,
            ended_s,
            self.made.spec.ranks,
            self.client.outcomes,
            self.world.lines,
        )

    def _run_until(self, deadline_s: float, over: Callable[[], bool], complaint: str) -> None:
        while not over():
            self.world.news = False
            if not self.world.run(deadline_s, EVENTS_MAX):
                if self.world.events > EVENTS_MAX:
                    complaint = f"more than {EVENTS_MAX} events: it does not settle"
                raise Violation(f"{complaint} ({self._left()})")

    def _job_over(self) -> bool:
        return self.client.done or not self.client.here or not self.cluster.root.alive

    def _all_gone(self) -> bool:
        if self.cluster.root.jobs.by_key:
            return False
        while self._left_over:
            if self._is_left(self._left_over[-1]):
                return False
            self._left_over.pop()
        # Who was seen gone may have been asked again since.
        self._left_over = [rank for rank in self._honest if self._is_left(rank)]
        return not self._left_over

    def _is_left(self, rank: int) -> bool:
        running = self.cluster.records[rank].running and not self.made.plans[rank].hangs
        return bool(running or self.cluster.nodes[rank].jobs.by_key)

    def _left(self) -> str:
        owed = self._owed()
        jobs = [daemon.index for daemon in self.cluster.daemons if daemon.jobs.by_key]
        running = [rank for rank, record in enumerate(self.cluster.records) if record.running]
        where = f"outcome: {_few(owed)}; nodes: {_few(jobs)}; processes: {_few(running)}"
        return f"at {self.world.now_s:.1f} s without {where}"

    # -- faults ---------------------------------------------------------------------------

    def _break(self, fault: Fault) -> None:
        daemon = self.cluster.root if fault.rank < 0 else self.cluster.nodes[fault.rank]
        self.world.note("fault", fault.rank, shown=fault)
        if fault.kind == "restart":
            if not daemon.alive:
                daemon.restart()
            return
        if not daemon.alive:
            return
        if fault.kind in CAPTURED:
            CapturedRelay(daemon).act(fault.kind)
            return
        match fault.kind:
            case "dead":
                if fault.value:
                    daemon.swallows = True
                else:
                    daemon.refuses = True
            case "kill" | "vanish":
                daemon.kill(fault.kind == "vanish")
            case "upgrade":
                upgrade(daemon, fault.value)
            case "slow":
                daemon.slow = 100.0
            case "freeze":
                daemon.freeze(fault.value)
            case "stop":
                daemon.freeze(fault.value, machine=False)
            case "suspend":
                for each in self.cluster.daemons:
                    if each.alive:
                        each.freeze(fault.value)
            case "drop":
                for link in self._upward(daemon):
                    end = self.world.rng.choice((link.dialler, link.acceptor))
                    # A frozen end detects it when it wakes up.
                    self.world.after(0.0, end.daemon, end.close, "the link was lost")
            case "silence":
                for link in self._upward(daemon):
                    end = link.acceptor if fault.value else link.dialler
                    end.silent = True

    @staticmethod
    def _upward(daemon: SimDaemon) -> list[SimLink]:
        return [
            end.link for end in daemon.ends.values() if end is end.link.acceptor and end.link.dialler.opened
        ]

    # -- checks of the result ---------------------------------------------------------------

    def _check_outcomes(self) -> None:
        untouched = clean(self.made)
        for rank, outcome in sorted(self.client.outcomes.items()):
            self.world.suspects = [rank]
            if self.cluster.records[rank].starts > 1:
                raise Violation(f"rank {rank} was started {self.cluster.records[rank].starts} times")
            if rank in self.cluster.betrayed:
                continue
            self._check_truth(rank, outcome)
            if WHY in outcome.text:
                raise Violation(f"rank {rank} is {outcome.describe()}, but its node is honest")
            if self._check_stall(rank, outcome, untouched[rank]):
                continue
            refusal = self.made.plans[rank].refusal
            if untouched[rank] and refusal is not None and outcome == outcomes.lost(refusal.text):
                continue  # the parent could not know that it was the first
            if untouched[rank] and outcome.kind == outcomes.LOST and not self.made.disturbed:
                raise Violation(f"rank {rank} is {outcome.describe()}, although no fault affected it")
            if untouched[rank] and not self.made.disturbed and not self.made.spec.flags & jobspec.STRICT:
                plan = self.made.plans[rank]
                status = 0 if self._detached else plan.status
                expected = plan.refusal or outcomes.exited(status)
                if (outcome.kind, outcome.value) != (expected.kind, expected.value):
                    raise Violation(f"rank {rank} is {outcome.describe()}: expected {expected.describe()}")

    def _check_stall(self, rank: int, outcome: outcomes.Outcome, untouched: bool) -> bool:
        """Check that what stopped was given up, and nothing else; return whether this rank stopped."""
        stops = self.made.plans[rank].stops_at is not None
        given_up = outcome.kind == outcomes.LOST and outcome.text.endswith("given up")
        if given_up and not stops:
            raise Violation(f"rank {rank} is {outcome.describe()}, but it did not stand still")
        ended = self.made.disturbed or self.made.spec.flags & jobspec.STRICT
        if stops and untouched and not ended and not given_up:
            raise Violation(f"rank {rank} is {outcome.describe()}, but it stood still")
        return stops

    @property
    def _detached(self) -> bool:
        """True if the processes' ends do not matter once they have started."""
        return bool(self.made.spec.flags & jobspec.DETACHED)

    def _check_truth(self, rank: int, outcome: outcomes.Outcome) -> None:
        record = self.cluster.records[rank]
        received = [self.client.received.get((rank, stream), bytearray()) for stream in (STDOUT, STDERR)]
        written = [record.written[stream] for stream in (STDOUT, STDERR)]
        ran = record.starts > 0
        for got, had in zip(received, written, strict=True):
            if not had.startswith(got):
                raise Violation(f"rank {rank}: the received output is not a prefix of the written output")
        if outcome.kind in (outcomes.NOT_STARTED, outcomes.DENIED):
            if ran:
                raise Violation(f"rank {rank} is {outcome.describe()}, but it did run")
        elif self._detached and ran:
            if outcome.kind != outcomes.LOST and outcome != outcomes.exited(0):
                raise Violation(f"rank {rank} is {outcome.describe()}, but it was detached")
            if outcome.kind != outcomes.LOST and not record.forgotten:
                raise Violation(f"rank {rank} is {outcome.describe()}, but its daemon has not released it")
        elif outcome.kind != outcomes.LOST:
            truth = record.outcome
            if truth is None or (
                outcome.kind != outcomes.TIMED_OUT
                and (outcome.kind, outcome.value) != (truth.kind, truth.value)
            ):
                raise Violation(f"rank {rank} is {outcome.describe()}, but really {truth}")
            self._check_whole(rank, outcome, [len(got) for got in received], [len(had) for had in written])
        if rank in self.client.started and not ran:
            raise Violation(f"rank {rank} is reported as started, but did not start")
        if not self.made.habits.stdin.startswith(record.stdin):
            raise Violation(f"rank {rank} read something different from the client's stdin")
        if record.stdin_eof and len(record.stdin) != len(self.made.habits.stdin):
            raise Violation(f"rank {rank} read the end of stdin after {len(record.stdin)} bytes")

    def _check_whole(
        self, rank: int, outcome: outcomes.Outcome, received: list[int], written: list[int]
    ) -> None:
        """Check that all output of the process arrived; later output of others may be cut, if marked."""
        record = self.cluster.records[rank]
        if outcome.cut and not self.made.plans[rank].leaves_s:
            raise Violation(f"rank {rank} is {outcome.describe()}, but no process held its output")
        if not outcome.cut and received != written:
            raise Violation(f"rank {rank} ended, but its output is incomplete: {received} of {written}")
        if any(got < own for got, own in zip(received, record.own, strict=True)):
            raise Violation(f"rank {rank}: only {received} bytes arrived of its own output {record.own}")


def _few(numbers: list[int]) -> str:
    return f"{numbers[:8]}" + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def simulate(seed: int, tracing: bool = False) -> Result:
    """Run the scenario of a seed. Raises Violation, whose notes have the command that replays it."""
    simulation = Simulation(seed, scenario(seed), tracing)
    try:
        return simulation.run()
    except Violation as error:
        error.add_note(f"replay: python -m laboratory.simulate --seed {seed} --trace")
        error.lines = simulation.world.lines  # type: ignore[attr-defined]
        raise
