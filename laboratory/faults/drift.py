"""Clocks of nodes run up to 1 % fast or slow, and begin anywhere."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import kind
from laboratory.faults.kind import FaultKind
from laboratory.script import ROOT, Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    ranks = made.spec.ranks
    for rank in rng.sample(range(ROOT, ranks), rng.randint(1, ranks)):
        made.faults.append(Fault(0.0, "drift", rank, rng.uniform(0.99, 1.01)))


def strike(cluster: Cluster, fault: Fault) -> None:
    daemon = cluster.daemon(fault.rank)
    if not daemon.jobs.by_key:
        daemon.timers.set(cluster.world.rng.uniform(0, 1e6), fault.value)
        daemon.begin()


KIND = FaultKind("drift", plan, strike, detected=kind.HARMLESS)
