"""The client's side of the protocol with its own gexecd, without I/O (docs/protocol.md, Client).

``feed`` bytes that came, look at the frames it returns, send what ``outgoing`` gives. The session
holds the peer to its word: streams in order without gaps or doubles, each rank one outcome, in the
right order; anything else is a ProtocolError. Part of the thin client.
"""

from __future__ import annotations

from gexec import limits
from gexec.errors import DaemonError, ProtocolError
from gexec.version import VERSION
from gexec.wire import ranks as sets
from gexec.wire.frames import (
    FROM_ROOT,
    LENGTH_UNKNOWN,
    OFFSET_ALL,
    STDERR,
    STDOUT,
    Accepted,
    Ack,
    Close,
    Decoder,
    Done,
    Ended,
    Goodbye,
    Hello,
    Kill,
    NotResponding,
    Output,
    Ping,
    Pong,
    RanksStarted,
    Refused,
    Responding,
    Signal,
    Stdin,
    StdinTaken,
    Submit,
    encode_parts,
)
from gexec.wire.outcome import Outcome, lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.wire.frames import Frame
    from gexec.wire.ranks import Ranges

#: The channel of the one job that a client's connection carries; 0 speaks about the connection.
JOB_CHANNEL = 1
#: Of a frame; as large as a frame may be, it is one pass less over the data at each node.
STDIN_CHUNK_BYTES = 192 * 1024
_ACKS_IN_FRAME = 8192

#: States.
CONNECTING, SUBMITTED, ACCEPTED, OVER = range(4)


