"""Simulated pipes: stdin, stdout and stderr between one process and the relay."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gexec import limits
from gexec.core import events
from gexec.core.saving import Saved
from gexec.relay.taskio import WATCH_S
from gexec.wire.frames import STDERR, STDOUT
from laboratory import moments

if TYPE_CHECKING:
    from laboratory.daemons import SimDaemon

PIPE_BYTES = 64 * 1024


def _nothing() -> None:
    """The other end is not connected yet."""


class SimPipes:
    """A gexec.relay.ports.PipesPort that behaves like gexec.relay.taskio, with the process's ends.

    Attributes:
        room: called at the process when it can write again.
        came: called at the process when it can read again.
    """

    def __init__(
        self,
        daemon: SimDaemon,
        number: int,
        tell: Callable[[events.Event], None],
        with_stdin: bool,
        with_output: bool,
    ) -> None:
        self.child_fds = (number, number, number)
        self.room: Callable[[], None] = _nothing
        self.came: Callable[[], None] = _nothing
        self._daemon = daemon
        self._world = daemon.world
        self._tell = tell
        self._out = {STDOUT: bytearray(), STDERR: bytearray()} if with_output else {}
        #: Streams that the relay still has open, and whether it wants more of them.
        self._on = dict.fromkeys(self._out, True)
        self._started = self._watching = False
        self._reading: set[int] = set()
        self._held = True
        self._with_stdin = with_stdin
        self._stdin = bytearray()
        self._waiting = bytearray()
        self._stdin_eof = False
        self._stdin_ended = not with_stdin
        self._reader_gone = False
        self._lasting: Callable[[tuple[int, int]], None] | None = None

    # -- for the next relay ---------------------------------------------------------------

    def when_lasting(self, tell: Callable[[tuple[int, int]], None]) -> None:
        """Call this once, when the process runs and has all of its stdin: here soon, so that many do."""
        self._lasting = tell
        self._tell_lasting()

    def _tell_lasting(self) -> None:
        tell, number = self._lasting, self.child_fds[0]
        if tell is not None and self._watching and self._stdin_ended and self._on:
            self._lasting = None
            tell((number, number))

    @property
    def open_outputs(self) -> dict[int, int]:
        """The streams that are open, and by what the next relay finds them."""
        return dict.fromkeys(self._on, self.child_fds[0])

    def orphan(self) -> None:
        """The relay that read them is dead."""
        self._watching = False
        self._reading.clear()
        self._tell = lambda event: None

    def adopt(self, tell: Callable[[events.Event], None]) -> None:
        """Another relay reads on."""
        self._on = dict.fromkeys(self._on, True)
        self._started = True
        self.continue_with(tell)

    def save(self, fds: list[int]) -> Saved:
        """Return by what the next relay finds these pipes."""
        return {"number": self.child_fds[0]}

    def continue_with(self, tell: Callable[[events.Event], None]) -> None:
        """Another relay reads and writes them from now on."""
        self._tell = tell
        self._reading.clear()
        if self._started:
            self.started()
        if self._waiting:
            self._writable_later()

    def _at_process(self, call: Callable[[], None]) -> None:
        self._world.after(self._world.rng.uniform(0.0002, 0.001), self._daemon.machine, call)

    # -- the process's ends ---------------------------------------------------------------

    def put(self, stream: int, data: bytes) -> int:
        """Write; return how much the pipe took."""
        if stream not in self._out:
            return len(data)  # /dev/null
        pipe = self._out[stream]
        count = min(len(data), PIPE_BYTES - len(pipe))
        pipe += data[:count]
        self._read_later(stream)
        return count

    def take(self, count: int) -> bytes | None:
        """Read stdin; empty at its end, None for nothing now."""
        piece = bytes(self._stdin[:count])
        if not piece:
            return b"" if self._stdin_ended else None
        del self._stdin[:count]
        if self._waiting:
            self._writable_later()
        return piece

    def let_go(self) -> None:
        """No process holds the output any more."""
        self._held = False
        for stream in self._out:
            self._read_later(stream)

    def close_reader(self) -> None:
        """No process reads stdin any more."""
        self._reader_gone = True
        if self._waiting:
            self._writable_later()

    # -- output, at the relay -------------------------------------------------------------

    def close_child_ends(self) -> None:
        """Nothing to close here."""

    def started(self) -> None:
        """The process runs: watch its output soon."""
        self._started = True
        self._daemon.timers.call_at(self._daemon.timers.time() + WATCH_S, self.watch)

    def watch(self) -> None:
        """Watch its output from now on."""
        self._watching = True
        self._tell_lasting()
        for stream in self._on:
            self._read_later(stream)

    def _read_later(self, stream: int) -> None:
        if not (self._watching and self._on.get(stream)) or stream in self._reading:
            return
        if self._out[stream] or not self._held:
            self._reading.add(stream)
            self._world.after(self._world.rng.uniform(0.0005, 0.0015), self._daemon, self._read, stream)

    def _read(self, stream: int) -> None:
        self._reading.discard(stream)
        event = self._read_once(stream) if self._on.get(stream) else None
        if event is not None:
            self._tell(event)

    def _read_once(self, stream: int) -> events.Event | None:
        pipe = self._out[stream]
        if pipe:
            data = bytes(pipe[: limits.READ_CHUNK_BYTES])
            del pipe[: limits.READ_CHUNK_BYTES]
            self._at_process(self.room)
            self._read_later(stream)
            return events.OutputRead(stream, data)
        if self._held:
            return None
        del self._on[stream]
        return events.OutputClosed(stream)

    def next_piece(self) -> events.Event | None:
        """Read once from a stream that may be read; None if there is nothing more now."""
        for stream, on in list(self._on.items()):
            at_end = not self._out[stream] and not self._held
            if (on or at_end) and (event := self._read_once(stream)) is not None:
                return event
        return None

    def unread(self) -> tuple[int, int]:
        """Return how many bytes of stdout and stderr are waiting that may not be read now."""
        out, err = [
            0 if self._on.get(stream, True) else len(self._out[stream]) for stream in (STDOUT, STDERR)
        ]
        return out, err

    def read(self, stream: int, on: bool) -> None:
        """Continue or stop reading a stream."""
        if stream in self._on:
            self._on[stream] = on
            self._read_later(stream)

    def close_output(self) -> None:
        """Read no more of either stream."""
        self._lasting = None
        self._on.clear()

    def close(self) -> None:
        """Close everything."""
        self.close_output()
        self._end_stdin()

    def unread_stdin(self) -> int:
        """Return how many bytes of stdin the process has not read; 0 if its pipe is closed on this side."""
        return 0 if self._stdin_ended else len(self._stdin)

    def drop_stdin(self) -> None:
        """Close stdin, and drop the bytes that wait to be written."""
        self._end_stdin()

    # -- stdin, at the relay --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write to the process, now or when its pipe has room."""
        if not self._stdin_ended:
            idle = not self._waiting
            self._waiting += data
            if idle:
                self._writable()

    def close_stdin(self) -> None:
        """Close stdin after the bytes that wait to be written."""
        self._stdin_eof = True
        self._daemon.cluster.moments.reached(moments.STDIN_EOF, self._daemon.index)
        if not self._waiting:
            self._end_stdin()

    def _end_stdin(self) -> None:
        self._waiting.clear()
        if not self._stdin_ended:
            self._stdin_ended = True
            self._at_process(self.came)
            self._tell_lasting()

    def _writable_later(self) -> None:
        self._world.after(self._world.rng.uniform(0.0005, 0.0015), self._daemon, self._writable)

    def _writable(self) -> None:
        if not self._waiting:
            return
        if self._reader_gone:
            self._end_stdin()
            self._tell(events.StdinBroken())
            return
        count = min(len(self._waiting), PIPE_BYTES - len(self._stdin))
        if count:
            self._stdin += self._waiting[:count]
            del self._waiting[:count]
            self._at_process(self.came)
            if self._stdin_eof and not self._waiting:
                self._end_stdin()
            self._tell(events.StdinWritten(count))
