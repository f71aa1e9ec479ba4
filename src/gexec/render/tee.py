"""A view and a copy of all its events, such as a file for each node. Pure; imported when needed."""

from __future__ import annotations

from gexec.render.wrapped import Wrapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.render.view import View
    from gexec.wire.outcome import Outcome
    from gexec.wire.ranks import Ranges


class Tee(Wrapped):
    """Passes all events to both views. Bytes count as taken when both have taken them.

    Args:
        view: any; this view takes and writes what ``view`` takes and writes.
        copy: a view that has finished with an event when the call returns, and writes to no descriptor:
            OutputDir. So it has always taken what ``view`` takes.
    """

    __slots__ = ("_copy",)

    def __init__(self, view: View, copy: View) -> None:
        self._copy = copy
        super().__init__(view)

    def started(self, ranks: Ranges) -> None:
        """See View."""
        self._copy.started(ranks)
        super().started(ranks)

    def responding(self, ranks: Ranges, responds: bool) -> None:
        """See View."""
        self._copy.responding(ranks, responds)
        super().responding(ranks, responds)

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        self._copy.output(stream, ranks, data)
        super().output(stream, ranks, data)

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """See View."""
        self._copy.ended(ranks, outcome)
        super().ended(ranks, outcome)

    def finish(self) -> None:
        """See View."""
        self._copy.finish()
        super().finish()

    def _move(self) -> None:
        super()._move()
        self._copy.taken.clear()
        self.error = self.error or self._copy.error
