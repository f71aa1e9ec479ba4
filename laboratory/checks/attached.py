"""Queries of background jobs: they end as the command did, and show what is kept, in order, no byte twice."""

from __future__ import annotations

from gexec.jobs.segments import PARTS
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import Outcome
from laboratory.evidence import Evidence
from laboratory.keepers import KeptPlace
from laboratory.queries import SimQuery, as_process
from laboratory.world import Violation


def at_end(evidence: Evidence, rank: int, outcome: Outcome) -> None:
    """Check what the client got from one process of a query."""
    query = evidence.job.records[rank].query
    if query is None or query.place is None:
        return
    for stream in (STDOUT, STDERR):
        _check_bytes(evidence, rank, stream, query, query.place)
    if outcome.kind == outcomes.EXITED and query.kind in ("attach", "wait"):
        _check_end(rank, outcome, query, query.place)


def _check_bytes(evidence: Evidence, rank: int, stream: int, query: SimQuery, place: KeptPlace) -> None:
    """What it read is what the command wrote there; what the client got is that, or its beginning."""
    shown, position = bytearray(), 0
    for each, offset, length in query.pieces:
        if each == stream:
            if offset < position:
                raise Violation(f"rank {rank} stream {stream}: a query reads {offset} twice")
            shown += place.truth.written[stream][offset : offset + length]
            position = offset + length
    got = evidence.client.received.get((rank, stream), bytearray())
    if not shown.startswith(got):
        raise Violation(f"rank {rank} stream {stream}: a query shows other bytes than were written")
    if any(each == stream and gap.offset < place.keep_bytes // PARTS for each, gap in query.gaps):
        raise Violation(f"rank {rank} stream {stream}: a query misses bytes of the head")


def _check_end(rank: int, outcome: Outcome, query: SimQuery, place: KeptPlace) -> None:
    """It ended as the command did, and an attached one has read everything up to the end."""
    wanted = as_process(place.state().outcome)
    if outcome.value != wanted.value or wanted.kind != outcomes.EXITED:
        raise Violation(f"rank {rank}: a query is {outcome.describe()}, expected {wanted.describe()}")
    if query.kind == "attach" and any(read < end for read, end in zip(query.read, query.ends, strict=True)):
        raise Violation(f"rank {rank}: a query has read {query.read} of {query.ends} bytes")
