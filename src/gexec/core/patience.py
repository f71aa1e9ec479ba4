"""How often the root requests output of a rank again, because what its node reports does not fit together.

After a loss a node sends again what may be missing, so a few requests are usual. A node that lies could make
the root, and all nodes on the way, send everything again without end.
"""

from __future__ import annotations

from typing import ClassVar

from gexec import limits
from gexec.core.saving import Savable


class Patience(Savable):
    """RESENDS_MAX requests for each rank at once, and then one in RESEND_EVERY_S."""

    SAVED: ClassVar[str] = "_counted"

    def __init__(self) -> None:
        #: Requests that are not forgotten yet, and when that was counted.
        self._counted: dict[int, tuple[float, float]] = {}

    def lasts(self, rank: int, now_s: float) -> bool:
        """Count a request; False if there were too many."""
        before, at_s = self._counted.get(rank, (0.0, now_s))
        count = max(0.0, before - (now_s - at_s) / limits.RESEND_EVERY_S) + 1
        self._counted[rank] = (count, now_s)
        return count <= limits.RESENDS_MAX
