"""The client is gone without a message."""

from __future__ import annotations

from random import Random

from laboratory.faults.kind import FaultKind, when
from laboratory.script import Scenario


def plan(rng: Random, made: Scenario) -> None:
    made.habits.gone_at_s = when(rng)
    made.disturbed = True


KIND = FaultKind("client_gone", plan)
