"""The simulated client: submits, reads, acknowledges, sends stdin and signals; checks every frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gexec import limits
from gexec.wire import frames
from gexec.wire import ranks as ranksets
from gexec.wire.frames import (
    FROM_CLIENT,
    FROM_ROOT,
    Decoder,
    Ended,
    Frame,
    Output,
    RanksStarted,
    Submit,
    encode,
)
from gexec.wire.outcome import Outcome
from laboratory.daemons import CREDENTIAL, Cluster
from laboratory.upgrades import UID
from laboratory.world import Violation


@dataclass
class Habits:
    """The client's behaviour besides reading."""

    stdin: bytes = b""
    sends_stdin: bool = False
    #: (when, frame): Signal, Kill or Close.
    commands: list[tuple[float, Frame]] = field(default_factory=list)
    #: Interval in which it reads nothing.
    stalls: tuple[float, float] | None = None
    #: When it is gone without a message.
    gone_at_s: float | None = None
    #: Fraction of the window after which it acknowledges.
    acknowledges: float = 0.5
    #: How long it needs for one frame.
    pace_s: float = 0.0001


#: A client's connection has one job, on this channel.
CHANNEL = 1


class ClientEnd:
    """The root's end of the client's connection: a gexec.relay.ports.LinkPort."""

    def __init__(self, take: Callable[[Frame], None]) -> None:
        self.reached = self.opened = True
        self.leaving = self.waiting = self.cut = False
        self.unsent_bytes = 0
        self.heard_s = 0.0
        self.give_up_s = 0.0
        self.label = self.source = "client"
        self._take = take

    def holds(self, name: str) -> bool:
        """It has no certificate."""
        return False

    def send(self, channel: int, frame: Frame, hurry: bool = True) -> None:
        """Have the client read it when it comes to it."""
        if channel == CHANNEL:
            self._take(frame)

    def answer(self, channel: int, frame: Frame) -> None:
        """Have the client read it when it comes to it."""
        self.send(channel, frame)

    def close(self, text: str) -> None:
        """Not expected."""
        raise Violation(f"the client's connection is closed: {text}")

    def abort(self, text: str) -> None:
        """Not expected."""
        self.close(text)


