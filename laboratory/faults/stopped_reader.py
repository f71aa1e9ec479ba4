"""Processes stop reading, some of which not even SIGKILL ends, in jobs with a stall time."""

from __future__ import annotations

from random import Random

from gexec.wire import jobspec
from laboratory.faults.kind import FaultKind
from laboratory.script import Scenario


def plan(rng: Random, made: Scenario) -> None:
    spec = made.spec
    if spec.flags & jobspec.NO_STDIN or rng.random() < 0.5:
        return
    spec.stall_s = rng.choice((2.0, 5.0, 30.0))
    if rng.random() < 0.2:
        spec.flags |= jobspec.PROMPT
    stopped = rng.choice((0, 1, 1, 2, spec.ranks))
    for rank in rng.sample(range(spec.ranks), min(stopped, spec.ranks)):
        plan = made.plans[rank]
        if plan.refusal is None:
            plan.reads = None
            plan.stops_at = rng.choice((0, 0, rng.randrange(1 + len(made.habits.stdin))))
            plan.stubborn = True
            plan.hangs = rng.random() < 0.5


KIND = FaultKind("stopped_reader", plan, weight=0, chance=1.0)
