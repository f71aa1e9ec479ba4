"""The simulated client: submits, reads, acknowledges, sends stdin and signals; checks every frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gexec import limits
from gexec.wire import frames
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
from laboratory.checks.delivery import Delivery
from laboratory.checks.responding import Responses
from laboratory.daemons import Cluster
from laboratory.jobs import TTL_S, UID, SimJob
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

    def __init__(self, cluster: Cluster, job: SimJob, habits: Habits, faults: bool) -> None:
        self._delivery = Delivery(job)
        self._responding = Responses(faults)
        self.outcomes = self._delivery.outcomes
        self.received = self._delivery.received
        self.started = self._delivery.started
        self.done = False
        self.here = True
        self._cluster = cluster
        self._job = job
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
        self._end.heard_s = self._cluster.root.timers.time()
        self._cluster.root.jobs.link_accepted(self._end, UID)
        self.send(Submit(self._job.raw, self._job.blob))
        if self._habits.sends_stdin:
            self._send_stdin()
        for at_s, frame in self._habits.commands:
            self._world.after(at_s, None, self.send, frame)
        if self._habits.gone_at_s is not None:
            self._world.after(self._habits.gone_at_s, None, self._leave)

    def _leave(self) -> None:
        self.here = False
        self._world.news = True
        self._world.note("gone", "client", shown="without a message")
        self._at_root(self._left)

    def _left(self) -> None:
        self._cluster.root.jobs.link_closed(self._end, "the client is gone")

    def send(self, frame: Frame) -> None:
        """Send a frame to the root, unless the job is over."""
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
                self._delivery.starts(frame)
            case Ended():
                self._delivery.ends(frame)
                self._responding.ends(frame.ranks)
            case frames.NotResponding() | frames.Responding():
                self._responding.hear(frame)
            case frames.StdinTaken(offset=offset):
                if self._sent < offset < frames.OFFSET_ALL:
                    raise Violation(f"stdin taken up to {offset}, of {self._sent} bytes sent")
                self._may_send = max(self._may_send, offset + limits.STDIN_WINDOW_BYTES)
                if self._habits.sends_stdin:
                    self._send_stdin()
            case frames.Refused(text=reason):
                # Its daemon stood still when the job came, and the credential has expired since.
                if self._job.ttl_s >= TTL_S:
                    raise Violation(f"the job is refused: {reason}")
                self.done = self._world.news = True
            case frames.Done():
                self._delivery.done()
                self.done = self._world.news = True

    def _take_output(self, frame: Output) -> None:
        entries = []
        for rank, stream, received in self._delivery.output(frame):
            unacknowledged = received - self._acknowledged.get((rank, stream), 0)
            if unacknowledged >= self._habits.acknowledges * self._job.spec.window:
                self._acknowledged[rank, stream] = received
                entries.append((rank, stream, received))
        if entries:
            self.send(frames.Ack(tuple(entries)))

    # -- stdin ----------------------------------------------------------------------------

    def _send_stdin(self) -> None:
        if self._sent_eof or not self.here or self.done:
            return
        total = len(self._habits.stdin)
        if self._sent == total or self._may_send > frames.OFFSET_ALL:
            self._sent_eof = True
            self.send(frames.Stdin(self._sent, b"", True))
            return
        count = min(self._world.rng.randrange(1, limits.READ_CHUNK_BYTES), self._may_send - self._sent)
        if count > 0:
            piece = self._habits.stdin[self._sent : self._sent + count]
            self.send(frames.Stdin(self._sent, piece))
            self._sent += len(piece)
            self._world.after(0.001, None, self._send_stdin)
