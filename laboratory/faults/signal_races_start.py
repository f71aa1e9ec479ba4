"""The client sends a signal when a process is just being started."""

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
    signum = rng.choice((1, 2, 9, 15))
    made.faults.append(Fault(0.0, "signal_races_start", rank, signum, moment=moments.AFTER_SPAWN))
    made.disturbed = True


def strike(cluster: Cluster, fault: Fault) -> None:
    cluster.client_sends(frames.Signal(int(fault.value)))


KIND = FaultKind("signal_races_start", plan, strike)
