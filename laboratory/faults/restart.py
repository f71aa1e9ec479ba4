"""A daemon dies, and another one takes its place, with empty memory."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    at_s, rank = when(rng), rng.randrange(made.spec.ranks)
    made.faults.append(Fault(at_s, "kill", rank))
    made.faults.append(Fault(at_s + rng.choice((0.0001, 0.01, 0.4, 3)), "restart", rank))


def strike(cluster: Cluster, fault: Fault) -> None:
    daemon = cluster.daemon(fault.rank)
    if not daemon.alive:
        daemon.restart()


KIND = FaultKind("restart", plan, strike)
