"""Nodes vanish: their peers detect only silence."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import kind
from laboratory.faults.kind import FaultKind, some
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    some(rng, made, "vanish")


def strike(cluster: Cluster, fault: Fault) -> None:
    cluster.daemon(fault.rank).kill(vanish=True)


KIND = FaultKind("vanish", plan, strike, detected=kind.LATE)
