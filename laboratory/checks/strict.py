"""Strict jobs: if one rank cannot start, no process starts at all."""

from __future__ import annotations

from gexec.wire import jobspec
from gexec.wire.outcome import Outcome
from laboratory.evidence import Evidence
from laboratory.world import Violation


def at_end(evidence: Evidence, rank: int, outcome: Outcome) -> None:
    """Check that one rank did not run, if another one could not."""
    if not evidence.made.spec.flags & jobspec.STRICT or not evidence.job.records[rank].starts:
        return
    for other in evidence.unable:
        raise Violation(f"rank {rank} ran in a strict job, although rank {other} could not")
