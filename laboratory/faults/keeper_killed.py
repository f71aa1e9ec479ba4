"""The keeper of a background job's rank is killed, and its command is not."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import background, kind
from laboratory.faults.kind import FaultKind, some
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    if not made.spec.background:
        background.plan(rng, made)
    some(rng, made, "keeper_killed")


def strike(cluster: Cluster, fault: Fault) -> None:
    for keeper in cluster.daemon(fault.rank).ground.keepers:
        if keeper.runs:
            keeper.end()


KIND = FaultKind("keeper_killed", plan, strike, weight=0, chance=0.02, detected=kind.HARMLESS)
