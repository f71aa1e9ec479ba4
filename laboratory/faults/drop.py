"""A link is lost, with both ends alive; or ten links are, at any time."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    if rng.random() < 0.7:
        made.faults.append(Fault(when(rng), "drop", rng.randrange(made.spec.ranks)))
        return
    for _ in range(10):
        made.faults.append(Fault(rng.uniform(0, 2), "drop", rng.randrange(made.spec.ranks)))


def strike(cluster: Cluster, fault: Fault) -> None:
    for link in cluster.daemon(fault.rank).upward:
        end = cluster.world.rng.choice((link.dialler, link.acceptor))
        # A frozen end detects it when it wakes up.
        cluster.world.after(0.0, end.daemon, end.close, "the link was lost")


KIND = FaultKind("drop", plan, strike, weight=3)
