"""Nothing arrives any more in one direction of a link, and nobody is told."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults import kind
from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    made.faults.append(Fault(when(rng), "silence", rng.randrange(made.spec.ranks), rng.choice((0, 1))))


def strike(cluster: Cluster, fault: Fault) -> None:
    for link in cluster.daemon(fault.rank).upward:
        end = link.acceptor if fault.value else link.dialler
        end.silent = True


KIND = FaultKind("silence", plan, strike, detected=kind.LATE)
