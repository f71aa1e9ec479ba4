"""Simulated processes: they write known bytes, read stdin, end by themselves or by signals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gexec import limits
from gexec.core import events
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import Outcome

if TYPE_CHECKING:
    from laboratory.daemons import SimDaemon

PIPE_BYTES = 64 * 1024
SIGKILL = 9
SIGTERM = 15


@dataclass
class Plan:
    """What one rank's command does: set before the simulation begins."""

    #: (pause before it, stream, bytes)
    writes: list[tuple[float, int, bytes]]
    status: int
    #: Bytes of stdin to read before it ends: None = to the end of file.
    reads: int | None = 0
    #: Why it cannot be started, if so.
    refusal: Outcome | None = None
    #: Ignores everything but SIGKILL.
    stubborn: bool = False
    #: How long something that it leaves behind keeps its output open.
    leaves_s: float = 0.0
    #: And writes to it without end.
    chatters: bool = False


@dataclass
class ProcessRecord:
    """What really happened to one rank, whatever its daemon could tell of it."""

    starts: int = 0
    running: int = 0
    written: dict[int, bytearray] = field(default_factory=lambda: {STDOUT: bytearray(), STDERR: bytearray()})
    stdin: bytearray = field(default_factory=bytearray)
    stdin_eof: bool = False
    outcome: Outcome | None = None
    #: Lengths of stdout and stderr when the process ended: all that it wrote itself.
    own: tuple[int, int] = (0, 0)


