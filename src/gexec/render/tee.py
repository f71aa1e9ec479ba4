"""A view and a copy of all that it is told, such as a file for each node. Pure; imported when asked for."""

from __future__ import annotations

from gexec.render.view import View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.core.outcome import Outcome
    from gexec.core.ranks import Ranges


class Tee(View):
    """Tells both views everything. Bytes count as taken when both have taken them.

    Args:
        view: any; what it takes and writes is what this one takes and writes.
        copy: one that has done with what it is told when the call returns, and writes to no descriptor:
            OutputDir. So it has always taken what ``view`` takes.
    """

    __slots__ = ("_copy", "_view")

    def __init__(self, view: View, copy: View) -> None:
        super().__init__()
        self._view = view
        self._copy = copy
        self._move()

    def started(self, ranks: Ranges) -> None:
        """See View."""
        self._copy.started(ranks)
        self._view.started(ranks)
        self._move()

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        self._copy.output(stream, ranks, data)
        self._view.output(stream, ranks, data)
        self._move()

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """See View."""
        self._copy.ended(ranks, outcome)
        self._view.ended(ranks, outcome)
        self._move()

    def finish(self) -> None:
        """See View."""
        self._copy.finish()
        self._view.finish()
        self._move()

    def refill(self) -> None:
        """See View."""
        self._view.refill()
        self._move()

    def _move(self) -> None:
        view = self._view
        self.writes += view.writes
        self.taken += view.taken
        view.writes.clear()
        view.taken.clear()
        self._copy.taken.clear()
        self.held = view.held
        self.error = view.error or self._copy.error
