"""Two adjacent ancestors of a node die, nearly at once."""

from __future__ import annotations

from random import Random

from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario, ancestors


def plan(rng: Random, made: Scenario) -> None:
    at_s, rank = when(rng), rng.randrange(made.spec.ranks)
    for above in [*ancestors(made.spec, rank), rank][-2:]:
        made.faults.append(Fault(at_s + rng.choice((0, 0.001, 0.1)), "kill", above))


KIND = FaultKind("adjacent", plan)
