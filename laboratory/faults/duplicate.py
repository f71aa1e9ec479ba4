"""A Start arrives a second time, on a connection of its own."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import kind
from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    for _ in range(rng.choice((1, 3))):
        made.faults.append(Fault(when(rng), "duplicate", rng.randrange(made.spec.ranks)))


def strike(cluster: Cluster, fault: Fault) -> None:
    daemon = cluster.daemon(fault.rank)
    for start, parent in daemon.asked_by():
        parent.send_apart(daemon, start)


KIND = FaultKind("duplicate", plan, strike, weight=2, detected=kind.HARMLESS)