class SimClient:
    """A client on the root's host. Its connection is reliable; the client itself may be slow."""

    def __init__(self, cluster: Cluster, habits: Habits) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.received: dict[tuple[int, int], bytearray] = {}
        self.started: set[int] = set()
        self.done = False
        self.here = True
        self._cluster = cluster
        self._world = cluster.world
        self._habits = habits
        self._acknowledged: dict[tuple[int, int], int] = {}
        self._inbox: deque[Frame] = deque()
        self._to_root = Decoder(FROM_CLIENT)
        self._from_root = Decoder(FROM_ROOT)
        self._sent = 0
        self._sent_eof = False
        self._may_send = limits.STDIN_WINDOW_BYTES
        self._reading = False
        self._end = ClientEnd(self._came)

    def begin(self) -> None:
        """Submit the job and begin."""
        self._cluster.root.jobs.link_accepted(self._end, UID)
        self._send(Submit(CREDENTIAL, self._cluster.blob))
        if self._habits.sends_stdin:
            self._send_stdin()
        for at_s, frame in self._habits.commands:
            self._world.after(at_s, None, self._send, frame)
        if self._habits.gone_at_s is not None:
            self._world.after(self._habits.gone_at_s, None, self._leave)

    def _leave(self) -> None:
        self.here = False
        self._world.news = True
        self._world.note("client gone", "client")
        self._at_root(self._left)

    def _left(self) -> None:
        self._cluster.root.jobs.link_closed(self._end, "the client is gone")

    def _send(self, frame: Frame) -> None:
        if self.here and not self.done:
            self._at_root(self._arrive, encode(CHANNEL, frame))

    def _at_root(self, call: Callable[..., None], *arguments: object) -> None:
        if self._cluster.root.alive:
            self._world.after(0.0001, self._cluster.root.outlasting, call, *arguments)

    def _arrive(self, data: bytes) -> None:
        for channel, sent in self._to_root.feed(data):
            self._cluster.root.jobs.link_frame(self._end, channel, sent)

    # -- reading --------------------------------------------------------------------------

    def _came(self, frame: Frame) -> None:
        self._inbox.append(frame)
        if not self._reading:
            self._read_after(self._world.rng.uniform(0, 0.002))

    def _read_after(self, delay_s: float) -> None:
        self._reading = True
        self._world.after(delay_s, None, self._read)

    def _read(self) -> None:
        self._reading = False
        if not self.here or self.done or not self._inbox:
            return
        stalls = self._habits.stalls
        if stalls is not None and stalls[0] <= self._world.now_s < stalls[1]:
            self._read_after(stalls[1] - self._world.now_s)
            return
        data = encode(CHANNEL, self._inbox.popleft())
        for _, received in self._from_root.feed(data):
            self._world.note("client", "client", data, received)
            self._take(received)
        self._read_after(self._habits.pace_s)

    def _take(self, frame: Frame) -> None:
        match frame:
            case Output():
                self._take_output(frame)
            case RanksStarted():
                for rank in ranksets.members(frame.ranks):
                    if rank in self.started or rank in self.outcomes:
                        raise Violation(f"rank {rank} is reported as started twice, or after its end")
                    self.started.add(rank)
            case Ended():
                for rank in ranksets.members(frame.ranks):
                    if rank in self.outcomes:
                        raise Violation(f"rank {rank} ends twice: {self.outcomes[rank]}, {frame.outcome}")
                    self.outcomes[rank] = frame.outcome
            case frames.StdinTaken(offset=offset):
                self._may_send = max(self._may_send, offset + limits.STDIN_WINDOW_BYTES)
                if self._habits.sends_stdin:
                    self._send_stdin()
            case frames.Done():
                if len(self.outcomes) != self._cluster.spec.ranks:
                    raise Violation(f"Done, but only {len(self.outcomes)} ranks have ended")
                self.done = self._world.news = True

    def _take_output(self, frame: Output) -> None:
        window = self._cluster.spec.window
        entries = []
        for rank in ranksets.members(frame.ranks):
            key = (rank, frame.stream)
            received = self.received.setdefault(key, bytearray())
            if frame.offset != len(received):
                raise Violation(f"rank {rank} stream {frame.stream}: {frame.offset} after {len(received)}")
            if rank in self.outcomes:
                raise Violation(f"rank {rank} writes after its end")
            received += frame.data
            written = self._cluster.records[rank].written[frame.stream]
            honest = rank not in self._cluster.betrayed
            if honest and not written.startswith(received[frame.offset :], frame.offset):
                raise Violation(f"rank {rank} stream {frame.stream}: not what was written at {frame.offset}")
            if len(received) - self._acknowledged.get(key, 0) >= self._habits.acknowledges * window:
                self._acknowledged[key] = len(received)
                entries.append((rank, frame.stream, len(received)))
        if entries:
            self._send(frames.Ack(tuple(entries)))

    # -- stdin ----------------------------------------------------------------------------

    def _send_stdin(self) -> None:
        if self._sent_eof or not self.here or self.done:
            return
        total = len(self._habits.stdin)
        if self._sent == total or self._may_send > frames.OFFSET_ALL:
            self._sent_eof = True
            self._send(frames.Stdin(self._sent, b"", True))
            return
        count = min(self._world.rng.randrange(1, limits.READ_CHUNK_BYTES), self._may_send - self._sent)
        if count > 0:
            piece = self._habits.stdin[self._sent : self._sent + count]
            self._send(frames.Stdin(self._sent, piece))
            self._sent += len(piece)
            self._world.after(0.001, None, self._send_stdin)
