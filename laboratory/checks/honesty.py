"""Honest daemons get on with each other: they refuse no correct frame and no parent, and no job fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gexec.core.flow import MISFIT, MISFIT_ACKS, TOO_MUCH
from gexec.core.taken import WHY
from gexec.wire import denials
from gexec.wire.outcome import Outcome
from laboratory.evidence import Evidence
from laboratory.world import Violation

if TYPE_CHECKING:
    from laboratory.links import SimEnd


def at_abort(end: SimEnd, text: str) -> None:
    """Check why an end of a link is closed."""
    captured = end.daemon.captured or end.peer.daemon.captured
    if text.startswith("protocol violation") and not captured:
        # An honest peer forges no frames, so this end has refused a correct frame.
        raise Violation(f"{end.link}: {end.daemon.index} ends it: {text}")


def at_denial(end: SimEnd, code: int, reason: str) -> None:
    """Check why a daemon refuses its peer."""
    if code == denials.PARENT and not end.peer.daemon.captured:
        raise Violation(f"{end.daemon.index} refused a parent: {reason}")


def at_failure(job: str, error: Exception) -> None:
    """Check how a job's machine failed: it must not fail at all."""
    if isinstance(error, Violation):
        raise error
    raise Violation(f"{job} failed: {type(error).__name__}: {error}") from error


def at_end(evidence: Evidence, rank: int, outcome: Outcome) -> None:
    """Check that an honest node was not given up because of what only a captured one does."""
    if WHY in outcome.text or outcome.text in (MISFIT, MISFIT_ACKS, TOO_MUCH):
        raise Violation(f"rank {rank} is {outcome.describe()}, but its node is honest")
