"""The client reads nothing for a while: all buffers on the way to it fill up."""

from __future__ import annotations

from random import Random

from laboratory.faults.kind import FaultKind, when
from laboratory.script import Scenario


def plan(rng: Random, made: Scenario) -> None:
    at_s = when(rng)
    made.habits.stalls = (at_s, at_s + rng.choice((0.5, 5, 20)))


KIND = FaultKind("stall", plan)
