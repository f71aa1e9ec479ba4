"""The network between simulated daemons: which directions are clogged, and until when.

What is sent in a clogged direction arrives when it is open again, as TCP sends it again; so do dials.
"""

from __future__ import annotations


class Clogs:
    """Clogged directions between daemons, by their indices."""

    def __init__(self) -> None:
        #: When each is open again.
        self._directions: dict[tuple[int, int], float] = {}
        #: From these to those, until then.
        self._walls: list[tuple[frozenset[int], frozenset[int], float]] = []

    def clog(self, source: int, target: int, until_s: float) -> None:
        """Let nothing pass from one daemon to another."""
        self._directions[source, target] = until_s

    def wall(self, sources: frozenset[int], targets: frozenset[int], until_s: float) -> None:
        """Let nothing pass from some daemons to others."""
        self._walls.append((sources, targets, until_s))

    def opens_s(self, source: int, target: int) -> float:
        """Return when what is sent now can pass; 0 if it can at once."""
        if not (self._directions or self._walls):
            return 0.0
        opens_s = self._directions.get((source, target), 0.0)
        for sources, targets, until_s in self._walls:
            if source in sources and target in targets:
                opens_s = max(opens_s, until_s)
        return opens_s
