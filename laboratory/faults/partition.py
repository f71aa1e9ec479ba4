"""Some nodes cannot reach the others, or cannot be reached, or both, for a time."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import kind
from laboratory.faults.kind import FaultKind, when
from laboratory.script import ROOT, Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    ranks = made.spec.ranks
    size = rng.choice((1, 2, max(1, ranks // 3)))
    rank, *others = rng.sample(range(ranks), min(ranks, size))
    lasts_s = rng.choice((rng.uniform(0, 2), rng.uniform(0, 14), rng.uniform(14, 40)))
    made.faults.append(Fault(when(rng), "partition", rank, rng.choice((0, 1, 2)), lasts_s, tuple(others)))


def strike(cluster: Cluster, fault: Fault) -> None:
    apart = frozenset((fault.rank, *fault.ranks))
    others = frozenset(range(ROOT, cluster.size)) - apart
    until_s = cluster.world.now_s + fault.lasts_s
    if fault.value != 1:
        cluster.clogs.wall(apart, others, until_s)
    if fault.value != 0:
        cluster.clogs.wall(others, apart, until_s)


KIND = FaultKind("partition", plan, strike, weight=2, detected=kind.ISOLATED)
