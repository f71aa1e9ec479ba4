"""A node is rebooted in a background job: its daemon and its keepers end, and the daemon is started again."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import background
from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    if not made.spec.background:
        background.plan(rng, made)
    at_s, rank = when(rng), rng.randrange(made.spec.ranks)
    made.faults.append(Fault(at_s, "reboot", rank))
    made.faults.append(Fault(at_s + rng.uniform(0.5, 5.0), "restart", rank))


def strike(cluster: Cluster, fault: Fault) -> None:
    daemon = cluster.daemon(fault.rank)
    daemon.kill()
    daemon.ground.reboot()


KIND = FaultKind("reboot", plan, strike, weight=0, chance=0.02)
