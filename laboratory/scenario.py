"""The scenario of a seed: the job, the behaviour of its processes and of the client, and the faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from gexec import limits
from gexec.core import tree
from gexec.wire import frames, jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.jobspec import JobSpec
from laboratory.clients import Habits
from laboratory.processes import Plan
from laboratory.upgrades import plan_upgrades


@dataclass
class Fault:
    """One fault. ``rank`` -1 is the root's daemon."""

    at_s: float
    kind: str
    rank: int
    value: float = 0.0


@dataclass
class Scenario:
    """Everything that a simulation needs before it begins."""

    spec: JobSpec
    plans: list[Plan]
    habits: Habits
    faults: list[Fault] = field(default_factory=list)
    #: Signals, or an early end of client or root: outcomes then differ from the plan.
    disturbed: bool = False
    #: What users share of each daemon's dials; the only one here gets half.
    dials: int = 16_384


#: Peers detect these faults at once; the others only after a timeout.
ABRUPT = {"dead", "kill", "drop", "restart", "upgrade"}
#: What a captured relay does (laboratory.captured).
CAPTURED = ("seize", "refuse", "forge")
KINDS = (
    "dead", "dead", "kill", "kill", "adjacent", "first", "inner", "drop", "drop", "drops", "silence",
    "vanish", "freeze", "thaw", "slow", "restart", "stall", "gone", "root", "signal", "kill job",
)  # fmt: skip


def scenario(seed: int, hostile: bool = True) -> Scenario:
    """Return the scenario of a seed; without ``hostile`` all daemons are honest."""
    rng = Random(seed)
    ranks = rng.choice((1, 2, 3, 5, 8, 13, 20, 20, 30, 30, 50, 80, 120, 200))
    fanout = rng.choice((2, 2, 3, 4, 8, 16)) if ranks > 12 or rng.random() < 0.8 else 1
    strict = rng.random() < 0.15
    with_stdin = rng.random() < 0.3
    flags = (jobspec.STRICT if strict else 0) | (0 if with_stdin else jobspec.NO_STDIN)
    spec = JobSpec(
        names=[b"node%d" % rank for rank in range(ranks)],
        addresses=[b"10.0.0.1:2875"] * ranks,
        program=b"/bin/true",
        argv=[b"true"],
        env=[],
        flags=flags,
        fanout=fanout,
        window=limits.WINDOW_MIN_BYTES if rng.random() < 0.7 else limits.window_bytes(ranks),
        timeout_s=0.5 if rng.random() < 0.05 else 0.0,
    )
    plans = _plans(rng, ranks, with_stdin)
    made = Scenario(spec, plans, _habits(rng, ranks, with_stdin), disturbed=bool(spec.timeout_s))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        _break(rng, made, rng.choice(KINDS))
    _pause(Random(f"pauses of {seed}"), made)
    _rare(Random(f"rare things of {seed}"), made)
    narrow = Random(f"turns of {seed}")
    if narrow.random() < 0.2:
        made.dials = narrow.choice((2, 4, 8, 16))
    plan_upgrades(Random(f"upgrades of {seed}"), made, Fault)
    if with_stdin:
        _stall(Random(f"stalled readers of {seed}"), made)
    if hostile:
        _capture(Random(f"captured relays of {seed}"), made)
    made.faults.sort(key=lambda fault: fault.at_s)
    return made


def _pause(rng: Random, made: Scenario) -> None:
    """Suspend machines, or stop only daemons, at any time and for any time, in every third seed."""
    if rng.random() < 0.65:
        return
    long_s = rng.choice((2.0, 13.0, 20.0, 40.0, 120.0))
    for _ in range(rng.choice((1, 1, 2, 5))):
        at_s = rng.choice((rng.uniform(0, 0.01), rng.uniform(0, 0.3), rng.uniform(0, 3), rng.uniform(0, 30)))
        kind = rng.choice(("freeze", "freeze", "stop", "suspend"))
        rank = -1 if kind == "suspend" else rng.randrange(made.spec.ranks)
        made.faults.append(Fault(at_s, kind, rank, rng.uniform(0, long_s)))
    if rng.random() < 0.3:
        for plan in made.plans:
            plan.leaves_s = rng.choice((0.0, 1.0, 10.0, 30.0))
            plan.chatters = rng.random() < 0.3


