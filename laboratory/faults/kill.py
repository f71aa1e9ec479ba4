"""Daemons die with their processes; their peers detect it at once."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    at_s = when(rng)
    for _ in range(rng.choice((1, 1, 3))):
        at_s += rng.choice((0, 0, 0.3))
        made.faults.append(Fault(at_s, "kill", rng.randrange(made.spec.ranks)))


def strike(cluster: Cluster, fault: Fault) -> None:
    cluster.daemon(fault.rank).kill()


KIND = FaultKind("kill", plan, strike, weight=2)
