"""The root's daemon dies or vanishes."""

from __future__ import annotations

from random import Random

from laboratory.faults.kind import FaultKind, when
from laboratory.script import ROOT, Fault, Scenario


def plan(rng: Random, made: Scenario) -> None:
    made.faults.append(Fault(when(rng), rng.choice(("kill", "vanish")), ROOT))
    made.disturbed = True


KIND = FaultKind("root_gone", plan)
