"""A link is lost, and only one end detects it: the other one when it sends."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import kind
from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    for _ in range(rng.choice((1, 1, 4))):
        made.faults.append(Fault(when(rng), "half_open", rng.randrange(made.spec.ranks)))


def strike(cluster: Cluster, fault: Fault) -> None:
    for link in cluster.daemon(fault.rank).upward:
        end = cluster.world.rng.choice((link.dialler, link.acceptor))
        cluster.world.after(0.0, end.daemon, end.close, "the link was lost", False)


KIND = FaultKind("half_open", plan, strike, detected=kind.LATE)
