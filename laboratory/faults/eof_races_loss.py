"""A link is lost, or the node above dies, when the end of stdin has just arrived at a process."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory import moments
from laboratory.faults import drop, kill
from laboratory.faults.kind import FaultKind
from laboratory.script import Fault, Scenario, ancestors

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    rank = rng.randrange(made.spec.ranks)
    above = ancestors(made.spec, rank)[-1:]
    made.faults.append(
        Fault(0.0, "eof_races_loss", rank, rng.choice((0, 1)), ranks=tuple(above), moment=moments.STDIN_EOF)
    )


def strike(cluster: Cluster, fault: Fault) -> None:
    if fault.value and fault.ranks:
        kill.strike(cluster, Fault(0.0, "kill", fault.ranks[0]))
    else:
        drop.strike(cluster, fault)


KIND = FaultKind("eof_races_loss", plan, strike)
