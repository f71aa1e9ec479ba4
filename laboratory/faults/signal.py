"""The client sends a signal, or ends the job, at any time."""

from __future__ import annotations

from random import Random

from gexec.wire import frames
from laboratory.faults.kind import FaultKind, when
from laboratory.script import Scenario


def plan(rng: Random, made: Scenario) -> None:
    signals = [frames.Signal(signum) for signum in (1, 2, 15)]
    frame = rng.choice([*signals, frames.Kill(False), frames.Kill(True), frames.Kill(True)])
    made.habits.commands.append((when(rng), frame))
    made.disturbed = True


KIND = FaultKind("signal", plan, weight=2)
