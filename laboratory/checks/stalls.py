"""Given up for standing still are processes that stopped reading, and only those."""

from __future__ import annotations

from gexec.wire import jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.outcome import Outcome
from laboratory.evidence import Evidence
from laboratory.world import Violation


def at_end(evidence: Evidence, rank: int, outcome: Outcome) -> None:
    """Check the outcome of one rank."""
    made = evidence.made
    stops = made.plans[rank].stops_at is not None and made.plans[rank].refusal is None
    given_up = outcome.kind == outcomes.LOST and outcome.text.endswith("given up")
    if given_up and not stops:
        raise Violation(f"rank {rank} is {outcome.describe()}, but it did not stand still")
    ended = made.disturbed or made.spec.flags & jobspec.STRICT
    if stops and evidence.untouched[rank] and not ended and not given_up:
        raise Violation(f"rank {rank} is {outcome.describe()}, but it stood still")