class JobSession:
    """One job from Submit to Done.

    Args:
        ranks: processes of the job.
        window: JobSpec.window, bytes of each (rank, stream) that may be under way untaken.
        detached: output is discarded at the nodes, so stream lengths are not compared.
        stdin: False: the job has none, and none is sent.

    Attributes:
        outcomes: each rank's Outcome, None while it has none.
        started: the ranks that have started.
        quiet: ranks whose nodes do not respond now, as far as their parents know.
        state: CONNECTING, SUBMITTED, ACCEPTED or OVER.
        job_id: 16 bytes once accepted, before that empty.
    """

    __slots__ = (
        "_acked", "_acks", "_decoder", "_detached", "_greeted", "_half", "_heard_s", "_outgoing", "_pinged",
        "_ranks", "_received", "_stdin_eof", "_stdin_offset", "_stdin_taken", "_taken", "_unended", "job_id",
        "outcomes", "quiet", "started", "state",
    )  # fmt: skip

    def __init__(self, ranks: int, window: int, detached: bool = False, stdin: bool = True) -> None:
        self._heard_s = 0.0
        self._pinged = False
        self._ranks = ranks
        self._half = max(1, window // 2)
        self._detached = detached
        self._decoder = Decoder(FROM_ROOT)
        self._greeted = False
        self._outgoing: list[bytes] = []
        self._received = {STDOUT: [0] * ranks, STDERR: [0] * ranks}
        self._taken = {STDOUT: [0] * ranks, STDERR: [0] * ranks}
        self._acked = {STDOUT: [0] * ranks, STDERR: [0] * ranks}
        self._acks: dict[tuple[int, int], int] = {}
        self._stdin_offset = 0
        self._stdin_taken = 0
        self._stdin_eof = not stdin
        self._unended = ranks
        self.outcomes: list[Outcome | None] = [None] * ranks
        self.started: Ranges = ()
        self.quiet: set[int] = set()
        self.state = CONNECTING
        self.job_id = b""

    # -- from the caller to gexecd --------------------------------------------------------------

    def submit(self, credential: bytes, blob: bytes) -> None:
        """Send Hello and the job. Once, before anything else."""
        if self.state != CONNECTING:
            raise ValueError("a session submits one job, once")
        self._outgoing += encode_parts(0, Hello(limits.PROTOCOL_VERSION, f"gexec {VERSION}"))
        self._send(Submit(credential, blob))
        self.state = SUBMITTED

    @property
    def stdin_room(self) -> int:
        """Bytes of stdin that may be sent now; 0 after eof or when no process reads more."""
        if self._stdin_eof or self.state != ACCEPTED:
            return 0
        return max(0, limits.STDIN_WINDOW_BYTES - (self._stdin_offset - self._stdin_taken))

    @property
    def stdin_over(self) -> bool:
        """True when no more stdin is wanted or possible."""
        return self._stdin_eof or self.state == OVER

    def stdin(self, data: bytes, eof: bool = False) -> None:
        """Send the next bytes for every process; at most ``stdin_room`` of them."""
        if self._stdin_eof or self.state == OVER:
            return
        if len(data) > self.stdin_room:
            raise ValueError(f"{len(data)} bytes of stdin, room for {self.stdin_room}")
        for start in range(0, len(data), STDIN_CHUNK_BYTES):
            chunk = data[start : start + STDIN_CHUNK_BYTES]
            self._send(Stdin(self._stdin_offset, chunk))
            self._stdin_offset += len(chunk)
        if eof:
            self._send(Stdin(self._stdin_offset, b"", eof=True))
            self._stdin_eof = True

    def signal(self, signum: int) -> None:
        """Send a signal to the process group of every rank."""
        if self.state == ACCEPTED:
            self._send(Signal(signum))

    def kill(self, now: bool) -> None:
        """End every process: SIGHUP and SIGTERM, after the grace SIGKILL; or SIGKILL at once."""
        if self.state == ACCEPTED:
            self._send(Kill(now))

    def heard(self, now_s: float) -> None:
        """Something came from gexecd, or the wait for it begins. ``now_s``: of a monotonic clock."""
        self._heard_s = now_s
        self._pinged = False

    @property
    def silence_due_s(self) -> float | None:
        """When to call ``silence`` at the latest, None if gexecd owes nothing."""
        if self.state != ACCEPTED:
            return None
        return self._heard_s + (limits.LOST_AFTER_S if self._pinged else limits.HEARTBEAT_S)

    def silence(self, now_s: float) -> str:
        """Ask a gexecd that has been silent for long; return why it counts as lost, "" while it does not.

        Call it after what can be read was read. A pause of this process starts the wait anew.

        The caller then calls ``connection_ended`` with that reason.
        """
        due_s = self.silence_due_s
        if due_s is None:
            return ""
        if now_s - due_s > limits.LATE_S:
            # This process was not run when it came: gexecd may have been silent, or suspended with it.
            self._heard_s = now_s - limits.HEARTBEAT_S
            self._pinged = False
        silent_s = now_s - self._heard_s
        if self._pinged and silent_s >= limits.LOST_AFTER_S:
            return f"the local gexecd has not answered for {silent_s:.0f} s"
        if not self._pinged and silent_s >= limits.HEARTBEAT_S:
            self._pinged = True
            self._outgoing += encode_parts(0, Ping(0))
        return ""

    def close(self) -> None:
        """Leave: the job is ended where it still runs."""
        if self.state in (SUBMITTED, ACCEPTED):
            self._send(Close())
            self.state = OVER

    def taken(self, ranks: Ranges, stream: int, count: int) -> None:
        """The consumer took ``count`` more bytes of each of these ranks' stream.

        Acknowledged lazily: a stream that never fills half its window is never acknowledged.
        """
        taken, acked, half = self._taken[stream], self._acked[stream], self._half
        for low, high in ranks:
            for rank in range(low, high):
                offset = taken[rank] = taken[rank] + count
                if offset - acked[rank] >= half and self.outcomes[rank] is None:
                    acked[rank] = offset
                    self._acks[rank, stream] = offset

    def outgoing(self) -> bytes:
        """Return what is to be sent, once; b"" if nothing is."""
        if self._acks:
            if self.state == ACCEPTED:
                entries = [(rank, stream, offset) for (rank, stream), offset in self._acks.items()]
                for start in range(0, len(entries), _ACKS_IN_FRAME):
                    self._send(Ack(tuple(entries[start : start + _ACKS_IN_FRAME])))
            self._acks.clear()
        if not self._outgoing:
            return b""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    # -- from gexecd to the caller -------------------------------------------------------------

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes; return the job's frames in order: Accepted, Started, Output, Ended, StdinTaken, Done.

        Raises:
            DaemonError: gexecd refused the job, or speaks another protocol version.
            ProtocolError: what came is not the protocol; the connection is of no more use.
        """
        frames: list[Frame] = []
        for channel, frame in self._decoder.feed(data):
            if channel == 0:
                self._connection_frame(frame)
            elif channel != JOB_CHANNEL or not self._greeted:
                raise ProtocolError(f"gexecd sent {type(frame).__name__} on channel {channel} out of turn")
            elif self.state != OVER:
                self._job_frame(frame)
                frames.append(frame)
        return frames

    def connection_ended(self, reason: str) -> Ranges:
        """The connection is gone: every rank without an outcome is lost. Return those ranks."""
        self.state = OVER
        self._acks.clear()
        self._outgoing.clear()
        missing = [rank for rank, outcome in enumerate(self.outcomes) if outcome is None]
        outcome = lost(reason)
        for rank in missing:
            self.outcomes[rank] = outcome
        self._unended = 0
        return sets.of(missing)

    def ended_outcomes(self) -> list[Outcome]:
        """Return all outcomes; a rank that has none (the caller left early) is lost."""
        return [outcome or lost("gexec left before it ended") for outcome in self.outcomes]

    def _connection_frame(self, frame: Frame) -> None:
        if isinstance(frame, Hello):
            if not limits.PROTOCOL_OLDEST <= frame.version <= limits.PROTOCOL_VERSION:
                raise DaemonError(
                    f"gexecd speaks protocol version {frame.version}, this gexec {limits.PROTOCOL_VERSION}: "
                    "install the same release of both"
                )
            self._greeted = True
        elif isinstance(frame, Pong):
            pass
        elif isinstance(frame, Ping):
            self._outgoing += encode_parts(0, Pong(frame.token))
        elif not isinstance(frame, Goodbye):
            raise ProtocolError(f"gexecd sent {type(frame).__name__} on channel 0")

    def _job_frame(self, frame: Frame) -> None:
        if self.state == ACCEPTED:
            if isinstance(frame, Output):
                return self._output(frame)
            if isinstance(frame, RanksStarted):
                self._check_ranks(frame.ranks)
                self.started = sets.union(self.started, frame.ranks)
                return None
            if isinstance(frame, NotResponding):
                self._check_ranks(frame.ranks)
                self.quiet.update(sets.members(frame.ranks))
                return None
            if isinstance(frame, Responding):
                self.quiet.difference_update(sets.members(frame.ranks))
                return None
            if isinstance(frame, Ended):
                return self._ended(frame)
            if isinstance(frame, StdinTaken):
                return self._stdin_taken_to(frame.offset)
            if isinstance(frame, Done):
                if self._unended:
                    raise ProtocolError(f"gexecd sent Done while {self._unended} ranks have no outcome")
                self.state = OVER
                return None
        elif self.state == SUBMITTED:
            if isinstance(frame, Accepted):
                self.job_id = frame.job_id
                self.state = ACCEPTED
                return None
            if isinstance(frame, Refused):
                self.state = OVER
                raise DaemonError(f"gexecd refused the job: {frame.text}")
        raise ProtocolError(f"gexecd sent {type(frame).__name__} out of turn")

    def _check_ranks(self, ranks: Ranges) -> None:
        if ranks and ranks[-1][1] > self._ranks:
            raise ProtocolError(f"gexecd named rank {ranks[-1][1] - 1} of a job with {self._ranks}")

    def _output(self, frame: Output) -> None:
        self._check_ranks(frame.ranks)
        received, start = self._received[frame.stream], frame.offset
        end = start + len(frame.data)
        for low, high in frame.ranks:
            for rank in range(low, high):
                if received[rank] != start:
                    raise ProtocolError(
                        f"output of rank {rank} at offset {start}: expected offset {received[rank]}"
                    )
                if self.outcomes[rank] is not None:
                    raise ProtocolError(f"output of rank {rank} after its end")
                received[rank] = end

    def _ended(self, frame: Ended) -> None:
        self._check_ranks(frame.ranks)
        lengths = ((STDOUT, frame.stdout_length), (STDERR, frame.stderr_length))
        for rank in sets.members(frame.ranks):
            if self.outcomes[rank] is not None:
                raise ProtocolError(f"rank {rank} ended twice")
            for stream, length in lengths:
                came = self._received[stream][rank]
                if length not in (LENGTH_UNKNOWN, came) and not self._detached:
                    raise ProtocolError(f"rank {rank} wrote {length} bytes to a stream, {came} came")
            self.outcomes[rank] = frame.outcome
            self._unended -= 1
            self.quiet.discard(rank)

    def _stdin_taken_to(self, offset: int) -> None:
        if offset == OFFSET_ALL:
            self._stdin_eof = True
        elif offset > self._stdin_offset:
            raise ProtocolError(f"stdin taken up to {offset}, of {self._stdin_offset} bytes sent")
        else:
            self._stdin_taken = max(self._stdin_taken, offset)

    def _send(self, frame: Frame) -> None:
        self._outgoing += encode_parts(JOB_CHANNEL, frame)
