"""The summary of failures, one line per different outcome, and the job's exit status. Pure."""

from __future__ import annotations

from gexec.render.fold import fold_bounded
from gexec.render.text import printable, shown
from gexec.wire.outcome import DENIED, LOST, NAMES, NOT_STARTED, Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Different outcomes that are listed separately; more usually have one cause with different details.
LINES_MAX = 20


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """Return the job's exit status: 255 if any rank is lost, denied or not started, else the highest."""
    if not outcomes:
        return 0
    return max([outcome.exit_status for outcome in outcomes])


def summary(names: Sequence[bytes], outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each different outcome except exited 0, failures to run first; [] if there is none.

    Args:
        names: the job's node names in rank order.
        outcomes: their outcomes in the same order.
    """
    return _lines(names, outcomes, only_failed=True)


def full_summary(names: Sequence[bytes], outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each different outcome, including exited 0, in ``summary``'s order (--summary)."""
    return _lines(names, outcomes, only_failed=False)


def _lines(names: Sequence[bytes], outcomes: Sequence[Outcome], only_failed: bool) -> list[str]:
    ranks_of: dict[Outcome, list[int]] = {}
    for rank, outcome in enumerate(outcomes):
        if not (only_failed and outcome.ok):
            ranks_of.setdefault(outcome, []).append(rank)
    if not ranks_of:
        return []
    noun = "nodes" if len(set(names)) == len(names) else "processes"
    ordered = sorted(ranks_of.items(), key=_order)
    lines = [_line(outcome, ranks, names, noun) for outcome, ranks in ordered[:LINES_MAX]]
    rest = ordered[LINES_MAX:]
    if rest:
        count = sum(len(ranks) for _, ranks in rest)
        left = fold_bounded([shown(names[rank]) for _, ranks in rest for rank in ranks])
        verb = "failed" if only_failed else "ended"
        lines.append(f"{count} of {len(names)} {noun} {verb} in {len(rest)} more ways: {left}")
    return lines


def _order(item: tuple[Outcome, list[int]]) -> tuple[int, int]:
    outcome, ranks = item
    return (0 if outcome.kind in (NOT_STARTED, DENIED, LOST) else 1), ranks[0]


def _line(outcome: Outcome, ranks: list[int], names: Sequence[bytes], noun: str) -> str:
    what = printable(outcome.describe())
    if outcome.kind == DENIED and not outcome.text:
        what = NAMES[DENIED]
    if len(ranks) == 1:
        return f"{shown(names[ranks[0]])}: {what}"
    folded = fold_bounded([shown(names[rank]) for rank in ranks])
    return f"{len(ranks)} of {len(names)} {noun} {what}: {folded}"
