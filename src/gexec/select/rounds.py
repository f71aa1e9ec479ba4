"""The rounds of a run: batches of a rolling change, and attempts of nodes that were not reached. Pure.

For the user, several jobs are one run. Batches follow each other in rank order. Nodes that could not be
reached are tried again at the end of their own batch, before the next one begins. A command that may have run
is never started again.
"""

from __future__ import annotations

from gexec.errors import UsageError
from gexec.wire.outcome import NOT_STARTED, UNREACHABLE, not_started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.wire.outcome import Outcome


def share(option: str, text: str, total: int, least: int) -> int:
    """Return a number of nodes given as ``N`` or ``P%`` of ``total``; percents are rounded up.

    Raises:
        UsageError: it is neither, or lower than ``least``.
    """
    digits, percent = text.removesuffix("%"), text.endswith("%")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9) or (percent and int(digits) > 100):
        raise UsageError(f"option {option}: expected a number of nodes or a percentage, not {text[:80]!r}")
    count = -(-int(digits) * total // 100) if percent else int(digits)
    if count < least:
        raise UsageError(f"option {option}: expected at least {least}, not {text[:80]!r}")
    return count


def unreached(outcome: Outcome) -> bool:
    """Tell whether the command cannot have run on a node, and might run on the next attempt.

    If a reached node cannot start a program, its outcome has an error number.
    """
    return outcome.kind == NOT_STARTED and outcome.value in (0, UNREACHABLE)


def is_down(outcome: Outcome) -> bool:
    """Tell whether a node did not answer. One that is busy, shuts down or was not asked is not down."""
    return outcome.kind == NOT_STARTED and outcome.value == UNREACHABLE


class Rounds:
    """Plans a run of ``total`` ranks.

    Args:
        batch: number of ranks at a time, 0 = all at once.
        retries: how often an unreached rank is tried again.
        failures_max: with more failed ranks the run stops before its next batch; None = never.
        together: a round runs on all its nodes or on none (--strict): the whole round is tried again, or
            nothing.

    Attributes:
        outcomes: of all ranks so far; None = not run yet.
        ranks: of the current round.
        retries: as given.
        again: the current round is a further attempt of ranks of the previous one.
        stopped: too many failed, so that no further batch begins.
    """

    __slots__ = (
        "_batch",
        "_begin",
        "_failures_max",
        "_left",
        "_together",
        "again",
        "outcomes",
        "ranks",
        "retries",
        "stopped",
    )

    def __init__(
        self,
        total: int,
        batch: int = 0,
        retries: int = 0,
        failures_max: int | None = None,
        together: bool = False,
    ) -> None:
        self.outcomes: list[Outcome | None] = [None] * total
        self.ranks: list[int] = []
        self.again = False
        self.stopped = False
        self._batch = batch or total
        self.retries = retries
        self._left = 0
        self._failures_max = failures_max
        self._together = together
        self._begin = 0

    @property
    def may_come_again(self) -> bool:
        """True while an unreached rank of the current round would be tried once more."""
        return self._left > 0

    def next(self) -> list[int]:
        """Return the ranks of the next job, in rank order; [] when the run is over."""
        retried = [rank for rank in self.ranks if self._is_retried(rank)] if self._left else []
        if retried and (len(retried) == len(self.ranks) or not self._together):
            self._left -= 1
            self.ranks, self.again = retried, True
            return self.ranks
        self.again = False
        if self._failures_max is not None and self._failed() > self._failures_max:
            self.stopped = self._begin < len(self.outcomes)
            self.ranks = []
            return self.ranks
        begin, self._begin = self._begin, min(len(self.outcomes), self._begin + self._batch)
        self.ranks = list(range(begin, self._begin))
        self._left = self.retries
        return self.ranks

    def ended(self, outcomes: list[Outcome]) -> None:
        """The current round's ranks have ended with these outcomes."""
        for rank, outcome in zip(self.ranks, outcomes, strict=True):
            self.outcomes[rank] = outcome

    def finished(self, why: str) -> list[Outcome]:
        """Return all outcomes; ranks that were never run are *not started*, with the reason ``why``."""
        return [not_started(why) if outcome is None else outcome for outcome in self.outcomes]

    def _is_retried(self, rank: int) -> bool:
        outcome = self.outcomes[rank]
        return outcome is not None and unreached(outcome)

    def _failed(self) -> int:
        return sum([outcome is not None and not outcome.ok for outcome in self.outcomes])
