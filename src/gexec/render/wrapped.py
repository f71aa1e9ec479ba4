"""A view around another: forwards its events and its writes. Pure; imported when needed."""

from __future__ import annotations

from gexec.render.view import View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.wire.outcome import Outcome
    from gexec.wire.ranks import Ranges


class Wrapped(View):
    """Changes nothing; subclasses that do override a method, or ``_move``.

    Args:
        view: any; only this object takes its writes.
    """

    __slots__ = ("_view",)

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view
        self._move()

    def started(self, ranks: Ranges) -> None:
        """See View."""
        self._view.started(ranks)
        self._move()

    def responding(self, ranks: Ranges, responds: bool) -> None:
        """See View."""
        self._view.responding(ranks, responds)
        self._move()

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        self._view.output(stream, ranks, data)
        self._move()

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """See View."""
        self._view.ended(ranks, outcome)
        self._move()

    def withheld(self, ranks: Ranges) -> None:
        """See View."""
        self._view.withheld(ranks)
        self._move()

    def finish(self) -> None:
        """See View."""
        self._view.status = self.status
        self._view.finish()
        self._move()

    def refill(self) -> None:
        """See View."""
        self._view.refill()
        self._move()

    def _move(self) -> None:
        """Move the view's writes to this object."""
        view = self._view
        self.writes += view.writes
        self.taken += view.taken
        view.writes.clear()
        view.taken.clear()
        self.held = view.held
        self.error = self.error or view.error
