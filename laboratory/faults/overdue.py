"""A daemon that was stopped looks at all its overdue timers before it reads what came meanwhile."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import kind
from laboratory.faults.kind import FaultKind, when
from laboratory.script import ROOT, Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster

#: Less than limits.LOST_AFTER_S.
_ROOT_MAX_S = 14.0


def plan(rng: Random, made: Scenario) -> None:
    """Stop one daemon, or two at different times; for less than it takes to be given up, or for longer."""
    for _ in range(rng.choice((1, 1, 2))):
        lasts_s = rng.choice((rng.uniform(0, 2), rng.uniform(2, 14), rng.uniform(14, 60)))
        rank = rng.choice((ROOT, rng.randrange(made.spec.ranks)))
        if rank == ROOT:
            lasts_s = min(lasts_s, _ROOT_MAX_S)  # nobody else takes over those below it
        made.faults.append(Fault(when(rng), "overdue", rank, lasts_s=lasts_s))


def strike(cluster: Cluster, fault: Fault) -> None:
    daemon = cluster.daemon(fault.rank)
    cluster.world.timers_first.add(daemon)
    daemon.freeze(fault.lasts_s, machine=False)


KIND = FaultKind("overdue", plan, strike, weight=0, chance=0.15, detected=kind.LATE)
