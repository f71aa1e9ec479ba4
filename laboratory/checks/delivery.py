"""Delivery to the client: each start and each end once, output in order, nothing after an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gexec.wire import ranks as ranksets
from gexec.wire.frames import LENGTH_UNKNOWN, STDERR, STDOUT, Ended, Output, RanksStarted
from gexec.wire.jobspec import DETACHED
from gexec.wire.outcome import Outcome
from laboratory.world import Violation

if TYPE_CHECKING:
    from laboratory.jobs import SimJob


class Delivery:
    """What the client has received, checked as it comes."""

    def __init__(self, job: SimJob) -> None:
        self.outcomes: dict[int, Outcome] = {}
        #: Bytes by rank and stream.
        self.received: dict[tuple[int, int], bytearray] = {}
        self.started: set[int] = set()
        self._job = job

    def output(self, frame: Output) -> list[tuple[int, int, int]]:
        """Take output; return (rank, stream, bytes received so far) of each rank."""
        entries = []
        for rank in ranksets.members(frame.ranks):
            received = self.received.setdefault((rank, frame.stream), bytearray())
            if frame.offset != len(received):
                raise Violation(f"rank {rank} stream {frame.stream}: {frame.offset} after {len(received)}")
            if rank in self.outcomes:
                raise Violation(f"rank {rank} writes after its end")
            received += frame.data
            record = self._job.records[rank]
            written = record.written[frame.stream]
            # After the death of a relay parts may be missing: checks.output looks at all of it at the end.
            exact = rank not in self._job.betrayed and not record.life
            if exact and not written.startswith(frame.data, frame.offset):
                raise Violation(f"rank {rank} stream {frame.stream}: not what was written at {frame.offset}")
            entries.append((rank, frame.stream, len(received)))
        return entries

    def starts(self, frame: RanksStarted) -> None:
        """Take a report that ranks have started."""
        for rank in ranksets.members(frame.ranks):
            if rank in self.started or rank in self.outcomes:
                raise Violation(f"rank {rank} is reported as started twice, or after its end")
            self.started.add(rank)

    def ends(self, frame: Ended) -> None:
        """Take the outcome of ranks."""
        for rank in ranksets.members(frame.ranks):
            if rank in self.outcomes:
                raise Violation(f"rank {rank} ends twice: {self.outcomes[rank]}, {frame.outcome}")
            self.outcomes[rank] = frame.outcome
            self._check_lengths(rank, frame)

    def _check_lengths(self, rank: int, frame: Ended) -> None:
        for stream, length in ((STDOUT, frame.stdout_length), (STDERR, frame.stderr_length)):
            came = len(self.received.get((rank, stream), b""))
            if length not in (LENGTH_UNKNOWN, came) and not self._job.spec.flags & DETACHED:
                raise Violation(f"rank {rank} wrote {length} bytes to stream {stream}, {came} came")

    def done(self) -> None:
        """Take the end of the job."""
        if len(self.outcomes) != self._job.spec.ranks:
            raise Violation(f"Done, but only {len(self.outcomes)} ranks have ended")
