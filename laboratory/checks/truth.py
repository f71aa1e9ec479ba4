"""Every outcome is true: a rank ended as its process did, or never ran, or is lost; lost is no success."""

from __future__ import annotations

from gexec.wire import jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.outcome import Outcome
from laboratory.evidence import Evidence
from laboratory.world import Violation


def at_end(evidence: Evidence, rank: int, outcome: Outcome) -> None:
    """Check the outcome of one rank."""
    record = evidence.job.records[rank]
    ran = record.starts > 0
    if outcome.kind in (outcomes.NOT_STARTED, outcomes.DENIED):
        if ran:
            raise Violation(f"rank {rank} is {outcome.describe()}, but it did run")
    elif outcome.kind == outcomes.LOST:
        pass
    elif ran and evidence.made.spec.flags & jobspec.DETACHED:
        if outcome != outcomes.exited(0):
            raise Violation(f"rank {rank} is {outcome.describe()}, but it was detached")
        if not record.forgotten:
            raise Violation(f"rank {rank} is {outcome.describe()}, but its daemon has not released it")
    else:
        truth = record.outcome
        same = truth is not None and (
            outcome.kind == outcomes.TIMED_OUT or (outcome.kind, outcome.value) == (truth.kind, truth.value)
        )
        if not same:
            raise Violation(f"rank {rank} is {outcome.describe()}, but really {truth}")
