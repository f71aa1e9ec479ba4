"""A daemon is started again, and a Start that it had before arrives a second time."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults.kind import FaultKind
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    at_s, rank = rng.uniform(0.01, 0.3), rng.randrange(made.spec.ranks)
    for kind in ("kill", "restart", "replay"):
        made.faults.append(Fault(at_s, kind, rank))
        at_s += rng.uniform(0.0001, 0.1)


def strike(cluster: Cluster, fault: Fault) -> None:
    daemon = cluster.daemon(fault.rank)
    if daemon.last_asked is not None:
        start, parent = daemon.last_asked
        parent.send_apart(daemon, start)


KIND = FaultKind("replay", plan, strike, weight=0, chance=0.05)
