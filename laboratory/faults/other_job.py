"""A second job runs on some of the nodes at the same time, from the same host."""

from __future__ import annotations

from random import Random

from gexec.wire.frames import STDOUT
from laboratory import script
from laboratory.clients import Habits
from laboratory.faults.kind import FaultKind
from laboratory.processes import Plan
from laboratory.script import Scenario


def plan(rng: Random, made: Scenario) -> None:
    ranks = rng.randint(1, made.spec.ranks)
    first = rng.randint(0, made.spec.ranks - ranks)
    writes = [(rng.uniform(0.001, 0.5), STDOUT, rng.randbytes(rng.choice((10, 5000))))] * rng.choice(
        (0, 1, 5)
    )
    other = Scenario(
        script.job(ranks, rng.choice((2, 4, 16)), first),
        [Plan(list(writes), rng.choice((0, 0, 3))) for _ in range(ranks)],
        Habits(),
        first=first,
        begins_s=rng.choice((0.0, rng.uniform(0, 0.05), rng.uniform(0, 2))),
    )
    made.beside.append(other)


KIND = FaultKind("other_job", plan, weight=0, chance=0.1)
