"""The loop of the command line: gexecd's socket, stdin, stdout, stderr and signals in one poll.

It never waits in a write, so signals and the daemon are heard whatever the reader of stdout does.
It never hangs. Every signal is passed on, and then:

- ^C twice within a second kills the job at once.
- TERM and HUP ask for the end: what has not ended KILL_GRACE_S later, or when such a signal comes again
  (or ^C) after a second, is killed at once.
- LEAVE_AFTER_S after a kill at once, it leaves without gexecd's confirmation, with 128 + the signal.
- A gexecd that answers no Ping for LOST_AFTER_S is lost, as if it had closed the connection.

Part of the thin client.
"""

from __future__ import annotations

import os
import select
import time

from gexec import limits
from gexec.client.interrupts import DEADLY, Interrupts
from gexec.client.job import ACCEPT_TIMEOUT_S
from gexec.client.session import ACCEPTED, OVER, STDIN_CHUNK_BYTES, SUBMITTED
from gexec.client.sink import Sink
from gexec.errors import DaemonError, ProtocolError
from gexec.wire.frames import STDERR, STDOUT, Ended, Output, RanksStarted
from gexec.wire.outcome import lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import signal as _signal
    from collections.abc import Callable, Sequence

    from gexec.client.kept import KeptInput
    from gexec.client.progress import Progress
    from gexec.client.session import JobSession
    from gexec.render.view import View
    from gexec.wire.frames import Frame
    from gexec.wire.ranks import Ranges
else:
    import _signal

