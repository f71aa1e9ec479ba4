"""What the checks of a result look at (laboratory.checks)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laboratory.clients import SimClient
    from laboratory.jobs import SimJob
    from laboratory.script import Scenario


@dataclass
class Evidence:
    """A simulation after its end.

    Attributes:
        untouched: for each rank, whether no fault may have changed its outcome.
    """

    made: Scenario
    job: SimJob
    client: SimClient
    untouched: list[bool]

    @property
    def unable(self) -> list[int]:
        """The ranks that could not start, and of which no captured relay could report that they can."""
        dead = [fault.rank - self.job.first for fault in self.made.faults if fault.kind == "dead"]
        refused = [rank for rank, plan in enumerate(self.made.plans) if plan.refusal is not None]
        return [rank for rank in dead + refused if self._is_honest(rank)]

    def _is_honest(self, rank: int) -> bool:
        return 0 <= rank < self.made.spec.ranks and rank not in self.job.betrayed
