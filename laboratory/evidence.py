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
