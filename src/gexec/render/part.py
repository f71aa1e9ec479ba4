"""A view for a job that is a part of a larger whole: one batch, or the nodes that are tried again. Pure."""

from __future__ import annotations

from gexec.core import ranks as sets
from gexec.render.view import View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.core.outcome import Outcome
    from gexec.core.ranks import Ranges
    from gexec.render.view import Credit


class Part(View):
    """Rank i of this job is rank ``ranks[i]`` of the whole that ``view`` shows.

    Args:
        view: of the whole; several parts after each other share it, and only the last calls ``finish``.
        ranks: of the whole, each once, in this job's order.
        again: outcomes that are not told to ``view``, since their ranks will be run again.
    """

    __slots__ = ("_again", "_local", "_ranks", "_view")

    def __init__(
        self, view: View, ranks: Sequence[int], again: Callable[[Outcome], bool] | None = None
    ) -> None:
        super().__init__()
        self._view = view
        self._ranks = ranks
        self._local = {whole: local for local, whole in enumerate(ranks)}
        self._again = again
        self._move()

    def started(self, ranks: Ranges) -> None:
        """See View."""
        self._view.started(self._whole(ranks))
        self._move()

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        self._view.output(stream, self._whole(ranks), data)
        self._move()

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """See View."""
        if self._again is None or not self._again(outcome):
            self._view.ended(self._whole(ranks), outcome)
            self._move()

    def finish(self) -> None:
        """See View."""
        self._view.finish()
        self._move()

    def refill(self) -> None:
        """See View."""
        self._view.refill()
        self._move()

    def _whole(self, ranks: Ranges) -> Ranges:
        return sets.of([self._ranks[rank] for rank in sets.members(ranks)])

    def _credit(self, credit: Credit | None) -> Credit | None:
        """Return what is taken in this job's ranks; an earlier part's are nobody's business any more."""
        if credit is None:
            return None
        stream, ranks, count = credit
        own = sets.of([self._local[rank] for rank in sets.members(ranks) if rank in self._local])
        return (stream, own, count) if own else None

    def _move(self) -> None:
        view = self._view
        self.writes += [(fd, data, self._credit(credit)) for fd, data, credit in view.writes]
        self.taken += [own for own in map(self._credit, view.taken) if own is not None]
        view.writes.clear()
        view.taken.clear()
        self.held, self.error = view.held, view.error
