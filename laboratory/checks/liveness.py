"""Liveness: after the last fault the job ends within a bound, and nothing of it is left after the grace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gexec import limits
from laboratory.script import Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster

#: From the last fault to the end of the job, including the time of processes and slow clients.
ENDS_WITHIN_S = 150.0
#: From the end of the job to the end of its last process on any node.
GONE_WITHIN_S = limits.LOST_AFTER_S + limits.ORPHAN_GRACE_S + limits.KILL_GRACE_S + limits.LINGER_S + 5.0
#: A job that does not settle by then never will: for all, and for each rank.
_EVENTS_MAX = 3_000_000
_EVENTS_EACH = 1000


def gone_by_s(made: Scenario, ended_s: float) -> float:
    """Return when nothing may be left of a job that ended at this time."""
    # A process that not even SIGKILL ends is given up after the stall time.
    return max(ended_s, made.quiet_s) + GONE_WITHIN_S + made.spec.stall_s


def events_max(made: Scenario) -> int:
    """Return how many events a simulation may have."""
    return _EVENTS_MAX + _EVENTS_EACH * made.spec.ranks


class Remains:
    """The nodes that have something of the job: it looks again only at those that had when it last looked."""

    def __init__(self, made: Scenario, cluster: Cluster) -> None:
        self._made = made
        self._cluster = cluster
        self._honest = [rank for rank in range(made.spec.ranks) if rank not in cluster.betrayed]
        self._left = list(self._honest)

    def all_gone(self) -> bool:
        """Tell whether no honest daemon has a job or a process."""
        if self._cluster.root.jobs.by_key:
            return False
        while self._left:
            if self._is_left(self._left[-1]):
                return False
            self._left.pop()
        # Who was seen gone may have been asked again since.
        self._left = [rank for rank in self._honest if self._is_left(rank)]
        return not self._left

    def _is_left(self, rank: int) -> bool:
        running = self._cluster.records[rank].running and not self._made.plans[rank].hangs
        daemon = self._cluster.nodes.get(rank)
        return bool(running or (daemon is not None and daemon.jobs.by_key))