class SimProcess:
    """One started process and its three pipes. ``tell`` takes the events of its machine.

    What it does happens to its machine, what its daemon sees of it to the daemon: that may be stopped alone.
    """

    def __init__(
        self,
        host: SimDaemon,
        plan: Plan,
        record: ProcessRecord,
        grace_s: float,
        tell: Callable[[events.Event], None],
    ) -> None:
        self.runs = True
        self._world = host.world
        self._host = host
        self._plan = plan
        self._record = record
        self._grace_s = grace_s
        self._tell = tell
        self._writes = list(reversed(plan.writes))
        self._pipes = {STDOUT: bytearray(), STDERR: bytearray()}
        self._on = {STDOUT: True, STDERR: True}
        self._reading = {STDOUT: False, STDERR: False}
        self._ended = {STDOUT: False, STDERR: False}
        self._held_open = True
        self._blocked = False
        self._stdin = bytearray()
        self._stdin_eof = False
        self._taken = 0
        self._asked = False
        self._reported_s = 0.0
        record.starts += 1
        record.running += 1
        self._after(0.001, self._started)

    def _after(self, mean_s: float, call: Callable[..., None], *arguments: object) -> None:
        delay_s = self._world.rng.uniform(0.5, 1.5) * mean_s
        self._world.after(delay_s, self._host.machine, call, *arguments)

    def _report(self, event: events.Event) -> None:
        """Have the daemon hear of something, after what it was told before."""
        at_s = max(self._reported_s, self._world.now_s + self._world.rng.uniform(0.0005, 0.0015))
        self._reported_s = at_s
        self._world.at(at_s, self._host, self._tell, event)

    def _started(self) -> None:
        self._report(events.TaskStarted())
        self._next()

    # -- what the command does ------------------------------------------------------------

    def _next(self) -> None:
        if not self.runs:
            return
        if self._writes:
            pause_s, _, _ = self._writes[-1]
            self._after(pause_s, self._write)
        elif self._reads_on:
            self._read_stdin()
        else:
            self._after(0.001, self._end, outcomes.exited(self._plan.status))

    def _write(self) -> None:
        if not self.runs:
            return
        pause_s, stream, data = self._writes[-1]
        pipe = self._pipes[stream]
        room = PIPE_BYTES - len(pipe)
        pipe += data[:room]
        self._record.written[stream] += data[:room]
        self._read_later(stream)
        if len(data) > room:
            self._writes[-1] = (pause_s, stream, data[room:])
            self._blocked = True
            return
        self._writes.pop()
        self._next()

    @property
    def _reads_on(self) -> bool:
        wanted = self._plan.reads
        read = len(self._record.stdin)
        return not self._record.stdin_eof and (wanted is None or read < wanted)

    def _read_stdin(self) -> None:
        if not self.runs:
            return
        count = self._world.rng.randrange(1, PIPE_BYTES)
        if self._plan.reads is not None:
            count = min(count, self._plan.reads - len(self._record.stdin))
        piece = self._stdin[: min(count, PIPE_BYTES)]
        if piece:
            self._record.stdin += piece
            del self._stdin[: len(piece)]
            self._take_stdin(piece_bytes=len(piece))
        elif self._stdin_eof:
            self._record.stdin_eof = True
        else:
            return  # goes on when more comes
        self._after(0.002, self._next)

    def _end(self, outcome: Outcome) -> None:
        if not self.runs:
            return
        self.die(outcome)
        leaves_s = 0.0 if self._asked else self._plan.leaves_s
        self._after(leaves_s + 0.001, self._let_go)
        if leaves_s and self._plan.chatters:
            self._chatter()
        self._report(events.TaskEnded(outcome, self._asked))
        if leaves_s > limits.LINGER_S:
            self._world.after(limits.LINGER_S, self._host.machine, self._left)

    def _chatter(self) -> None:
        """What was left behind writes as long as it lives."""
        if self._held_open:
            pipe = self._pipes[STDOUT]
            data = bytes(min(5000, PIPE_BYTES - len(pipe)))
            pipe += data
            self._record.written[STDOUT] += data
            self._read_later(STDOUT)
            self._after(0.05, self._chatter)

    def _left(self) -> None:
        if self._held_open:
            self._report(events.TaskLeft(1))

    def die(self, outcome: Outcome) -> None:
        """Be gone, without telling anybody (its daemon may be gone with it)."""
        if self.runs:
            self.runs = False
            self._record.running -= 1
            self._record.outcome = outcome
            self._record.own = len(self._record.written[STDOUT]), len(self._record.written[STDERR])

    # -- output ---------------------------------------------------------------------------

    def _read_later(self, stream: int) -> None:
        if self._on[stream] and not self._reading[stream]:
            self._reading[stream] = True
            self._world.after(self._world.rng.uniform(0.0005, 0.0015), self._host, self._read, stream)

    def _read(self, stream: int) -> None:
        self._reading[stream] = False
        event = self._read_once(stream)
        if event is not None:
            self._tell(event)

    def _read_once(self, stream: int) -> events.Event | None:
        """Return what one read of a stream gives; None for nothing now."""
        pipe = self._pipes[stream]
        if not self._on[stream]:
            return None
        if pipe:
            data = bytes(pipe[: limits.READ_CHUNK_BYTES])
            del pipe[: limits.READ_CHUNK_BYTES]
            if self._blocked:
                self._blocked = False
                self._after(0.0005, self._write)
            self._read_later(stream)
            return events.OutputRead(stream, data)
        if not self._held_open:
            self._on[stream] = False
            self._ended[stream] = True
            return events.OutputClosed(stream)
        return None

    def next_piece(self) -> events.Event | None:
        """Read once what a stream holds that may be read; None when there is nothing more now."""
        for stream in (STDOUT, STDERR):
            if not (self._on[stream] or self._pipes[stream] or self._held_open or self._ended[stream]):
                self._on[stream] = True  # its end can be seen without reading
            event = self._read_once(stream)
            if event is not None:
                return event
        return None

    def unread(self) -> tuple[int, int]:
        """Return how many bytes of stdout and stderr wait that may not be read now."""
        out, err = [0 if self._on[stream] else len(self._pipes[stream]) for stream in (STDOUT, STDERR)]
        return out, err

    def _let_go(self) -> None:
        self._held_open = False
        for stream in (STDOUT, STDERR):
            self._read_later(stream)

    def read(self, stream: int, on: bool) -> None:
        """The shell goes on (or stops) reading this stream."""
        self._on[stream] = on and not self._ended[stream]
        self._read_later(stream)

    def close_output(self) -> None:
        """The shell reads no more."""
        self._on = {STDOUT: False, STDERR: False}
        self._ended = {STDOUT: True, STDERR: True}

    # -- stdin ----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """The shell writes to stdin, as far as the pipe has room."""
        if not self.runs:
            self._report(events.StdinBroken())
            return
        self._stdin += data
        self._take_stdin(0)
        if not self._writes and self._reads_on:
            self._after(0.001, self._next_read)

    def _next_read(self) -> None:
        if self.runs and not self._writes and self._reads_on and (self._stdin or self._stdin_eof):
            self._read_stdin()

    def _take_stdin(self, piece_bytes: int) -> None:
        self._taken -= piece_bytes
        count = min(len(self._stdin), PIPE_BYTES) - self._taken
        if count > 0:
            self._taken += count
            self._report(events.StdinWritten(count))

    def close_stdin(self) -> None:
        """The shell closes stdin after what it wrote."""
        self._stdin_eof = True
        self._after(0.001, self._next_read)

    # -- signals --------------------------------------------------------------------------

    def signal(self, signum: int) -> None:
        """A signal to the process group; it also ends what was left behind."""
        if not self.runs:
            self._after(0.001, self._let_go)
        if signum == SIGKILL or not self._plan.stubborn:
            self._after(0.001, self._end, outcomes.killed(signum))

    def kill(self, now: bool) -> None:
        """End it and what it left behind: SIGTERM and SIGKILL after the grace, or at once."""
        self._asked = True
        if not self.runs:
            self._after(0.001 if now else self._grace_s, self._let_go)
        elif now:
            self._after(0.001, self._end, outcomes.killed(SIGKILL))
        else:
            self.signal(SIGTERM)
            self._after(self._grace_s, self._end, outcomes.killed(SIGKILL))
