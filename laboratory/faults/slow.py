"""Nodes are 100 times slower on all their links."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import kind
from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    at_s = when(rng)
    for _ in range(rng.choice((1, 1, 3))):
        lasts_s = rng.choice((5.0, 20.0, 60.0))
        made.faults.append(Fault(at_s, "slow", rng.randrange(made.spec.ranks), 100.0, lasts_s))


def strike(cluster: Cluster, fault: Fault) -> None:
    daemon = cluster.daemon(fault.rank)
    daemon.slow = fault.value
    cluster.world.after(fault.lasts_s, None, setattr, daemon, "slow", 1.0)


KIND = FaultKind("slow", plan, strike, detected=kind.LATE)
