"""Some names have no address."""

from __future__ import annotations

from random import Random

from gexec.wire import outcome as outcomes
from laboratory.faults.kind import FaultKind
from laboratory.script import Scenario


def plan(rng: Random, made: Scenario) -> None:
    spec = made.spec
    addresses = list(spec.addresses)
    for rank in rng.sample(range(spec.ranks), max(1, spec.ranks // 10)):
        addresses[rank] = rng.choice((b"", b"?", b"?30"))
        made.plans[rank].refusal = outcomes.unreachable(outcomes.why_unresolved(addresses[rank]))
    spec.addresses = addresses


KIND = FaultKind("unresolved", plan, weight=0, chance=0.05)
