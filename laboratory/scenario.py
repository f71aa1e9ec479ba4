"""The scenario of a seed: the job, the behaviour of its processes and of the client, and the faults."""

from __future__ import annotations

from random import Random

from gexec import limits
from gexec.wire import jobspec
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.jobspec import JobSpec
from laboratory import faults, script
from laboratory.clients import Habits
from laboratory.faults import background
from laboratory.faults.kind import FaultKind
from laboratory.processes import Plan
from laboratory.script import Scenario

_RANKS = (1, 2, 3, 5, 8, 13, 20, 20, 30, 30, 50, 80, 120, 200)
_DRAWN = [kind for kind in faults.ALL for _ in range(kind.weight)]
_OFTEN = [kind for kind in faults.ALL if kind.chance]


def scenario(seed: int, kinds: tuple[FaultKind, ...] | None = None) -> Scenario:
    """Return the scenario of a seed; with ``kinds`` each of these has its faults, and no other."""
    rng = Random(seed)
    ranks = rng.choice(_RANKS)
    with_stdin = rng.random() < 0.3
    made = Scenario(
        _spec(rng, ranks, with_stdin), _plans(rng, ranks, with_stdin), _habits(rng, ranks, with_stdin)
    )
    made.disturbed = bool(made.spec.timeout_s)
    if kinds is None:
        _draw(rng, seed, made)
    else:
        for kind in kinds:
            kind.plan(rng, made)
    made.faults.sort(key=lambda fault: fault.at_s)
    if made.spec.background:
        background.settle(made)
    return made.share()


def _draw(rng: Random, seed: int, made: Scenario) -> None:
    for kind in _OFTEN:
        own = Random(f"{kind.name} of {seed}")
        if own.random() < kind.chance:
            kind.plan(own, made)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        rng.choice(_DRAWN).plan(rng, made)


def _spec(rng: Random, ranks: int, with_stdin: bool) -> JobSpec:
    spec = script.job(ranks, rng.choice((2, 2, 3, 4, 8, 16)) if ranks > 12 or rng.random() < 0.8 else 1)
    spec.flags = 0 if with_stdin else jobspec.NO_STDIN
    if rng.random() < 0.15:
        spec.flags |= jobspec.STRICT
    if rng.random() < 0.05 and not with_stdin:
        spec.flags |= jobspec.DETACHED
    if rng.random() < 0.7:
        spec.window = limits.WINDOW_MIN_BYTES
    if rng.random() < 0.05:
        spec.timeout_s = 0.5
    return spec


def _plans(rng: Random, ranks: int, with_stdin: bool) -> list[Plan]:
    small = rng.random() < 0.6
    alike = rng.random() < 0.4
    common = _writes(rng, small)
    plans = []
    for _ in range(ranks):
        writes = common if alike and rng.random() < 0.9 else _writes(rng, small)
        plan = Plan([(rng.uniform(0.0005, pause), stream, data) for pause, stream, data in writes], 0)
        plan.status = rng.choice((0, 0, 0, 1, 7, 255))
        plan.stubborn = rng.random() < 0.1
        plan.leaves_s = rng.choice((0.0, 0.0, 0.0, 0.0, 0.5, 30.0)) if rng.random() < 0.2 else 0.0
        if with_stdin:
            plan.reads = rng.choice((None, None, None, 0, 1000, 100_000))
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
