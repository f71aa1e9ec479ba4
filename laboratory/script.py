"""What a simulation needs before it begins: the job, what its processes and its client do, the faults."""

from __future__ import annotations

from dataclasses import dataclass, field

from gexec.core import tree
from gexec.wire.jobspec import JobSpec
from laboratory.clients import Habits
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
        rank: whose daemon it hits; -1 is the root's.
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
    """The whole script of a simulation."""

    spec: JobSpec
    plans: list[Plan]
    habits: Habits
    faults: list[Fault] = field(default_factory=list)
    #: Signals, or an early end of client or root: outcomes then differ from the plan.
    disturbed: bool = False
    #: What users share of each daemon's dials; the only one here gets half.
    dials: int = 16_384
    #: How long the credential is valid, in wall time.
    ttl_s: float = 1e9

    @property
    def quiet_s(self) -> float:
        """When the last fault has ended."""
        ends = [fault.at_s + (MOMENTS_S if fault.moment else fault.lasts_s) for fault in self.faults]
        stalls = self.habits.stalls
        return max([0.0, *ends] + ([stalls[1]] if stalls is not None else []))


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
        if not captured.isdisjoint([*ancestors(made.spec, rank), rank])
    )
