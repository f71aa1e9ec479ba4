"""Daemons of the version before: they speak protocol version 1 in some nodes, or in most."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from gexec import limits
from laboratory.faults import kind
from laboratory.faults.kind import FaultKind
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    share = rng.choice((0.1, 0.5, 0.9))
    made.faults += [Fault(0.0, "older", rank) for rank in range(-1, made.spec.ranks) if rng.random() < share]


def strike(cluster: Cluster, fault: Fault) -> None:
    cluster.daemon(fault.rank).version = limits.PROTOCOL_OLDEST


KIND = FaultKind("older", plan, strike, chance=0.1, detected=kind.HARMLESS)
