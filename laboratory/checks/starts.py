"""At most once: no rank starts twice, and what is reported as started did start."""

from __future__ import annotations

from gexec.wire.outcome import Outcome
from laboratory.evidence import Evidence
from laboratory.processes import ProcessRecord
from laboratory.world import Violation


def at_start(rank: int, record: ProcessRecord) -> None:
    """Check the start of a process, before it happens."""
    if record.starts:
        raise Violation(f"rank {rank} is started twice")


def at_end(evidence: Evidence, rank: int, outcome: Outcome) -> None:
    """Check a rank that no captured relay could reach."""
    if rank in evidence.client.started and not evidence.job.records[rank].starts:
        raise Violation(f"rank {rank} is reported as started, but did not start")
