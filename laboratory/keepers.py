"""Simulated keepers of background jobs: they outlive gexecd, and write what their commands write to files.

Which bytes are kept (gexec.jobs.segments), the records (gexec.jobs.records) and the state of a rank
(gexec.jobs.states) are the real code; reading pipes and writing files is a model of gexec.jobs.keeper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gexec import limits
from gexec.jobs.records import RankEnd, RankRecord
from gexec.jobs.segments import Gap, Row, Segment, place
from gexec.jobs.states import RankState
from gexec.relay.ports import ProcessEvent
from gexec.wire import messages
from gexec.wire import outcome as outcomes
from gexec.wire.background import Background
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import Outcome
from laboratory.jobs import UID, SimJob
from laboratory.pipes import PIPE_BYTES
from laboratory.processes import Plan, ProcessRecord, SimProcess

if TYPE_CHECKING:
    from laboratory.daemons import SimDaemon

STREAMS = (STDOUT, STDERR)


class Ground:
    """What a node has without gexecd: its kernel, and keepers. The host of their events."""

    def __init__(self, daemon: SimDaemon) -> None:
        self.life = 0
        self.keepers: list[SimKeeper] = []
        self._daemon = daemon

    @property
    def frozen_until_s(self) -> float:
        """Keepers stand still as long as their machine does."""
        return self._daemon.machine.frozen_until_s

    @property
    def boot(self) -> str:
        """The kernel's id of this boot."""
        return f"boot {self.life}"

    def reboot(self) -> None:
        """Every process ends; the files stay."""
        self.life += 1
        for keeper in self.keepers:
            keeper.end(outcomes.killed(9))
        self.keepers.clear()


class KeptPlace:
    """The files of one rank.

    Attributes:
        files: segments by stream and offset.
        end: end.json; b"" = none.
        keeper: as long as it runs.
        truth: what really happened to its command.
    """

    def __init__(self, ground: Ground, record: RankRecord, truth: ProcessRecord) -> None:
        self.files: dict[tuple[int, int], bytearray] = {}
        self.end = b""
        self.keeper: SimKeeper | None = None
        self.ground = ground
        self.truth = truth
        self.keep_bytes = record.keep_bytes
        self._record = record.encode()

    def segments(self, stream: int) -> list[Segment]:
        """Return the segments of a stream, in order."""
        own = [(offset, len(data)) for (each, offset), data in self.files.items() if each == stream]
        return [Segment(offset, size) for offset, size in sorted(own)]

    def read(self, stream: int, position: int) -> bytes | Gap | None:
        """Return the next bytes at a position, or the gap before them; None: there are none yet."""
        found = place(self.segments(stream), position)
        if found is None or isinstance(found, Gap):
            return found
        begin = position - found.offset
        return bytes(self.files[stream, found.offset][begin : begin + limits.READ_CHUNK_BYTES])

    def state(self) -> RankState:
        """Return the state of the rank, as a query of the node finds it."""
        segments = [self.segments(stream) for stream in STREAMS]
        ends = [max([segment.end for segment in each], default=0) for each in segments]
        return RankState.of(
            RankRecord.decode(self._record),
            RankEnd.decode(self.end) if self.end else None,
            uid=UID,
            is_kept=self.keeper is not None,
            boot=self.ground.boot,
            lengths=(ends[0], ends[1]),
            kept_bytes=sum(segment.size for each in segments for segment in each),
        )


class KeptCommand(SimProcess):
    """The command of a keeper: the end of gexecd does not concern it."""

    outlives = True

    def __init__(
        self,
        daemon: SimDaemon,
        task: int,
        plan: Plan,
        record: ProcessRecord,
        grace_s: float,
        keeper: SimKeeper,
    ) -> None:
        self._spawner = daemon.processes
        self._keeper = keeper
        super().__init__(daemon, task, plan, record, grace_s, keeper)

    def _after(self, mean_s: float, call: Callable[..., None], *arguments: object) -> None:
        self._world.after(self._world.rng.uniform(0.5, 1.5) * mean_s, self._daemon.ground, call, *arguments)

    def _report(self, event: ProcessEvent) -> None:
        if isinstance(event, messages.ProcessEnded):
            self._keeper.ended(event.outcome)
        elif isinstance(event, messages.ProcessStarted) and self._daemon.processes is self._spawner:
            super()._report(event)


