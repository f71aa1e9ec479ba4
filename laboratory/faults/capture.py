"""One relay or two also send whatever an attacker likes (laboratory.captured)."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.captured import CapturedRelay
from laboratory.faults import kind
from laboratory.faults.kind import FaultKind
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster

#: What it does: see CapturedRelay.act.
ACTS = ("seize", "refuse", "forge")


def plan(rng: Random, made: Scenario) -> None:
    ranks = made.spec.ranks
    for rank in rng.sample(range(ranks), min(ranks - 1, rng.choice((1, 1, 2)))):
        for _ in range(rng.choice((1, 2, 4))):
            at_s = rng.choice((rng.uniform(0, 0.05), rng.uniform(0, 0.5), rng.uniform(0, 5)))
            made.faults.append(Fault(at_s, "capture", rank, rng.randrange(len(ACTS))))


def strike(cluster: Cluster, fault: Fault) -> None:
    CapturedRelay(cluster.daemon(fault.rank)).act(ACTS[int(fault.value)])


KIND = FaultKind("capture", plan, strike, weight=0, chance=0.25, detected=kind.LATE)
