"""Nodes vanish: their peers detect only silence."""

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
        at_s += rng.choice((0, 0, 0.3))
        made.faults.append(Fault(at_s, "vanish", rng.randrange(made.spec.ranks)))


def strike(cluster: Cluster, fault: Fault) -> None:
    cluster.daemon(fault.rank).kill(vanish=True)


KIND = FaultKind("vanish", plan, strike, detected=kind.LATE)
