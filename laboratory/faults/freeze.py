"""A machine stands still, for less than it takes to be given up, or for longer."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import kind
from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    lasts_s = rng.uniform(14, 40) if rng.random() < 0.5 else rng.uniform(0, 2)
    made.faults.append(Fault(when(rng), "freeze", rng.randrange(made.spec.ranks), lasts_s=lasts_s))


def strike(cluster: Cluster, fault: Fault) -> None:
    cluster.daemon(fault.rank).freeze(fault.lasts_s)


KIND = FaultKind("freeze", plan, strike, weight=2, detected=kind.LATE)
