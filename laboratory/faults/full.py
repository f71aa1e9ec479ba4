"""Every buffer is full: much output and stdin, a client that stalls, processes that read slowly."""

from __future__ import annotations

from random import Random

from gexec import limits
from gexec.wire.frames import STDERR, STDOUT
from laboratory.faults.kind import FaultKind
from laboratory.script import Scenario


def plan(rng: Random, made: Scenario) -> None:
    spec = made.spec
    spec.window = limits.WINDOW_MIN_BYTES
    made.habits.stalls = (0.001, rng.choice((1.0, 5.0, 20.0)))
    each = max(1, min(6, 60 // spec.ranks))
    for plan in made.plans:
        plan.writes += [(0.001, rng.choice((STDOUT, STDERR)), rng.randbytes(70_000)) for _ in range(each)]
        plan.pause_s = rng.choice((0.002, 0.05))


KIND = FaultKind("full", plan)
