"""A tenth of the nodes is dead from the beginning: they refuse dials, or do not answer them."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults.kind import FaultKind
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    ranks = made.spec.ranks
    for rank in rng.sample(range(ranks), max(1, ranks // 10)):
        made.faults.append(Fault(0.0, "dead", rank, rng.choice((0, 1))))


def strike(cluster: Cluster, fault: Fault) -> None:
    daemon = cluster.daemon(fault.rank)
    if fault.value:
        daemon.swallows = True
    else:
        daemon.refuses = True


KIND = FaultKind("dead", plan, strike, weight=2)
