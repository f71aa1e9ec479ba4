"""Some processes read their stdin slowly: the others have it at their pace."""

from __future__ import annotations

from random import Random

from laboratory.faults.kind import FaultKind
from laboratory.script import Scenario


def plan(rng: Random, made: Scenario) -> None:
    for rank in rng.sample(range(made.spec.ranks), rng.randint(1, made.spec.ranks)):
        made.plans[rank].pause_s = rng.choice((0.02, 0.1))


KIND = FaultKind("slow_reader", plan)
