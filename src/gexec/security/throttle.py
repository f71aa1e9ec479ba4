"""Which lines about a source may be written, and how many could not be: bounded in lines and in memory.

Whoever floods a daemon with refused requests must neither fill the disk nor hide other lines. Pure: the clock
is an argument and must not go backwards.
"""

from __future__ import annotations

from typing import Final

from gexec import limits
from gexec.security.rate import Rate

#: The source under which further sources are counted when a period has had SOURCES_MAX.
OTHERS: Final = "others"
_ALL: Final = 0


class Throttle:
    """Limits lines for each source and in total; counts the others by kind until the end of a period.

    A period begins with the first line that is left out, and takes limits.AUDIT_PERIOD_S.
    """

    def __init__(self) -> None:
        self._of_source = Rate(limits.AUDIT_SOURCE_PER_S, limits.AUDIT_SOURCE_BURST)
        self._in_all = Rate(limits.AUDIT_PER_S, limits.AUDIT_BURST)
        self._left_out: dict[str, dict[str, int]] = {}
        #: When the period ends; None = nothing is left out.
        self.due_s: float | None = None

    def permits(self, source: str, kind: str, now_s: float, count: int = 1) -> bool:
        """Return whether a line may be written; if not, count it.

        Args:
            source: who causes it, e.g. an address or ``uid N``.
            kind: one of a small number of words, by which lines that are left out are counted.
            count: number of events that the line reports.
        """
        if self._of_source.take(hash(source), now_s) and self._in_all.take(_ALL, now_s):
            return True
        if self.due_s is None:
            self.due_s = now_s + limits.AUDIT_PERIOD_S
        if source not in self._left_out and len(self._left_out) >= limits.AUDIT_SOURCES_MAX:
            source = OTHERS
        kinds = self._left_out.setdefault(source, {})
        kinds[kind] = kinds.get(kind, 0) + count
        return False

    def take_left_out(self) -> dict[str, dict[str, int]]:
        """End the period: return how many events of each kind were left out, by source."""
        left_out, self._left_out = self._left_out, {}
        self.due_s = None
        return left_out