def _stall(rng: Random, made: Scenario) -> None:
    """Measure progress in half of the jobs with stdin, and stop some processes in most of these."""
    if rng.random() < 0.5:
        return
    spec = made.spec
    spec.stall_s = rng.choice((2.0, 5.0, 30.0))
    if rng.random() < 0.2:
        spec.flags |= jobspec.PROMPT
    stopped = rng.choice((0, 1, 1, 2, spec.ranks))
    for rank in rng.sample(range(spec.ranks), min(stopped, spec.ranks)):
        plan = made.plans[rank]
        if plan.refusal is None:
            plan.reads = None
            plan.stops_at = rng.choice((0, 0, rng.randrange(1 + len(made.habits.stdin))))
            plan.stubborn = True
            plan.hangs = rng.random() < 0.5


def _capture(rng: Random, made: Scenario) -> None:
    """Capture one relay, or two, in every fourth seed."""
    if rng.random() < 0.75 or made.spec.ranks < 2:
        return
    for rank in rng.sample(range(made.spec.ranks), rng.choice((1, 1, 2))):
        for _ in range(rng.choice((1, 2, 4))):
            at_s = rng.choice((rng.uniform(0, 0.05), rng.uniform(0, 0.5), rng.uniform(0, 5)))
            made.faults.append(Fault(at_s, rng.choice(CAPTURED), rank))


