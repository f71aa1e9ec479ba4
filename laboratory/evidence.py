"""What the checks of a result look at (laboratory.checks)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laboratory.clients import SimClient
    from laboratory.daemons import Cluster
    from laboratory.script import Scenario


@dataclass
class Evidence:
    """A simulation after its end.

    Attributes:
        untouched: for each rank, whether no fault may have changed its outcome.
    """

    made: Scenario
    cluster: Cluster
    client: SimClient
    untouched: list[bool]

    @property
    def unable(self) -> list[int]:
        """The ranks that could not start, and of which no captured relay could report that they can."""
        dead = [fault.rank for fault in self.made.faults if fault.kind == "dead"]
        refused = [rank for rank, plan in enumerate(self.made.plans) if plan.refusal is not None]
        return [rank for rank in dead + refused if rank not in self.cluster.betrayed]
