"""Single directions between nodes are clogged and open again, in random order."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import kind
from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario, ancestors

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    ranks = made.spec.ranks
    if ranks < 2:
        return
    long_s = rng.choice((0.1, 1, 5, 20))
    for _ in range(rng.choice((1, 3, 10))):
        rank = rng.randrange(ranks)
        # Most links are those of the tree.
        above = ancestors(made.spec, rank)[-2:]
        other = rng.choice(above) if above and rng.random() < 0.8 else rng.randrange(ranks)
        pair = (rank, other) if rng.random() < 0.5 else (other, rank)
        made.faults.append(Fault(when(rng), "clog", pair[0], 0, rng.uniform(0, long_s), pair[1:]))


def strike(cluster: Cluster, fault: Fault) -> None:
    cluster.clogs.clog(fault.rank, fault.ranks[0], cluster.world.now_s + fault.lasts_s)


KIND = FaultKind("clog", plan, strike, weight=2, detected=kind.ISOLATED)
