"""A daemon dies when it has just started a process, before it reports it."""

from __future__ import annotations

from random import Random

from laboratory import moments
from laboratory.faults.kind import FaultKind
from laboratory.script import Fault, Scenario


def plan(rng: Random, made: Scenario) -> None:
    for rank in rng.sample(range(made.spec.ranks), min(made.spec.ranks, rng.choice((1, 1, 3)))):
        made.faults.append(Fault(0.0, "kill", rank, moment=moments.AFTER_SPAWN))
        if rng.random() < 0.5:
            made.faults.append(Fault(rng.uniform(0, 1), "restart", rank))


KIND = FaultKind("crash_after_spawn", plan)
