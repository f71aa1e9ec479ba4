"""Daemons die with their processes; their peers detect it at once."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults.kind import FaultKind, some
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    some(rng, made, "kill")


def strike(cluster: Cluster, fault: Fault) -> None:
    cluster.daemon(fault.rank).kill()


KIND = FaultKind("kill", plan, strike, weight=2)
