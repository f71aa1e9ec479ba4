"""The client ends the job when a process has just ended by itself."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from gexec.wire import frames
from laboratory import moments
from laboratory.faults.kind import FaultKind
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster


def plan(rng: Random, made: Scenario) -> None:
    rank = rng.randrange(made.spec.ranks)
    made.faults.append(Fault(0.0, "exit_races_kill", rank, rng.choice((0, 1)), moment=moments.EXIT))
    made.disturbed = True


def strike(cluster: Cluster, fault: Fault) -> None:
    cluster.client_sends(frames.Kill(bool(fault.value)))


KIND = FaultKind("exit_races_kill", plan, strike)
