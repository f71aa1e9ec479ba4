"""The relay's ends of one process's stdin, stdout and stderr.

Watching the pipes of a short command costs more than it gains, so pipes are watched only after WATCH_S. When
the spawner reports the end of the process, they are read to their end at once (``next_piece``).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import termios
from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final

from gexec import limits
from gexec.core import events
from gexec.core.saving import Saved
from gexec.wire.frames import STDERR, STDOUT

#: A command shorter than this needs no registration with the event loop.
WATCH_S = 0.02
#: A process that has run for this time shall outlive its relay (docs/decisions/0032-killed-relays.md).
KEEP_S = 1.0
_INT: Final = Struct("i")


def orphaned(streams: Sequence[int]) -> Saved:
    """Return the state of the pipes of a process whose relay died, with the descriptors of ``streams``."""
    return {
        "outputs": {stream: index for index, stream in enumerate(streams)},
        "on": {STDOUT: True, STDERR: True},
        "watched": True,
        "stdin": None,
        "waiting": [],
        "stdin_eof": True,
    }


class TaskIO:
    """Pipes of one process.

    Args:
        tell: called with events (OutputRead, OutputClosed, StdinWritten, StdinBroken).
        with_stdin: a pipe for stdin; else the process gets /dev/null.
        with_output: pipes for stdout and stderr; else /dev/null too, for a detached process.
        freed: called for each pipe when this side's end of it is closed.
        saved: what ``save`` of another relay returned, or ``orphaned``: its pipes are continued, and the
            other arguments do not count.
        fds: the descriptors of ``saved``.

    ``child_fds`` are the process's ends of stdin, stdout, stderr: close them with ``close_child_ends`` when
    they have been passed on.

    Raises:
        OSError: no descriptors left.
    """

    def __init__(
        self,
        tell: Callable[[events.Event], None],
        with_stdin: bool,
        with_output: bool = True,
        freed: Callable[[], None] = lambda: None,
        saved: Saved | None = None,
        fds: Sequence[int] = (),
    ) -> None:
        self._tell = tell
        self._freed = freed
        self._loop = asyncio.get_running_loop()
        self._stdin: int | None = None
        self._waiting: deque[bytes] = deque()
        self._stdin_eof = False
        self._stdin_watched = False
        self._outputs: dict[int, int] = {}
        self._on = {STDOUT: True, STDERR: True}
        self._watched: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._watching = False
        #: What to call when the process lasts, until then; and whether it has run for KEEP_S.
        self._lasting: Callable[[tuple[int, int]], None] | None = None
        self._is_old = False
        self.child_fds = (-1, -1, -1)
        if saved is None:
            self._open(with_stdin, with_output)
        else:
            self._continue(saved, fds)

    def _open(self, with_stdin: bool, with_output: bool) -> None:
        opened: list[int] = []
        try:
            if with_stdin:
                child_stdin, self._stdin = os.pipe()
                opened += (child_stdin, self._stdin)
                os.set_blocking(self._stdin, False)
            else:
                child_stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                opened.append(child_stdin)
            child_fds = [child_stdin]
            for stream in (STDOUT, STDERR):
                if not with_output:
                    child_fds.append(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
                    opened.append(child_fds[-1])
                    continue
                ours, theirs = os.pipe()
                opened += (ours, theirs)
                os.set_blocking(ours, False)
                self._outputs[stream] = ours
                child_fds.append(theirs)
        except OSError:
            for fd in opened:
                os.close(fd)
            raise
        self.child_fds = (child_fds[0], child_fds[1], child_fds[2])

    # -- for the next relay ---------------------------------------------------------------

    def save(self, fds: list[int]) -> Saved:
        """Return its state; its descriptors are added to ``fds``."""
        outputs = {stream: len(fds) + index for index, stream in enumerate(self._outputs)}
        fds += self._outputs.values()
        if self._stdin is not None:
            fds.append(self._stdin)
        return {
            "outputs": outputs,
            "on": self._on,
            "watched": self._watching or self._timer is not None,
            "stdin": None if self._stdin is None else len(fds) - 1,
            "waiting": list(self._waiting),
            "stdin_eof": self._stdin_eof,
        }

    def _continue(self, saved: Saved, fds: Sequence[int]) -> None:
        self._outputs = {stream: fds[index] for stream, index in saved["outputs"].items()}
        self._on = saved["on"]
        self._stdin = None if saved["stdin"] is None else fds[saved["stdin"]]
        self._waiting.extend(saved["waiting"])
        self._stdin_eof = saved["stdin_eof"]
        if saved["watched"]:
            self.started()
        if self._waiting and self._stdin is not None:
            self._stdin_watched = True
            self._loop.add_writer(self._stdin, self._writable)

    def close_child_ends(self) -> None:
        """Close the process's ends; the spawner has its own."""
        for fd in self.child_fds:
            os.close(fd)

    # -- output ---------------------------------------------------------------------------

    def started(self) -> None:
        """The process runs: watch its output after WATCH_S."""
        if self._timer is None and not self._watching:
            self._timer = self._loop.call_later(WATCH_S, self._runs_on)

    def _runs_on(self) -> None:
        self._watch()
        self._timer = self._loop.call_later(KEEP_S - WATCH_S, self._lasts)

    def _lasts(self) -> None:
        self._timer = None
        self._is_old = True
        self._tell_lasting()

    def when_lasting(self, tell: Callable[[tuple[int, int]], None]) -> None:
        """Call ``tell`` once, when the process has run for KEEP_S and has all of its stdin.

        It gets the descriptors of stdout and stderr, which stay this object's; /dev/null for a closed one.
        """
        self._lasting = tell

    def _tell_lasting(self) -> None:
        tell = self._lasting
        if tell is None or not self._is_old or self._stdin is not None:
            return
        self._lasting = None
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            tell((self._outputs.get(STDOUT, null), self._outputs.get(STDERR, null)))
        finally:
            os.close(null)

    def _watch(self) -> None:
        self._watching = True
        for stream in list(self._outputs):
            self._set_watched(stream, self._on[stream])

    def _set_watched(self, stream: int, on: bool) -> None:
        fd = self._outputs.get(stream)
        if fd is None or on == (stream in self._watched):
            return
        if on:
            self._watched.add(stream)
            self._loop.add_reader(fd, self._readable, stream)
        else:
            self._watched.discard(stream)
            self._loop.remove_reader(fd)

    def _readable(self, stream: int) -> None:
        event = self._read_once(stream)
        if event is not None:
            self._tell(event)

    def _read_once(self, stream: int) -> events.Event | None:
        """Return the result of one read of a stream: OutputRead, OutputClosed, or None for nothing now."""
        fd = self._outputs.get(stream)
        if fd is None:
            return None
        try:
            data = os.read(fd, limits.READ_CHUNK_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if data:
            return events.OutputRead(stream, data)
        self._close_output(stream)
        return events.OutputClosed(stream)

    def read(self, stream: int, on: bool) -> None:
        """Continue or stop reading a stream."""
        self._on[stream] = on
        if self._watching:
            self._set_watched(stream, on)

    def watch(self) -> None:
        """The process has ended: watch the processes that still hold its output."""
        self._cancel()
        self._watch()

    def _cancel(self) -> None:
        self._lasting = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def next_piece(self) -> events.Event | None:
        """Read once from a stream that may be read; None if there is nothing more now."""
        for stream, fd in list(self._outputs.items()):
            # For an empty pipe without writers, the end can be detected even if it may not be read.
            if (self._on[stream] or _at_end(fd)) and (event := self._read_once(stream)) is not None:
                return event
        return None

    def unread(self) -> tuple[int, int]:
        """Return how many bytes of stdout and stderr are waiting in pipes that may not be read now."""
        return self._unread(STDOUT), self._unread(STDERR)

    def _unread(self, stream: int) -> int:
        fd = self._outputs.get(stream)
        return 0 if fd is None or self._on[stream] else _bytes_in(fd)

    def _close_output(self, stream: int) -> None:
        self._set_watched(stream, False)
        fd = self._outputs.pop(stream, None)
        if fd is not None:
            os.close(fd)
            self._freed()

    # -- stdin ----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write to the process, now or when its pipe has room."""
        if self._stdin is None:
            return
        self._waiting.append(data)
        if not self._stdin_watched:
            self._writable()

    def close_stdin(self) -> None:
        """Close the process's stdin after the bytes that wait to be written."""
        self._stdin_eof = True
        if not self._waiting:
            self._end_stdin()

    def _writable(self) -> None:
        written = 0
        try:
            while self._waiting and self._stdin is not None:
                data = self._waiting[0]
                count = os.write(self._stdin, data)
                written += count
                if count < len(data):
                    self._waiting[0] = data[count:]
                    break
                self._waiting.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._end_stdin()
            self._tell(events.StdinBroken())
            return
        if self._waiting and self._stdin is not None:
            if not self._stdin_watched:
                self._stdin_watched = True
                self._loop.add_writer(self._stdin, self._writable)
        else:
            self._unwatch_stdin()
            if self._stdin_eof:
                self._end_stdin()
        if written:
            self._tell(events.StdinWritten(written))

    def _unwatch_stdin(self) -> None:
        if self._stdin_watched and self._stdin is not None:
            self._loop.remove_writer(self._stdin)
        self._stdin_watched = False

    def _end_stdin(self) -> None:
        self._unwatch_stdin()
        self._waiting.clear()
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None
            self._freed()
            self._tell_lasting()

    def unread_stdin(self) -> int:
        """Return how many bytes of stdin the process has not read; 0 if its pipe is closed on this side."""
        return 0 if self._stdin is None else _bytes_in(self._stdin)

    def drop_stdin(self) -> None:
        """Close stdin, and drop the bytes that wait to be written."""
        self._end_stdin()

    # -- end ------------------------------------------------------------------------------

    def close_output(self) -> None:
        """Read no more of either stream."""
        self._lasting = None
        for stream in list(self._outputs):
            self._close_output(stream)

    def close(self) -> None:
        """Close everything."""
        self._cancel()
        self._end_stdin()
        self.close_output()


def _bytes_in(fd: int) -> int:
    """Return how many bytes are in a pipe; either of its ends will do."""
    (count,) = _INT.unpack(fcntl.ioctl(fd, termios.FIONREAD, bytes(_INT.size)))
    return int(count)


def _at_end(fd: int) -> bool:
    """Tell whether a pipe is empty and has no writer any more."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(not happened & select.POLLIN for _, happened in poll.poll(0))
