"""The credential expires while the job starts."""

from __future__ import annotations

from random import Random

from laboratory.faults.kind import FaultKind
from laboratory.script import Scenario


def plan(rng: Random, made: Scenario) -> None:
    made.ttl_s = rng.choice((rng.uniform(0.001, 0.02), rng.uniform(0.001, 0.3), rng.uniform(0.001, 3)))
    made.disturbed = True


KIND = FaultKind("expiry", plan)
