"""A child of the root dies, vanishes or stands still."""

from __future__ import annotations

from random import Random

from gexec.core import tree
from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario


def plan(rng: Random, made: Scenario) -> None:
    low, _ = rng.choice(tree.split(0, made.spec.ranks, made.spec.fanout))
    kind = rng.choice(("kill", "kill", "vanish", "freeze"))
    made.faults.append(Fault(when(rng), kind, low, lasts_s=20 if kind == "freeze" else 0))


KIND = FaultKind("first", plan)
