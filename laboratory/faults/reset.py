"""A link is reset in the middle of a frame."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    made.faults.append(Fault(when(rng), "reset", rng.randrange(made.spec.ranks)))


def strike(cluster: Cluster, fault: Fault) -> None:
    for link in cluster.daemon(fault.rank).upward:
        cluster.world.rng.choice((link.dialler, link.acceptor)).resets_next = True


KIND = FaultKind("reset", plan, strike)
