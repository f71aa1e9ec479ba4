"""A daemon is upgraded: its relay writes the jobs down, and another one continues with them.

The links are lost; jobs, clients and processes stay. The relay's own code does it (gexec.relay.carrying).
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from gexec.relay import carrying
from gexec.wire import values
from laboratory.faults.kind import FaultKind, when
from laboratory.jobs import UID
from laboratory.script import ROOT, Fault, Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster

#: The longest time from the end of the old relay to the first step of the new one.
PAUSE_MAX_S = 3.0


def plan(rng: Random, made: Scenario) -> None:
    """Upgrade some daemons, once, or all of them; at times the submitting host's."""
    ranks = range(ROOT, made.spec.ranks)
    together_s = when(rng)
    for rank in rng.sample(ranks, rng.choice((1, 1, min(2, len(ranks)), len(ranks)))):
        at_s = together_s + rng.choice((0.0, rng.uniform(0, 0.01), rng.uniform(0, 5)))
        made.faults.append(Fault(at_s, "upgrade", rank, lasts_s=rng.uniform(0, PAUSE_MAX_S)))


def strike(cluster: Cluster, fault: Fault) -> None:
    daemon = cluster.daemon(fault.rank)
    # A relay that stands still hands nothing over, and one that is being replaced is not replaced again.
    if not daemon.alive or daemon.frozen_until_s > cluster.world.now_s:
        return
    clients = carrying.clients(daemon.jobs)
    raw = b"".join(values.encode(carrying.save(daemon.jobs, [])))
    daemon.end_relay()
    for client in clients:
        daemon.jobs.link_accepted(client, UID)
    made = carrying.restore(daemon.jobs, values.decode(raw), clients)
    daemon.freeze(fault.lasts_s, machine=False)
    for job in made:
        daemon.world.after(0.0, daemon, job.go_on)


KIND = FaultKind("upgrade", plan, strike, weight=2, chance=0.15)
