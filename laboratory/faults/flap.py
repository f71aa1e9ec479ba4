"""A daemon dies and is started again, several times."""

from __future__ import annotations

from random import Random

from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario


def plan(rng: Random, made: Scenario) -> None:
    at_s, rank = when(rng), rng.randrange(made.spec.ranks)
    for _ in range(rng.randint(2, 6)):
        made.faults.append(Fault(at_s, "kill", rank))
        at_s += rng.choice((0.001, 0.1, 1))
        made.faults.append(Fault(at_s, "restart", rank))
        at_s += rng.choice((0.001, 0.1, 1))


KIND = FaultKind("flap", plan)
