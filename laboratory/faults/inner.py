"""All inner nodes die, within a fifth of a second."""

from __future__ import annotations

from random import Random

from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario, ancestors


def plan(rng: Random, made: Scenario) -> None:
    at_s = when(rng)
    inner = {above for rank in range(made.spec.ranks) for above in ancestors(made.spec, rank)}
    for rank in sorted(inner):
        made.faults.append(Fault(at_s + rng.uniform(0, 0.2), "kill", rank))


KIND = FaultKind("inner", plan)