def _rare(rng: Random, made: Scenario) -> None:
    """Detach a job without stdin, or leave some of its names without an address."""
    spec = made.spec
    if rng.random() < 0.05 and spec.flags & jobspec.NO_STDIN:
        spec.flags |= jobspec.DETACHED
    if rng.random() < 0.05:
        addresses = list(spec.addresses)
        for rank in rng.sample(range(spec.ranks), max(1, spec.ranks // 10)):
            addresses[rank] = rng.choice((b"", b"?", b"?30"))
            made.plans[rank].refusal = outcomes.unreachable(jobspec.why_unresolved(addresses[rank]))
        spec.addresses = addresses


# -- the job ----------------------------------------------------------------------------------


def _plans(rng: Random, ranks: int, with_stdin: bool) -> list[Plan]:
    small = rng.random() < 0.6
    alike = rng.random() < 0.4
    common = _writes(rng, small)
    refused = rng.random() < 0.1
    plans = []
    for _ in range(ranks):
        writes = common if alike and rng.random() < 0.9 else _writes(rng, small)
        plan = Plan([(rng.uniform(0.0005, pause), stream, data) for pause, stream, data in writes], 0)
        plan.status = rng.choice((0, 0, 0, 1, 7, 255))
        plan.stubborn = rng.random() < 0.1
        plan.leaves_s = rng.choice((0.0, 0.0, 0.0, 0.0, 0.5, 30.0)) if rng.random() < 0.2 else 0.0
        if with_stdin:
            plan.reads = rng.choice((None, None, None, 0, 1000, 100_000))
        if refused and rng.random() < 0.1:
            plan.refusal = rng.choice(
                (outcomes.not_started("no such file", 2), outcomes.denied("no account"))
            )
        plans.append(plan)
    return plans


def _writes(rng: Random, small: bool) -> list[tuple[float, int, bytes]]:
    """Return up to twelve writes, of few bytes or of many."""
    pause_s = rng.choice((0.001, 0.01, 0.1, 0.5))
    writes = []
    for _ in range(rng.choice((0, 1, 1, 2, 5, 12))):
        count = rng.randrange(1, 200) if small else rng.choice((100, 5000, 20_000, 70_000))
        writes.append((pause_s, rng.choice((STDOUT, STDOUT, STDERR)), rng.randbytes(count)))
    return writes


def _habits(rng: Random, ranks: int, with_stdin: bool) -> Habits:
    habits = Habits(acknowledges=rng.choice((0.05, 0.5, 0.5, 0.5, 0.9)))
    habits.pace_s = rng.choice((0.00001, 0.00001, 0.0001, 0.002 if ranks < 30 else 0.0001))
    if with_stdin:
        habits.sends_stdin = True
        large = 3_000_000 if ranks <= 8 else 300_000 if ranks <= 50 else 50_000
        habits.stdin = rng.randbytes(rng.choice((0, 10, 40_000, large)))
    return habits


# -- faults ------------------------------------------------------------------------------------


def _break(rng: Random, made: Scenario, kind: str) -> None:
    ranks = made.spec.ranks
    rank = rng.randrange(ranks)
    at_s = rng.choice((rng.uniform(0, 0.01), rng.uniform(0, 0.3), rng.uniform(0, 3)))
    faults = made.faults
    match kind:
        case "dead":
            for dead in rng.sample(range(ranks), max(1, ranks // 10)):
                faults.append(Fault(0.0, "dead", dead, rng.choice((0, 1))))
        case "kill" | "vanish" | "slow":
            for _ in range(rng.choice((1, 1, 3))):
                at_s += rng.choice((0, 0, 0.3))
                faults.append(Fault(at_s, kind, rng.randrange(ranks), rng.choice((0, 1))))
        case "restart":
            faults.append(Fault(at_s, "kill", rank, 0))
            faults.append(Fault(at_s + rng.choice((0.0001, 0.01, 0.4, 3)), "restart", rank))
        case "adjacent":
            for above in [*ancestors(made.spec, rank), rank][-2:]:
                faults.append(Fault(at_s + rng.choice((0, 0.001, 0.1)), "kill", above))
        case "first":
            low, _ = rng.choice(tree.split(0, ranks, made.spec.fanout))
            faults.append(Fault(at_s, rng.choice(("kill", "kill", "vanish", "freeze")), low, 20))
        case "inner":
            for above in {above for each in range(ranks) for above in ancestors(made.spec, each)}:
                faults.append(Fault(at_s + rng.uniform(0, 0.2), "kill", above))
        case "drop":
            faults.append(Fault(at_s, "drop", rank))
        case "drops":
            for _ in range(10):
                faults.append(Fault(rng.uniform(0, 2), "drop", rng.randrange(ranks)))
        case "silence":
            faults.append(Fault(at_s, "silence", rank, rng.choice((0, 1))))
        case "freeze" | "thaw":
            faults.append(
                Fault(at_s, "freeze", rank, rng.uniform(14, 40) if kind == "freeze" else rng.uniform(0, 2))
            )
        case _:
            _disturb(rng, made, kind, at_s)


def _disturb(rng: Random, made: Scenario, kind: str, at_s: float) -> None:
    habits = made.habits
    match kind:
        case "stall":
            habits.stalls = (at_s, at_s + rng.choice((0.5, 5, 20)))
            return
        case "gone":
            habits.gone_at_s = at_s
        case "root":
            made.faults.append(Fault(at_s, rng.choice(("kill", "vanish")), -1))
        case "signal":
            habits.commands.append((at_s, frames.Signal(rng.choice((1, 2, 15)))))
        case "kill job":
            habits.commands.append((at_s, frames.Kill(rng.random() < 0.5)))
    made.disturbed = True


def ancestors(spec: JobSpec, rank: int) -> list[int]:
    """Return the ranks above a rank in the job's initial tree, outermost first."""
    above: list[int] = []
    ranges = tree.split(0, spec.ranks, spec.fanout)
    while True:
        low, high = next(pair for pair in ranges if pair[0] <= rank < pair[1])
        if low == rank:
            return above
        above.append(low)
        ranges = tree.children(low, high, spec.fanout)


def betrayed(made: Scenario) -> frozenset[int]:
    """Return the ranks of captured relays, and those below them: an attacker may do everything to these."""
    captured = {fault.rank for fault in made.faults if fault.kind in CAPTURED}
    return frozenset(
        rank
        for rank in range(made.spec.ranks)
        if captured and not captured.isdisjoint([*ancestors(made.spec, rank), rank])
    )


def clean(made: Scenario) -> list[bool]:
    """Return for each rank whether no fault may change its outcome.

    Its own daemon has no fault (one dropped link, or one upgrade, does not count: the rank is asked again),
    and the faults on the way to it are either all detected at once, or there is only one: an orphan waits
    ORPHAN_GRACE_S, but a silent daemon is detected only after LOST_AFTER_S.
    """
    kinds: dict[int, list[str]] = {}
    for fault in made.faults:
        kinds.setdefault(fault.rank, []).append(fault.kind)
    result = []
    for rank in range(made.spec.ranks):
        own = kinds.get(rank, [])
        on_the_way = [kind for each in ancestors(made.spec, rank) for kind in kinds.get(each, [])] + own
        seen_at_once = ABRUPT.issuperset(on_the_way)
        result.append(own in ([], ["drop"], ["upgrade"]) and (seen_at_once or len(on_the_way) == 1))
    return result
