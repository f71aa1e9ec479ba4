"""The wall clock of a node jumps: only the age of credentials depends on it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    made.ttl_s = 600.0
    jump_s = rng.choice((-1, 1)) * rng.choice((5.0, 100.0, 100_000.0))
    made.faults.append(Fault(when(rng), "jump", rng.randrange(made.spec.ranks), jump_s))


def strike(cluster: Cluster, fault: Fault) -> None:
    cluster.daemon(fault.rank).wall_ahead_s += fault.value


KIND = FaultKind("jump", plan, strike)
