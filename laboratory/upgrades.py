"""Upgrades of simulated daemons: the relay's own code writes the jobs down, and continues with them."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from gexec.relay import carrying
from gexec.wire import values

if TYPE_CHECKING:
    from laboratory.daemons import SimDaemon
    from laboratory.scenario import Fault, Scenario

#: The longest time from the end of the old relay to the first step of the new one.
PAUSE_MAX_S = 3.0


class Outlasting:
    """The host of what an upgrade does not end: the spawner's reports, and the bytes of clients."""

    def __init__(self, daemon: SimDaemon) -> None:
        self.life = 0
        self._daemon = daemon

    @property
    def frozen_until_s(self) -> float:
        """The relay takes nothing while its daemon does not run."""
        return self._daemon.frozen_until_s


def upgrade(daemon: SimDaemon, pause_s: float) -> None:
    """Replace a daemon's relay: the links are lost, jobs, clients and processes stay."""
    clients = daemon.jobs.clients()
    raw = b"".join(values.encode(carrying.save(daemon.jobs, [])))
    daemon.life += 1
    for end in daemon.ends.values():
        end.gone()
    daemon.ends.clear()
    daemon.begin_relay()
    for client in clients:
        daemon.jobs.link_accepted(client, UID)
    made = carrying.restore(daemon.jobs, values.decode(raw), clients)
    daemon.freeze(pause_s, machine=False)
    for job in made:
        daemon.world.after(0.0, daemon, job.go_on)


def plan_upgrades(rng: Random, made: Scenario, fault: type[Fault]) -> None:
    """Upgrade some daemons once, or all of them, in every fourth seed; at times the submitting host's."""
    if rng.random() < 0.75:
        return
    ranks = range(-1, made.spec.ranks)
    together_s = rng.choice((rng.uniform(0, 0.01), rng.uniform(0, 0.3), rng.uniform(0, 3)))
    for rank in rng.sample(ranks, rng.choice((1, 1, 2, len(ranks)))) if len(ranks) > 1 else ranks:
        at_s = together_s + rng.choice((0.0, rng.uniform(0, 0.01), rng.uniform(0, 5)))
        made.faults.append(fault(at_s, "upgrade", rank, rng.uniform(0, PAUSE_MAX_S)))


#: The user of simulated clients.
UID = 1000
