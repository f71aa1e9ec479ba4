"""Daemons are stopped, machines freeze or all are suspended, at any time, for up to two minutes."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import kind
from laboratory.faults.kind import FaultKind
from laboratory.script import ROOT, Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    long_s = rng.choice((2.0, 13.0, 20.0, 40.0, 120.0))
    for _ in range(rng.choice((1, 1, 2, 5))):
        at_s = rng.choice((rng.uniform(0, 0.01), rng.uniform(0, 0.3), rng.uniform(0, 3), rng.uniform(0, 30)))
        kind = rng.choice(("freeze", "freeze", "stop", "suspend"))
        rank = ROOT if kind == "suspend" else rng.randrange(made.spec.ranks)
        made.faults.append(Fault(at_s, kind, rank, lasts_s=rng.uniform(0, long_s)))
    if rng.random() < 0.3:
        for plan in made.plans:
            plan.leaves_s = rng.choice((0.0, 1.0, 10.0, 30.0))
            plan.chatters = rng.random() < 0.3


def strike(cluster: Cluster, fault: Fault) -> None:
    """Stop a daemon; its processes go on."""
    cluster.daemon(fault.rank).freeze(fault.lasts_s, machine=False)


KIND = FaultKind("stop", plan, strike, weight=0, chance=0.35, detected=kind.LATE)
