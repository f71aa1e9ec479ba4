"""What a simulation needs before it begins: the job, what its processes and its client do, the faults."""

from __future__ import annotations

from dataclasses import dataclass, field

from gexec import limits
from gexec.core import tree
from gexec.wire import jobspec
from gexec.wire.jobspec import JobSpec
from laboratory.clients import Habits
from laboratory.jobs import TTL_S
from laboratory.processes import Plan

#: The rank of the root's daemon.
ROOT = -1
#: How long a fault waits for its moment.
MOMENTS_S = 30.0
#: So many of a fault's ranks are shown.
_SHOWN = 8


@dataclass
class Fault:
    """One fault, of a kind that ``laboratory.faults`` lists.

    Attributes:
        rank: whose daemon it hits: a rank of the first job, or any node; -1 is the root's.
        value: what its kind says.
        lasts_s: how long it lasts.
        ranks: further daemons that it hits.
        moment: instead of at ``at_s`` it strikes when something happens at the rank's node for the first
            time after that (laboratory.moments).
    """

    at_s: float
    kind: str
    rank: int
    value: float = 0.0
    lasts_s: float = 0.0
    ranks: tuple[int, ...] = ()
    moment: str = ""

    def __str__(self) -> str:
        where = "the root's daemon" if self.rank == ROOT else f"rank {self.rank}"
        if self.ranks:
            shown = ", ".join(map(str, self.ranks[:_SHOWN]))
            where += f" and {shown}" + (", ..." if len(self.ranks) > _SHOWN else "")
        at = f"at {self.at_s:.4f} s" if not self.moment else f"at the moment {self.moment!r}"
        lasts = f" for {self.lasts_s:.4g} s" if self.lasts_s else ""
        value = f" ({self.value:g})" if self.value else ""
        return f"{self.kind}{value} of {where} {at}{lasts}"


@dataclass
class Scenario:
    """The whole script of a simulation: of its first job, and of others beside it."""

    spec: JobSpec
    plans: list[Plan]
    habits: Habits
    faults: list[Fault] = field(default_factory=list)
    #: Signals, or an early end of client or root: outcomes then differ from the plan.
    disturbed: bool = False
    #: What users share of each daemon's dials; the only one here gets half.
    dials: int = 16_384
    #: How long the credential is valid, in wall time.
    ttl_s: float = TTL_S
    #: The node of rank 0: faults are of nodes, and ranks are counted from it. Of the first job it is 0.
    first: int = 0
    #: When the client submits the job.
    begins_s: float = 0.0
    #: Jobs that run at the same time in the same world; all faults are those of the first job.
    beside: list[Scenario] = field(default_factory=list)

    @property
    def all(self) -> list[Scenario]:
        """The first job and those beside it."""
        return [self, *self.beside]

    def share(self) -> Scenario:
        """Let the jobs beside it have the same faults, when these are complete; return it."""
        for other in self.beside:
            other.faults = self.faults
            other.disturbed = other.disturbed or self.disturbed
        return self

    @property
    def quiet_s(self) -> float:
        """When the last fault has ended."""
        ends = [fault.at_s + (MOMENTS_S if fault.moment else fault.lasts_s) for fault in self.faults]
        stalls = self.habits.stalls
        begin = [other.begins_s for other in self.beside]
        return max([0.0, *ends, *begin] + ([stalls[1]] if stalls is not None else []))


def job(ranks: int, fanout: int, first: int = 0) -> JobSpec:
    """Return a job of so many ranks, on the nodes from ``first`` on."""
    return JobSpec(
        names=[b"node%d" % node for node in range(first, first + ranks)],
        addresses=[b"10.0.0.1:2875"] * ranks,
        program=b"/bin/true",
        argv=[b"true"],
        env=[],
        flags=jobspec.NO_STDIN,
        fanout=fanout,
        window=limits.window_bytes(ranks),
        timeout_s=0.0,
    )


def ancestors(spec: JobSpec, rank: int) -> list[int]:
    """Return the ranks above a rank in the job's initial tree, outermost first."""
    return [low for low, _ in tree.lineage(spec.ranks, spec.fanout, rank)[:-1]]


def betrayed(made: Scenario) -> frozenset[int]:
    """Return the ranks of captured relays, and those below them: an attacker may do everything to these."""
    # Only an attacker sends a Start again on another connection to a daemon that has forgotten it.
    captured = {fault.rank for fault in made.faults if fault.kind in ("capture", "replay")}
    if not captured:
        return frozenset()
    return frozenset(
        rank
        for rank in range(made.spec.ranks)
        if not captured.isdisjoint(made.first + each for each in (*ancestors(made.spec, rank), rank))
    )
