"""Liveness: after the last fault the job ends within a bound, and nothing of it is left after the grace."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gexec import limits
from laboratory.script import Scenario

if TYPE_CHECKING:
    from laboratory.daemons import Cluster
    from laboratory.jobs import SimJob

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
    return _EVENTS_MAX + _EVENTS_EACH * sum(each.spec.ranks for each in made.all)


class Remains:
    """The nodes that have something of the jobs: it looks again only at those that had at its last look."""

    def __init__(self, cluster: Cluster, jobs: Iterable[SimJob]) -> None:
        self._cluster = cluster
        self._honest = [
            (job, rank) for job in jobs for rank in range(job.spec.ranks) if rank not in job.betrayed
        ]
        self._left = list(self._honest)

    def all_gone(self) -> bool:
        """Tell whether no daemon has a job that no captured one could reach there, or a process of it."""
        if self._cluster.root.jobs.by_key:
            return False
        while self._left:
            if self._is_left(*self._left[-1]):
                return False
            self._left.pop()
        # Who was seen gone may have been asked again since.
        self._left = [(job, rank) for job, rank in self._honest if self._is_left(job, rank)]
        return not self._left

    def _is_left(self, job: SimJob, rank: int) -> bool:
        running = job.records[rank].running and not job.plans[rank].hangs
        kept = job.places.get(rank)
        if kept is not None and kept.keeper is not None:
            return True
        daemon = self._cluster.nodes.get(job.first + rank)
        return bool(running or (daemon is not None and any(key[0] == job.id for key in daemon.jobs.by_key)))
