"""The loop of the command line: gexecd's socket, stdin, stdout, stderr and signals in one poll.

It never waits in a write, so signals and the daemon are heard whatever the reader of stdout does, and
it never hangs: ``client/ending.py`` ends a job that does not end. Part of the thin client.
"""

from __future__ import annotations

import select
import time

from gexec.client.ending import Ending
from gexec.client.session import ACCEPTED, OVER, STDIN_CHUNK_BYTES
from gexec.client.stdio import READER_GONE
from gexec.wire.frames import STDERR, STDOUT, Ended, NotResponding, Output, RanksStarted, Responding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.client.connection import Connection
    from gexec.client.interrupts import Interrupts
    from gexec.client.progress import Progress
    from gexec.client.stdio import Input, Sink
    from gexec.render.view import View
    from gexec.wire.frames import Frame

#: A terminal whose foreground is another job is looked at again so often.
_BACKGROUND_S = 0.5
_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Console:
    """Runs one submitted job between gexecd and the standard descriptors.

    Args:
        connection: of the job; the caller closes it.
        view: gets the job's events, and returns what is written.
        sinks: of ``standard_sinks``; several jobs after each other share them.
        interrupts: the caller catches and restores them.
        source: what the processes read, or None.
        command: begins what is written for the user, e.g. ``gexec``.
        started: called once, when all ranks have started or ended.
        last: no other job's output comes after this one in the same view.
        names: of this job's ranks, for the list of those that still run; None = it is not written.
        progress: draws on the terminal, or None.
        interrupt: what the processes get at ^C; None = SIGINT.
        detaches: see ``Ending``.

    Attributes:
        ending: whether and how the job was ended early.
    """

    def __init__(
        self,
        connection: Connection,
        view: View,
        sinks: dict[int, Sink],
        interrupts: Interrupts,
        source: Input | None = None,
        command: str = "gexec",
        started: Callable[[], None] | None = None,
        last: bool = True,
        names: Sequence[bytes] | None = None,
        progress: Progress | None = None,
        interrupt: int | None = None,
        detaches: tuple[frozenset[int], str] | None = None,
    ) -> None:
        self._connection = connection
        self._session = connection.session
        self._view = view
        self._sinks = sinks
        self._interrupts = interrupts
        self._source = source
        self._command = command
        self._started = started
        self._last = last
        self._progress = progress
        self._poll = select.poll()
        self._masks: dict[int, int] = {}
        self.ending = Ending(connection, interrupts, self.say, names, last, interrupt, detaches)

    def run(self) -> None:
        """Return when the job is over and all output is written, or it is time to leave.

        Raises:
            DaemonError, ProtocolError: gexecd refused the job, did not answer, or sent nonsense.
        """
        try:
            while self._session.state != OVER:
                self._turn()
            if self._last and not self.ending.left:
                self._finish_view()
            self._refill()
            while any(sink.pending for sink in self._sinks.values()):
                self._turn()
        finally:
            if self._progress is not None:
                self._progress.erase()

    def say(self, text: str) -> None:
        """Write one sentence to stderr, on a line of its own between what the nodes write there."""
        sink = self._sinks[STDERR]
        line = f"{self._command}: {text}\n".encode("utf-8", "backslashreplace")
        sink.put(line if sink.ends_line else b"\n" + line)

    def _turn(self) -> None:
        self._register()
        ready = self._poll.poll(self._timeout_ms())
        self._dispatch(dict(ready))
        now_s = time.monotonic()
        for frame in self._connection.on_time(now_s):
            self._on_frame(frame)
        self.ending.on_time(now_s)
        if self.ending.left:
            self._leave()
        self._refill()
        if self._progress is not None:
            sinks = self._sinks.values()
            self._progress.tick(now_s, not any(sink.pending or not sink.ends_line for sink in sinks))

    def _finish_view(self) -> None:
        self._view.status = self.ending.status
        self._view.finish()
        self._take()

    def _leave(self) -> None:
        """Write what is left as far as nobody must be waited for."""
        if self._last:
            self._finish_view()
        while self._write_at_once() and self._view.held:
            self._view.refill()
            self._take()
        for sink in self._sinks.values():
            sink.fail(TimeoutError("left"))

    def _write_at_once(self) -> bool:
        """Write what can be written without waiting; return whether that was all."""
        for sink in self._sinks.values():
            poll = select.poll()
            poll.register(sink.fd, select.POLLOUT)
            while sink.pending and poll.poll(0):
                sink.write()
        return not any(sink.pending for sink in self._sinks.values())

    def _timeout_ms(self) -> int | None:
        session, source = self._session, self._source
        dues_s = [self._connection.due_s, self.ending.due_s]
        if self._progress is not None and session.state != OVER:
            dues_s.append(self._progress.due_s)
        due_s = min([due_s for due_s in dues_s if due_s is not None], default=None)
        if due_s is None:
            return None
        wait_s = due_s - time.monotonic()
        if source is not None and source.is_terminal and source.fd not in self._masks and session.stdin_room:
            wait_s = min(wait_s, _BACKGROUND_S)
        return max(0, int(wait_s * 1000) + 1)

    def _register(self) -> None:
        """Tell the poll what to wait for."""
        session, source = self._session, self._source
        unsent = self._connection.unsent
        want = {self._interrupts.fd: select.POLLIN}
        if session.state != OVER:
            want[self._connection.fileno()] = select.POLLIN | (select.POLLOUT if unsent else 0)
            if source is not None and session.stdin_room and source.is_ours:
                want[source.fd] = select.POLLIN
        for sink in self._sinks.values():
            if sink.pending:
                want[sink.fd] = select.POLLOUT
        for fd in [fd for fd in self._masks if fd not in want]:
            self._poll.unregister(fd)
            del self._masks[fd]
        for fd, mask in want.items():
            if self._masks.get(fd) != mask:
                self._poll.register(fd, mask)
                self._masks[fd] = mask

    def _dispatch(self, ready: dict[int, int]) -> None:
        if self._interrupts.fd in ready:
            self.ending.on_signals()
        happened = ready.get(self._connection.fileno(), 0)
        if happened & select.POLLOUT:
            self._connection.send()
        if happened & (select.POLLIN | _GONE) and self._session.state != OVER:
            for frame in self._connection.receive():
                self._on_frame(frame)
        if self._source is not None and self._source.fd in ready and self._session.state == ACCEPTED:
            self._read(self._source)
        for stream, sink in self._sinks.items():
            if sink.fd in ready:
                self._write(stream, sink)

    # -- from gexecd to the view ---------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        if isinstance(frame, Output):
            if frame.stream == STDOUT and self._sinks[STDOUT].error is not None:
                # It has no reader and the job is being ended: what still comes costs no more time.
                self._session.taken(frame.ranks, frame.stream, len(frame.data))
                return
            self._view.output(frame.stream, frame.ranks, frame.data)
        elif isinstance(frame, Ended):
            self._view.ended(frame.ranks, frame.outcome)
        elif isinstance(frame, RanksStarted):
            self._view.started(frame.ranks)
        elif isinstance(frame, NotResponding | Responding):
            self._view.responding(frame.ranks, isinstance(frame, Responding))
        else:
            return
        self._take()
        if self._started is not None and not isinstance(frame, Output) and self._all_started():
            self._started()
            self._started = None

    def _all_started(self) -> bool:
        session = self._session
        running = sum([high - low for low, high in session.started])
        ended = all(outcome is not None for outcome in session.outcomes) and not self._connection.gone
        return ended or running == len(session.outcomes)

    def _take(self) -> None:
        """Move what the view writes into the sinks, and acknowledge what it has taken."""
        view = self._view
        if view.taken:
            for stream, ranks, count in view.taken:
                self._session.taken(ranks, stream, count)
            view.taken.clear()
        if view.writes:
            for fd, data, credit in view.writes:
                if not self._sinks[fd].put(data, credit) and credit is not None:
                    self._session.taken(credit[1], credit[0], credit[2])
            view.writes.clear()
        if view.error and self.ending.status is None:
            self.ending.status = 255
            self.say(f"{view.error}; the job is ended")
            if self._session.state != OVER:
                self.ending.kill()

    def _refill(self) -> None:
        """Let a view that holds output back go on once all is written."""
        while self._view.held and not any(sink.pending for sink in self._sinks.values()):
            if self._session.state == OVER and self._sinks[STDOUT].error is not None:
                return
            self._view.refill()
            self._take()

    # -- the standard descriptors --------------------------------------------------------------

    def _read(self, source: Input) -> None:
        try:
            data = source.read(min(STDIN_CHUNK_BYTES, self._session.stdin_room))
        except OSError as error:
            self.say(f"cannot read stdin: {error.strerror}; the processes get its end")
            data = b""
        if data is not None:
            self._session.stdin(data, eof=not data)

    def _write(self, stream: int, sink: Sink) -> None:
        if self._progress is not None:
            self._progress.erase()
        for credit_stream, ranks, count in sink.write():
            self._session.taken(ranks, credit_stream, count)
        if sink.error is not None and self.ending.status is None:
            self._reader_gone(stream, sink.error)

    def _reader_gone(self, stream: int, error: OSError) -> None:
        """The reader has gone: end the job, without a message for a closed pipe, as a filter would."""
        if isinstance(error, BrokenPipeError):
            self.ending.status = READER_GONE
        else:
            self.ending.status = 255
            name = "stdout" if stream == STDOUT else "stderr"
            self.say(f"cannot write {name}: {error.strerror}; the job is ended")
        self.ending.kill()


def finish(view: View, sinks: dict[int, Sink]) -> OSError | None:
    """Write what a view still holds after its last job; return why stdout takes no more."""
    view.finish()
    while True:
        for fd, data, _ in view.writes:
            sinks[fd].put(data)
        view.writes.clear()
        view.taken.clear()
        for sink in sinks.values():
            while sink.pending:
                poll = select.poll()
                poll.register(sink.fd, select.POLLOUT)
                poll.poll()
                sink.write()
        if not view.held or sinks[STDOUT].error is not None:
            return sinks[STDOUT].error
        view.refill()
