"""A view for a job that is a part of a run: one batch, or the nodes that are tried again. Pure."""

from __future__ import annotations

from gexec.render.wrapped import Wrapped
from gexec.wire import ranks as sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.render.view import Credit, View
    from gexec.wire.outcome import Outcome
    from gexec.wire.ranks import Ranges


class Part(Wrapped):
    """Rank i of this job is rank ``ranks[i]`` of the run that ``view`` shows.

    Args:
        view: of the run; several parts in sequence share it, and only the last one calls ``finish``.
        ranks: of the run, each once, in this job's order.
        again: tells which outcomes are hidden from ``view``, because their ranks will run again.
    """

    __slots__ = ("_again", "_local", "_ranks")

    def __init__(
        self, view: View, ranks: Sequence[int], again: Callable[[Outcome], bool] | None = None
    ) -> None:
        self._ranks = ranks
        self._local = {whole: local for local, whole in enumerate(ranks)}
        self._again = again
        super().__init__(view)

    def started(self, ranks: Ranges) -> None:
        """See View."""
        super().started(self._whole(ranks))

    def responding(self, ranks: Ranges, responds: bool) -> None:
        """See View."""
        super().responding(self._whole(ranks), responds)

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        super().output(stream, self._whole(ranks), data)

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """See View."""
        if self._again is None or not self._again(outcome):
            super().ended(self._whole(ranks), outcome)
        else:
            self._view.withheld(self._whole(ranks))
            self._move()

    def _whole(self, ranks: Ranges) -> Ranges:
        return sets.of([self._ranks[rank] for rank in sets.members(ranks)])

    def _credit(self, credit: Credit | None) -> Credit | None:
        """Return a credit in this job's ranks; ranks of earlier parts are dropped."""
        if credit is None:
            return None
        stream, ranks, count = credit
        own = sets.of([self._local[rank] for rank in sets.members(ranks) if rank in self._local])
        return (stream, own, count) if own else None

    def _move(self) -> None:
        view = self._view
        view.writes[:] = [(fd, data, self._credit(credit)) for fd, data, credit in view.writes]
        view.taken[:] = [own for own in map(self._credit, view.taken) if own is not None]
        super()._move()
