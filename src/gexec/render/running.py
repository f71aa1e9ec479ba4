"""The nodes that have not ended, for a user who has pressed ^C. Pure."""

from __future__ import annotations

from gexec.render.fold import fold_bounded
from gexec.render.text import shown
from gexec.wire import ranks as sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.wire.outcome import Outcome
    from gexec.wire.ranks import Ranges


def still_running(names: Sequence[bytes], started: Ranges, outcomes: Sequence[Outcome | None]) -> str:
    """Return one sentence: the running nodes, and how many are being started.

    Args:
        names: the job's node names in rank order.
        started: ranks whose processes were started.
        outcomes: of all ranks; None = it has not ended.
    """
    running = [rank for rank in sets.members(started) if outcomes[rank] is None]
    waiting = sum([outcome is None for outcome in outcomes]) - len(running)
    told = []
    if running:
        folded = fold_bounded([shown(names[rank]) for rank in running])
        told.append(f"{len(running)} of {len(names)} still run: {folded}")
    if waiting:
        told.append(f"{waiting} of {len(names)} are being started")
    return "; ".join(told) or "all have ended"
