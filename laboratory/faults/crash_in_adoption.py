"""A node is lost, and one of those below it dies when it is to be adopted."""

from __future__ import annotations

from random import Random

from laboratory import moments
from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario, ancestors


def plan(rng: Random, made: Scenario) -> None:
    inner = [rank for rank in range(made.spec.ranks) if ancestors(made.spec, rank)]
    if not inner:
        return
    rank = rng.choice(inner)
    at_s = when(rng)
    made.faults.append(Fault(at_s, rng.choice(("kill", "drop")), ancestors(made.spec, rank)[-1]))
    made.faults.append(Fault(at_s, "kill", rank, moment=moments.ADOPTION))


KIND = FaultKind("crash_in_adoption", plan)
