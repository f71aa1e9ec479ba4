"""A relay is killed: the spawner starts another one, in which processes that have all of their stdin
continue; without any, gexecd ends.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from laboratory.faults.kind import FaultKind, when
from laboratory.script import Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster

#: The longest time until the new relay serves.
PAUSE_MAX_S = 3.0


def plan(rng: Random, made: Scenario) -> None:
    """Kill the relays of some nodes, at times of one node twice."""
    at_s = when(rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        rank = rng.randrange(made.spec.ranks)
        made.faults.append(Fault(at_s, "relay_dies", rank, lasts_s=rng.uniform(0.2, PAUSE_MAX_S)))
        if rng.random() < 0.3:
            again_s = at_s + rng.uniform(PAUSE_MAX_S, 3 * PAUSE_MAX_S)
            made.faults.append(Fault(again_s, "relay_dies", rank, lasts_s=rng.uniform(0.2, PAUSE_MAX_S)))
        at_s += rng.choice((0, 0, 0.3))


def strike(cluster: Cluster, fault: Fault) -> None:
    daemon = cluster.daemon(fault.rank)
    # While another relay is being started, there is none that could die.
    if daemon.alive and daemon.frozen_until_s <= cluster.world.now_s:
        daemon.relay_dies(fault.lasts_s)


KIND = FaultKind("relay_dies", plan, strike)
