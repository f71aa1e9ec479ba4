"""Some processes cannot be started."""

from __future__ import annotations

from random import Random

from gexec.wire import outcome as outcomes
from laboratory.faults.kind import FaultKind
from laboratory.script import Scenario


def plan(rng: Random, made: Scenario) -> None:
    reasons = (outcomes.not_started("no such file", 2), outcomes.denied("no account"))
    for plan in made.plans:
        if plan.stops_at is None and rng.random() < 0.1:
            plan.refusal = rng.choice(reasons)


KIND = FaultKind("spawn_failure", plan, weight=0, chance=0.1)
