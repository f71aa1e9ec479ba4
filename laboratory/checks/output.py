"""Output: what arrived is a prefix of what was written; all of it, if the rank is not lost."""

from __future__ import annotations

from gexec.wire import jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import Outcome
from laboratory.evidence import Evidence
from laboratory.world import Violation


def at_end(evidence: Evidence, rank: int, outcome: Outcome) -> None:
    """Check the output of one rank."""
    record = evidence.job.records[rank]
    received = [evidence.client.received.get((rank, stream), bytearray()) for stream in (STDOUT, STDERR)]
    written = [record.written[stream] for stream in (STDOUT, STDERR)]
    for got, had in zip(received, written, strict=True):
        if not had.startswith(got):
            raise Violation(f"rank {rank}: the received output is not a prefix of the written output")
    detached = record.starts and evidence.made.spec.flags & jobspec.DETACHED
    if outcome.kind in (outcomes.NOT_STARTED, outcomes.DENIED, outcomes.LOST) or detached:
        return
    lengths, own = [len(got) for got in received], record.own
    if outcome.cut and not evidence.made.plans[rank].leaves_s:
        raise Violation(f"rank {rank} is {outcome.describe()}, but no process held its output")
    if not outcome.cut and received != written:
        whole = [len(had) for had in written]
        raise Violation(f"rank {rank} ended, but its output is incomplete: {lengths} of {whole}")
    if any(got < least for got, least in zip(lengths, own, strict=True)):
        raise Violation(f"rank {rank}: only {lengths} bytes arrived of its own output {own}")