DOUBLE_INTERRUPT_S = 1.0
#: TERM and HUP that follow each other within this time are one: timeout(1) and systemd send two at once.
SAME_REQUEST_S = 1.0
#: From the kill at once, or from the end of the reader of stdout, to leaving without confirmation.
LEAVE_AFTER_S = 5.0
#: A terminal whose foreground is another job is looked at again so often.
_BACKGROUND_S = 0.5
_RECEIVE_BYTES = 256 * 1024
_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Console:
    """Runs one submitted job between gexecd and the standard descriptors.

    Args:
        sock: connected to gexecd, non-blocking.
        session: submitted.
        view: what the job says is told to it, and it says what is written.
        sinks: of ``standard_sinks``; several jobs after each other share them.
        read_stdin: whether a descriptor is read for the job.
        stdin_fd: which.
        kept: reads that descriptor instead, and keeps what it read for the next job; None = nobody does.
        command: stands in front of what the user is told, e.g. ``gexec``.
        started: called once, when all ranks have started or ended.
        last: no other job's output comes after this one in the same view.
        names: of this job's ranks, for telling who still runs; None = that is not told.
        progress: draws on the terminal, or None.
        interrupts: of a run of several jobs: caught, and not restored here; None = its own.

    Attributes:
        status: an exit status that overrides the job's own, or None.
        farewell: why it left before the job's end, or "".
        asked_to_end: the user has asked for the end, by ^C, TERM or HUP.
        ending_signal: the first of them that came, or 0.
    """

    def __init__(
        self,
        sock: _socket.socket,
        session: JobSession,
        view: View,
        sinks: dict[int, Sink],
        read_stdin: bool,
        command: str = "gexec",
        started: Callable[[], None] | None = None,
        last: bool = True,
        names: Sequence[bytes] | None = None,
        progress: Progress | None = None,
        stdin_fd: int = 0,
        kept: KeptInput | None = None,
        interrupts: Interrupts | None = None,
    ) -> None:
        self._sock = sock
        self._session = session
        self._command = command
        self._started = started
        self._view = view
        self._sinks = sinks
        self._last = last
        self._names = names
        self._progress = progress
        self._read_stdin = read_stdin
        self._kept = kept
        self._stdin_fd = stdin_fd if kept is None else kept.fd
        self._stdin_terminal = read_stdin and os.isatty(self._stdin_fd)
        self._unsent = memoryview(b"")
        self._poll = select.poll()
        self._masks: dict[int, int] = {}
        self._interrupts = interrupts or Interrupts()
        self._catches = interrupts is None
        self._interrupted_s = -DOUBLE_INTERRUPT_S
        #: The first TERM or HUP, and when: it asks for the end.
        self._ended_by = 0
        self._ended_at_s = 0.0
        self._leave_s = 0.0
        self._killed = False
        self.status: int | None = None
        self.farewell = ""
        self.asked_to_end = False
        self.ending_signal = 0

    def run(self) -> None:
        """Return when the job is over and all output is written, or it is time to leave.

        Raises:
            DaemonError, ProtocolError: gexecd refused the job, did not answer, or sent nonsense.
        """
        now_s = time.monotonic()
        self._session.heard(now_s)
        accept_by_s = now_s + ACCEPT_TIMEOUT_S
        if self._catches:
            self._interrupts.catch()
        try:
            while self._session.state != OVER:
                self._turn(accept_by_s)
            if self._last:
                self._view.finish()
                self._take()
            self._refill()
            while any(sink.pending for sink in self._sinks.values()):
                self._turn(accept_by_s)
        finally:
            if self._progress is not None:
                self._progress.erase()
            if self._catches:
                self._interrupts.restore()

    @property
    def stderr_ends_line(self) -> bool:
        """True unless the last line on stderr has no newline."""
        return self._sinks[STDERR].ends_line

    def say(self, text: str) -> None:
        """Put one sentence on stderr, between what the nodes write there and on a line of its own."""
        sink = self._sinks[STDERR]
        line = f"{self._command}: {text}\n".encode("utf-8", "backslashreplace")
        sink.put(line if sink.ends_line else b"\n" + line)

    def _turn(self, accept_by_s: float) -> None:
        self._register()
        ready = self._poll.poll(self._timeout_ms(accept_by_s))
        self._dispatch(dict(ready))
        now_s = time.monotonic()
        if self._session.state == SUBMITTED and now_s > accept_by_s:
            raise DaemonError(f"gexecd did not take the job within {ACCEPT_TIMEOUT_S:g} s")
        self._on_time(now_s)
        self._refill()
        if self._progress is not None:
            sinks = self._sinks.values()
            self._progress.tick(now_s, not any(sink.pending or not sink.ends_line for sink in sinks))

    def _timeout_ms(self, accept_by_s: float) -> int | None:
        session = self._session
        deadlines = []
        if self._leave_s:
            deadlines.append(self._leave_s)
        if session.state == SUBMITTED:
            deadlines.append(accept_by_s)
        elif session.silence_due_s is not None:
            deadlines.append(session.silence_due_s)
            if self._ended_by and not self._killed:
                deadlines.append(self._ended_at_s + limits.KILL_GRACE_S)
        if self._progress is not None and session.state != OVER:
            deadlines.append(self._progress.due_s)
        if not deadlines:
            return None
        wait_s = min(deadlines) - time.monotonic()
        if self._stdin_terminal and self._stdin_fd not in self._masks and session.stdin_room:
            wait_s = min(wait_s, _BACKGROUND_S)
        return max(0, int(wait_s * 1000) + 1)

    def _on_time(self, now_s: float) -> None:
        """Do what is due: end what TERM or HUP did not end, ask a silent gexecd, leave."""
        if self._session.state == ACCEPTED:
            if self._ended_by and not self._killed and now_s - self._ended_at_s >= limits.KILL_GRACE_S:
                self._kill_at_once(f"not ended {limits.KILL_GRACE_S:g} s after {_name(self._ended_by)}")
            gone = self._session.silence(now_s)
            if gone:
                self._lost(gone)
        if self._leave_s and now_s > self._leave_s:
            self._leave()

    # -- what to wait for ----------------------------------------------------------------------

    def _register(self) -> None:
        session = self._session
        if not self._unsent:
            self._unsent = memoryview(session.outgoing())
        want = {self._interrupts.fd: select.POLLIN}
        if session.state != OVER:
            want[self._sock.fileno()] = select.POLLIN | (select.POLLOUT if self._unsent else 0)
            if self._read_stdin and session.stdin_room and self._stdin_is_ours():
                want[self._stdin_fd] = select.POLLIN
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

    def _stdin_is_ours(self) -> bool:
        """Tell whether reading stdin would not stop us: a terminal is only the foreground job's."""
        if not self._stdin_terminal:
            return True
        try:
            return os.tcgetpgrp(self._stdin_fd) == os.getpgrp()
        except OSError:
            return False

    def _dispatch(self, ready: dict[int, int]) -> None:
        if self._interrupts.fd in ready:
            for signum in self._interrupts.received():
                self._on_signal(signum)
        happened = ready.get(self._sock.fileno(), 0)
        if happened & select.POLLOUT:
            self._send()
        if happened & (select.POLLIN | _GONE) and self._session.state != OVER:
            self._receive()
        if self._stdin_fd in ready and self._session.state == ACCEPTED:
            self._read()
        for stream, sink in self._sinks.items():
            if sink.fd in ready:
                self._write(stream, sink)

    # -- gexecd --------------------------------------------------------------------------------

    def _send(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._unsent = memoryview(b"")
            return  # what it said before it went is still to be read
        self._unsent = self._unsent[sent:]

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._session.heard(time.monotonic())
            try:
                frames = self._session.feed(data)
            except ProtocolError as error:
                raise ProtocolError(f"what gexecd sent is not the protocol: {error}") from error
            for frame in frames:
                self._on_frame(frame)
        elif self._session.state == ACCEPTED:
            self._lost("the local gexecd ended")
        else:
            raise DaemonError("gexecd closed the connection before it took the job: see its log")

    def _on_frame(self, frame: Frame) -> None:
        if isinstance(frame, Output):
            if frame.stream == STDOUT and self._sinks[STDOUT].error is not None:
                # Nobody reads it and the job is being ended: what is under way costs no more time.
                self._session.taken(frame.ranks, frame.stream, len(frame.data))
                return
            self._view.output(frame.stream, frame.ranks, frame.data)
            self._take()
        elif isinstance(frame, Ended):
            self._view.ended(frame.ranks, frame.outcome)
            self._take()
        elif isinstance(frame, RanksStarted):
            self._view.started(frame.ranks)
            self._take()
        if self._started is not None and isinstance(frame, (RanksStarted, Ended)) and self._all_started():
            self._started()
            self._started = None

    def _all_started(self) -> bool:
        session = self._session
        running = sum([high - low for low, high in session.started])
        return running == len(session.outcomes) or all(outcome is not None for outcome in session.outcomes)

    def _lost(self, reason: str) -> None:
        """The connection to gexecd is of no more use: what has not ended is lost."""
        ranks: Ranges = self._session.connection_ended(reason)
        if ranks:
            self._view.ended(ranks, lost(reason))
            self._take()

    def _take(self) -> None:
        """Move what the view wants written into the sinks, and acknowledge what it has done with."""
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
        if view.error and self.status is None:
            self.status = 255
            self.say(f"{view.error}; the job is ended")
            if self._session.state != OVER:
                self._kill(now=False)

    def _refill(self) -> None:
        """Let a view that holds back what it has to say go on once all is written."""
        while self._view.held and not any(sink.pending for sink in self._sinks.values()):
            if self._session.state == OVER and self._sinks[STDOUT].error is not None:
                return
            self._view.refill()
            self._take()

    # -- the standard descriptors --------------------------------------------------------------

    def _read(self) -> None:
        if not self._stdin_is_ours():
            return
        try:
            data = self._from_stdin(min(STDIN_CHUNK_BYTES, self._session.stdin_room))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if self._stdin_terminal:
                self._read_stdin = False  # EIO: the terminal is another's or gone
                return
            self.say(f"cannot read stdin: {error.strerror}; the processes get its end")
            data = b""
        self._session.stdin(data, eof=not data)

    def _from_stdin(self, most_bytes: int) -> bytes:
        if self._kept is None:
            return os.read(self._stdin_fd, most_bytes)
        data = self._kept.read(most_bytes)
        if self._stdin_fd != self._kept.fd:  # the copy is read to its end: on with the descriptor itself
            self._stdin_fd = self._kept.fd
            self._stdin_terminal = os.isatty(self._stdin_fd)
        return data

    def _write(self, stream: int, sink: Sink) -> None:
        if self._progress is not None:
            self._progress.erase()
        for credit_stream, ranks, count in sink.write():
            self._session.taken(ranks, credit_stream, count)
        if sink.error is not None and self.status is None:
            self._reader_gone(stream, sink.error)

    def _reader_gone(self, stream: int, error: OSError) -> None:
        """Nobody reads what the job writes: end it, quietly for a closed pipe, as a filter would."""
        if isinstance(error, BrokenPipeError):
            self.status = 128 + int(_signal.SIGPIPE)
        else:
            self.status = 255
            name = "stdout" if stream == STDOUT else "stderr"
            self.say(f"cannot write {name}: {error.strerror}; the job is ended")
        self._kill(now=False)

    # -- signals -------------------------------------------------------------------------------

    def _on_signal(self, signum: int) -> None:
        session = self._session
        if session.state != ACCEPTED:
            # Nothing runs yet, or nothing any more: a signal means to us what it means to anyone, unless
            # there is something to tell about the jobs before this one.
            if signum in DEADLY:
                if self._last or self.asked_to_end:
                    self._interrupts.die(signum)
                self._asked(signum)
                session.close()
            elif signum == _signal.SIGTSTP:
                os.kill(os.getpid(), _signal.SIGSTOP)
            return
        if signum == _signal.SIGINT:
            self._interrupt()
        elif signum in (_signal.SIGTERM, _signal.SIGHUP):
            self._asked_to_end(signum)
        else:
            session.signal(signum)
        if signum == _signal.SIGTSTP:
            self._flush()
            os.kill(os.getpid(), _signal.SIGSTOP)

    def _interrupt(self) -> None:
        if self._killed:
            self._leave()
            return
        self._asked(_signal.SIGINT)
        now_s = time.monotonic()
        if now_s - self._interrupted_s <= DOUBLE_INTERRUPT_S:
            self._kill_at_once("^C twice within a second")
        elif self._ended_by:
            self._kill_at_once(f"^C after {_name(self._ended_by)}")
        else:
            self._session.signal(_signal.SIGINT)
            self._tell_running()
        self._interrupted_s = now_s

    def _tell_running(self) -> None:
        if self._names is None:
            return
        from gexec.render.running import still_running

        who = still_running(self._names, self._session.started, self._session.outcomes)
        self.say(f"^C goes to all processes (^C once more within a second kills them); {who}")

    def _asked(self, signum: int) -> None:
        self.asked_to_end = True
        self.ending_signal = self.ending_signal or signum

    def _asked_to_end(self, signum: int) -> None:
        self._asked(signum)
        now_s = time.monotonic()
        if not self._ended_by:
            self._ended_by, self._ended_at_s = signum, now_s
        elif now_s - self._ended_at_s > SAME_REQUEST_S:
            if self._killed:
                self._leave()
            else:
                self._kill_at_once(f"{_name(signum)} came again")
            return
        self._session.signal(signum)

    def _kill_at_once(self, why: str) -> None:
        self._killed = True
        self.say(f"{why}: the job is being killed on all nodes")
        self._kill(now=True)

    def _kill(self, now: bool) -> None:
        self._session.kill(now)
        grace_s = 0.0 if now else LEAVE_AFTER_S
        leave_s = time.monotonic() + grace_s + LEAVE_AFTER_S
        self._leave_s = min(self._leave_s, leave_s) if self._leave_s else leave_s

    def _leave(self) -> None:
        """Go without gexecd's confirmation; when we are gone it ends whatever is left."""
        session = self._session
        left = sum([outcome is None for outcome in session.outcomes])
        if left and self.status is None:
            self.farewell = f"the end of {left} of {len(session.outcomes)} processes is not confirmed"
        if self.status is None:
            self.status = 128 + int(self._ended_by or _signal.SIGINT)
        session.close()
        self._flush()
        for sink in self._sinks.values():
            sink.fail(TimeoutError("left"))

    def _flush(self) -> None:
        """Send what is outstanding as far as gexecd takes it now: we stop or go after this."""
        if not self._unsent:
            self._unsent = memoryview(self._session.outgoing())
            self._send()
            return
        self._send()
        if not self._unsent:
            self._unsent = memoryview(self._session.outgoing())
            self._send()


def finish(view: View, sinks: dict[int, Sink]) -> OSError | None:
    """Write what a view still has to say after its last job; return why stdout takes no more."""
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


def _name(signum: int) -> str:
    return "SIGTERM" if signum == _signal.SIGTERM else "SIGHUP"
