"""Background jobs: what is kept is true, the head and the tail of the output; no loss of gexecd harms it."""

from __future__ import annotations

from gexec.jobs.records import RankEnd
from gexec.jobs.segments import PARTS, Segment
from gexec.wire import outcome as outcomes
from laboratory.jobs import SimJob
from laboratory.keepers import STREAMS, KeptPlace
from laboratory.processes import ProcessRecord
from laboratory.script import Scenario
from laboratory.world import Violation

#: Faults after which a node may not know how a rank ended.
_UNKEPT = frozenset(["keeper_killed", "reboot"])


def at_end(made: Scenario, job: SimJob) -> None:
    """Check all ranks of a background job that have started."""
    if not job.spec.background:
        return
    harmed = {fault.rank - job.first for fault in made.faults if fault.kind in _UNKEPT}
    killed = any(plan.query == "kill" for other in made.beside for plan in other.plans)
    for rank, record in enumerate(job.records):
        if not record.starts:
            continue
        if rank not in job.places:
            raise Violation(f"rank {rank} has run, and is not kept")
        kept = job.places[rank]
        _check_state(rank, record, kept)
        _check_output(rank, record, kept)
        if rank in harmed or killed or made.disturbed or rank in job.betrayed:
            continue
        if not kept.end or record.outcome != outcomes.exited(made.plans[rank].status):
            raise Violation(f"rank {rank} of a background job: {record.outcome}, although nothing harmed it")


def _check_state(rank: int, record: ProcessRecord, kept: KeptPlace) -> None:
    """The end that is kept is the command's; without one, the rank still runs, or is lost."""
    state = kept.state()
    if not kept.end:
        # What still runs belongs to a job that somebody has betrayed, which is not waited for.
        kind = None if state.outcome is None else state.outcome.kind
        if kind != (None if record.running else outcomes.LOST):
            raise Violation(f"rank {rank} is {state.outcome}, but nobody has written that")
        return
    end = RankEnd.decode(kept.end)
    if end.outcome != record.outcome:
        raise Violation(f"rank {rank} is kept as {end.outcome}, but really {record.outcome}")
    written = tuple(len(record.written[stream]) for stream in STREAMS)
    if not end.held and end.lengths != written:
        raise Violation(f"rank {rank} is kept with {end.lengths} bytes of output, but wrote {written}")


def _check_output(rank: int, record: ProcessRecord, kept: KeptPlace) -> None:
    """The bytes are those that were written, at their offsets: the first ones, and the last."""
    part = kept.keep_bytes // PARTS
    for stream in STREAMS:
        segments, written = kept.segments(stream), record.written[stream]
        for segment in segments:
            if kept.files[stream, segment.offset] != written[segment.offset : segment.end]:
                raise Violation(f"rank {rank} stream {stream}: wrong bytes are kept at {segment.offset}")
        if sum(segment.size for segment in segments) > kept.keep_bytes:
            raise Violation(f"rank {rank} stream {stream}: more than {kept.keep_bytes} bytes are kept")
        if not kept.end or RankEnd.decode(kept.end).held:
            continue
        least = max(part, len(written) - 3 * part)
        for offset, end in _missing(segments, len(written)):
            if offset < part or end > least:
                raise Violation(
                    f"rank {rank} stream {stream}: {offset} to {end} of {len(written)} are not kept"
                )


def _missing(segments: list[Segment], length: int) -> list[tuple[int, int]]:
    gaps, position = [], 0
    for segment in [*segments, Segment(length, 0)]:
        if segment.offset > position:
            gaps.append((position, segment.offset))
        position = segment.end
    return gaps