class SimKeeper:
    """The keeper of one rank; for its command it is the pipes."""

    def __init__(self, daemon: SimDaemon, task: int, job: SimJob, rank: int) -> None:
        terms = Background.decode(job.spec.background)
        self.room: Callable[[], None] = lambda: None
        self.came: Callable[[], None] = lambda: None
        self._daemon = daemon
        self._world = daemon.world
        self._life = daemon.ground.life
        self._lease_s = terms.lease_s
        self.rows = {stream: Row(terms.keep_bytes) for stream in STREAMS}
        self._pipes = {stream: bytearray() for stream in STREAMS}
        self._reading: set[int] = set()
        self._outcome: Outcome | None = None
        self._ended_s = 0.0
        self._held = True
        self._waiting: list[tuple[tuple[int, int], Callable[[], None]]] = []
        self.place = KeptPlace(daemon.ground, _record(daemon, job, rank, terms), job.records[rank])
        self.place.keeper = self
        job.places[rank] = self.place
        daemon.ground.keepers.append(self)
        grace_s = job.spec.kill_grace_s
        self.command = KeptCommand(daemon, task, job.plans[rank], job.records[rank], grace_s, self)

    @property
    def runs(self) -> bool:
        """It has neither ended nor been killed."""
        return self.place.keeper is self

    def end(self, outcome: Outcome | None = None) -> None:
        """It is killed, and its command too if there is an outcome for that."""
        self.place.keeper = None
        if outcome is not None:
            self.command.die(outcome)
        elif self.command.runs:
            self._soon(self.room)  # who waits for room gets SIGPIPE
        self._tell(True)

    def _soon(self, call: Callable[..., None], *arguments: object) -> None:
        self._world.after(self._world.rng.uniform(0.0002, 0.002), self._daemon.ground, call, *arguments)

    # -- the command's pipes --------------------------------------------------------------

    def put(self, stream: int, data: bytes) -> int:
        """Write; return how much the pipe took."""
        if not self.runs:
            self._soon(self.command.break_pipe)
            return 0
        pipe = self._pipes[stream]
        count = min(len(data), PIPE_BYTES - len(pipe))
        pipe += data[:count]
        self._read_later(stream)
        return count

    def take(self, count: int) -> bytes | None:
        """It reads /dev/null."""
        return b""

    def close_reader(self) -> None:
        """Nobody writes to it."""

    def let_go(self) -> None:
        """No process holds the output any more."""
        self._held = False
        self._soon(self._look)

    # -- its files ------------------------------------------------------------------------

    def _read_later(self, stream: int) -> None:
        if stream not in self._reading:
            self._reading.add(stream)
            self._soon(self._read, stream)

    def _read(self, stream: int) -> None:
        self._reading.discard(stream)
        if not self.runs:
            return
        pipe, row = self._pipes[stream], self.rows[stream]
        data = bytes(pipe[: min(limits.READ_CHUNK_BYTES, row.room or row.part)])
        del pipe[: len(data)]
        self._write(stream, data)
        if pipe:
            self._read_later(stream)
        self._soon(self.room)
        self._look()

    def _write(self, stream: int, data: bytes) -> None:
        row, files = self.rows[stream], self.place.files
        while data:
            if not row.room:
                for segment in row.doomed():
                    del files[stream, segment.offset]
                files[stream, row.begin()] = bytearray()
            piece, data = data[: row.room], data[row.room :]
            files[stream, row.segments[-1].offset] += piece
            row.wrote(len(piece))

    # -- the end --------------------------------------------------------------------------

    def ended(self, outcome: Outcome) -> None:
        """Its command has ended."""
        self._outcome = outcome
        self._ended_s = self._world.now_s
        self._world.after(limits.LINGER_S, self._daemon.ground, self._look)
        self._soon(self._look)

    def _look(self) -> None:
        """Write how the command ended, when its output has been read or it is late; end when all is read."""
        if not self.runs:
            return
        drained = not self._held and not any(self._pipes.values())
        late = self._world.now_s >= self._ended_s + limits.LINGER_S
        if self._outcome is not None and (drained or (late and not self.place.end)):
            expires_s = self._world.now_s + self._lease_s
            end = RankEnd(self._outcome, self._ended_s, self.ends, held=not drained, expires_s=expires_s)
            self.place.end = end.encode()
            if drained:
                self.place.keeper = None
                self._world.news = True
        self._tell(bool(self.place.end))

    @property
    def ends(self) -> tuple[int, int]:
        """Bytes of stdout and stderr so far."""
        return self.rows[STDOUT].end, self.rows[STDERR].end

    # -- requests -------------------------------------------------------------------------

    def await_news(self, known: tuple[int, int], call: Callable[[], None]) -> None:
        """Call this when there is more output, or the command or the keeper has ended."""
        self._waiting.append((known, call))
        self._soon(self._look)

    def _tell(self, over: bool) -> None:
        waiting, self._waiting = self._waiting, []
        for known, call in waiting:
            if over or self.ends[0] > known[0] or self.ends[1] > known[1]:
                call()
            else:
                self._waiting.append((known, call))


def _record(daemon: SimDaemon, job: SimJob, rank: int, terms: Background) -> RankRecord:
    return RankRecord(
        job=job.id.hex(),
        rank=rank,
        ranks=job.spec.ranks,
        name=terms.name.decode(),
        node=daemon.name,
        user="user",
        command=["true"],
        cwd="/",
        started_s=daemon.world.now_s,
        boot=daemon.ground.boot,
        keeper=[1, 1],
        lease_s=terms.lease_s,
        keep_bytes=terms.keep_bytes,
    )
