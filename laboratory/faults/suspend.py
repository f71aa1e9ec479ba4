"""All machines are suspended together."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import kind
from laboratory.faults.kind import FaultKind, when
from laboratory.script import ROOT, Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    made.faults.append(Fault(when(rng), "suspend", ROOT, lasts_s=rng.choice((1.0, 20.0, 120.0))))


def strike(cluster: Cluster, fault: Fault) -> None:
    for each in cluster.daemons:
        if each.alive:
            each.freeze(fault.lasts_s)


KIND = FaultKind("suspend", plan, strike, detected=kind.LATE)
