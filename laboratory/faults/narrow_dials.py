"""Only a few dials are made at a time."""

from __future__ import annotations

from random import Random

from laboratory.faults.kind import FaultKind
from laboratory.script import Scenario


def plan(rng: Random, made: Scenario) -> None:
    made.dials = rng.choice((2, 4, 8, 16))


KIND = FaultKind("narrow_dials", plan, weight=0, chance=0.2)
