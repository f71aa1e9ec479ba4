"""stdin: every process read a prefix of what the client sent, and its end only after all of it."""

from __future__ import annotations

from gexec.wire.outcome import Outcome
from laboratory.evidence import Evidence
from laboratory.world import Violation


def at_end(evidence: Evidence, rank: int, outcome: Outcome) -> None:
    """Check what one rank's process has read."""
    record = evidence.job.records[rank]
    sent = evidence.made.habits.stdin
    if not sent.startswith(record.stdin):
        raise Violation(f"rank {rank} read something different from the client's stdin")
    if record.stdin_eof and len(record.stdin) != len(sent):
        raise Violation(f"rank {rank} read the end of stdin after {len(record.stdin)} bytes")
