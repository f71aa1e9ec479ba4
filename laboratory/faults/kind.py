"""What a module of a fault defines, and when faults strike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster

#: Peers detect it at once.
AT_ONCE = 0
#: Peers detect it only after a timeout.
LATE = 1
#: It may change no outcome.
HARMLESS = 2
#: A node cannot reach others, and takes them for dead: nothing is expected of ranks below it.
ISOLATED = 3


@dataclass(frozen=True)
class FaultKind:
    """One kind of fault.

    Attributes:
        plan: adds such faults to a scenario: to its list of faults, or to what processes and client do.
        strike: lets a fault of the list happen; None if its plan has none of this name.
        weight: how often it is drawn, among the few that most seeds have.
        chance: instead, the part of all seeds that have it in any case.
        detected: how peers detect it.
    """

    name: str
    plan: Callable[[Random, Scenario], None]
    strike: Callable[[Cluster, Fault], None] | None = None
    weight: int = 1
    chance: float = 0.0
    detected: int = AT_ONCE


def some(rng: Random, made: Scenario, name: str) -> None:
    """Let a fault strike one node or three, at once or soon after each other."""
    at_s = when(rng)
    for _ in range(rng.choice((1, 1, 3))):
        at_s += rng.choice((0, 0, 0.3))
        made.faults.append(Fault(at_s, name, rng.randrange(made.spec.ranks)))


def when(rng: Random) -> float:
    """Return a time: while the job starts, soon after it, or later."""
    return rng.choice((rng.uniform(0, 0.01), rng.uniform(0, 0.3), rng.uniform(0, 3)))
