"""The keeper of one rank of a background job: the parent of its command.

The starter or a helper forks it (``spawner.keeping``). It has the user's identity, and needs neither relay
nor spawner nor its parent from then on: so the job lives on when gexecd ends. It reads the command's output
into bounded files, answers requests at its socket (``jobs.control``), ends the command and what it has
started on request, and writes how it ended. It is a child subreaper: what the command leaves behind is found
below it.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from gexec.core.deadlines import earlier
from gexec.jobs import control, spool
from gexec.jobs.control import KillCommand, News, SignalCommand
from gexec.jobs.followers import Followers
from gexec.jobs.records import END_BYTES, RankEnd
from gexec.jobs.writing import StreamWriter
from gexec.limits import HOLD_S, LEASE_S, LINGER_S, READ_CHUNK_BYTES
from gexec.posix import clock, descendants
from gexec.posix.loop import PollLoop
from gexec.posix.reaping import reaped
from gexec.wire import outcome as outcomes
from gexec.wire.outcome import Outcome

#: Signals that request an end; SIGCONT, because the process may be stopped.
_GENTLE: Final = (int(signal.SIGHUP), int(signal.SIGTERM), int(signal.SIGCONT))
#: A command that ends after one of these has not ended by itself: its leftovers are ended, too.
_ENDS: Final = frozenset([signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM])
#: Time between two rounds of SIGKILL; after _SWEEPS_MAX of them (storage hangs), the longer one.
_SWEEP_S: Final = 0.02
_SWEEPS_MAX: Final = 250
_SLOW_SWEEP_S: Final = 5.0


class KeeperTerms:
    """How a keeper treats its command.

    Attributes:
        keep_bytes: of each stream.
        kill_grace_s: from HUP and TERM to KILL.
        leaves: if the command ends by itself, what it has started is left alone.
        timeout_s: the command is ended after this time; 0 = never.
        lease_s: how long it is kept after its end.
        holds: nothing is discarded before the first reader has gone, or HOLD_S if none comes.
    """

    __slots__ = ("holds", "keep_bytes", "kill_grace_s", "lease_s", "leaves", "timeout_s")

    def __init__(
        self,
        keep_bytes: int,
        kill_grace_s: float = 5.0,
        leaves: bool = True,
        timeout_s: float = 0.0,
        holds: bool = False,
        lease_s: float = LEASE_S,
    ) -> None:
        self.keep_bytes = keep_bytes
        self.kill_grace_s = kill_grace_s
        self.leaves = leaves
        self.timeout_s = timeout_s
        self.holds = holds
        self.lease_s = lease_s


class Keeper:
    """Keeps one command. Make it in a process of its own, in its only thread.

    Args:
        place: the rank's directory, with its record and its reserve; the keeper's working directory.
        terms: see there.
        start: starts the command with stdin, stdout and stderr, and returns its pid.
        stdin: what the command reads.

    Raises:
        OSError and what ``start`` raises: nothing was started.
    """

    def __init__(
        self,
        place: spool.RankPlace,
        terms: KeeperTerms,
        start: Callable[[tuple[int, int, int]], int],
        stdin: int,
    ) -> None:
        self._place = place
        self._terms = terms
        self._writers = [StreamWriter(place.fd, stream, terms.keep_bytes) for stream in (0, 1)]
        self._status: int | None = None
        #: UNIX time of the command's end.
        self._ended_s = 0.0
        self._closing = False
        self._is_told = False
        #: When things are due (``posix.clock``): SIGKILL, the end of --timeout, the end without end of file.
        self._hard_at_s: float | None = None
        self._timeout_at_s: float | None = None
        self._linger_at_s: float | None = None
        self._sweeps = 0
        #: The end of all that the command started is asked for; its end was asked for; it ran too long.
        self._killing = self._signalled = self._out_of_time = False
        self._loop = PollLoop(self._on_signal, self._on_fault)
        self._children = descendants.Children()
        self._sock = control.listen(place.fd)
        self._followers = Followers(self._loop, self._asked, self._hold_moved, terms.holds)
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in (0, 1)]
        self._pipes: list[int] = [reading for reading, _ in pipes]
        self._paused = [False, False]
        self._loop.take_signals([signal.SIGCHLD, *sorted(_ENDS - {signal.SIGKILL})])
        try:
            self.pid = start((stdin, pipes[0][1], pipes[1][1]))
        finally:
            for _, writing in pipes:
                os.close(writing)
        for stream, fd in enumerate(self._pipes):
            os.set_blocking(fd, False)
            self._loop.watch(fd, self._reader(stream))
        self._loop.watch(self._sock.fileno(), self._accept)
        now_s = clock.now_s()
        if terms.timeout_s:
            self._timeout_at_s = now_s + terms.timeout_s
        if terms.holds:
            self._loop.call_at(now_s + HOLD_S, self._followers.hold_is_over)

    def run(self) -> int:
        """Serve until the command has ended and everything is written; return its wait status."""
        while not self._closing:
            self._loop.turn(self._due_s())
            self._tick(clock.now_s())
            self._followers.tell(self._ends(), self._is_told)
        for fd in self._pipes:
            if fd >= 0:
                os.close(fd)
        for writer in self._writers:
            writer.close()
        os.unlink(spool.CONTROL, dir_fd=self._place.fd)
        self._followers.close()
        assert self._status is not None
        return self._status

    def _ends(self) -> tuple[int, int]:
        return self._writers[0].row.end, self._writers[1].row.end

    @property
    def _is_drained(self) -> bool:
        return self._pipes == [-1, -1]

    # -- output ------------------------------------------------------------------------------

    def _reader(self, stream: int) -> Callable[[], None]:
        return lambda: self._read(stream)

    def _read(self, stream: int) -> None:
        fd, writer = self._pipes[stream], self._writers[stream]
        row = writer.row
        if not row.room and self._followers.holds(stream, row.doomed()):
            self._paused[stream] = True
            self._loop.unwatch(fd)  # the command waits until the reader has read more
            return
        try:
            # No more than one segment at a time: so the reader's position decides about each.
            data = os.read(fd, min(READ_CHUNK_BYTES, row.room or row.part))
        except BlockingIOError:
            return
        if data:
            writer.write(data, clock.now_s())
        else:
            self._close_pipe(stream)

    def _hold_moved(self) -> None:
        """A reader has read more, or nothing is held any longer."""
        for stream in (0, 1):
            if self._paused[stream] and self._pipes[stream] >= 0:
                self._paused[stream] = False
                self._loop.watch(self._pipes[stream], self._reader(stream))

    def _close_pipe(self, stream: int) -> None:
        self._loop.unwatch(self._pipes[stream])
        os.close(self._pipes[stream])
        self._pipes[stream] = -1
        if self._is_drained and self._is_told:
            self._write_end(held=False)

    # -- the command and what it starts ------------------------------------------------------

    def _on_signal(self, signum: int) -> None:
        if signum == signal.SIGCHLD:
            self._reap()
        else:
            self._kill(now=False)

    def _on_fault(self, error: Exception) -> None:
        """Nothing that goes wrong ends the keeper: its command would lose its output."""
        self._writers[1].why = f"{type(error).__name__}: {error}"

    def _reap(self) -> None:
        for pid, status in reaped():
            if pid == self.pid and self._status is None:
                self._ended(status)

    def _ended(self, status: int) -> None:
        self._status = status
        self._ended_s = time.time()
        self._timeout_at_s = None
        now_s = clock.now_s()
        self._linger_at_s = now_s + LINGER_S
        if self._signalled and not self._killing:
            self._kill(now=False)
        elif not self._terms.leaves and not self._killing:
            self._loop.call_at(now_s + LINGER_S, lambda: self._kill(now=False))

    def _kill(self, now: bool) -> None:
        """End the command and everything below: HUP, TERM and CONT, and KILL after the grace; or at once."""
        if now:
            self._hard_at_s = clock.now_s()
        elif not self._killing:
            self._hard_at_s = clock.now_s() + self._terms.kill_grace_s
            descendants.send_tree(self._children.pids(), _GENTLE)
        self._killing = self._signalled = True

    def _signal(self, signum: int) -> str:
        if self._status is not None:
            return "no the command has ended"
        self._signalled = self._signalled or signum in _ENDS
        try:
            os.killpg(self.pid, signum)  # our unreaped child, so the group is the right one
        except OSError as error:
            return f"no {error.strerror}"
        return "ok"

    # -- time --------------------------------------------------------------------------------

    def _due_s(self) -> float | None:
        due_s = earlier(self._hard_at_s, self._timeout_at_s)
        # What is due has been done: only what is still to come may wake the loop.
        if self._linger_at_s is not None and self._linger_at_s > clock.now_s():
            due_s = earlier(due_s, self._linger_at_s)
        return due_s

    def _tick(self, now_s: float) -> None:
        if self._timeout_at_s is not None and self._timeout_at_s <= now_s:
            self._timeout_at_s = None
            self._out_of_time = True
            self._kill(now=False)
        if self._hard_at_s is not None and (self._status is not None or self._hard_at_s <= now_s):
            self._sweep(now_s)
        if self._status is None:
            return
        is_late = self._linger_at_s is not None and self._linger_at_s <= now_s
        if not self._is_told and (self._is_drained or is_late):
            self._write_end(held=not self._is_drained)
        # Whoever else holds the output may write more, unless the end of all was asked for.
        is_over = self._is_drained or (self._killing and is_late and self._hard_at_s is None)
        needs_kill = not self._terms.leaves and not self._killing and bool(self._children.pids())
        self._closing = self._is_told and is_over and self._hard_at_s is None and not needs_kill

    def _sweep(self, now_s: float) -> None:
        """Send SIGKILL to what is left, if it is due; note when nothing is left."""
        assert self._hard_at_s is not None
        left = self._children.pids()
        if not left:
            self._hard_at_s = None
            self._linger_at_s = earlier(self._linger_at_s, now_s + LINGER_S)
        elif self._hard_at_s <= now_s:
            descendants.kill_tree(left)
            self._sweeps += 1
            self._hard_at_s = now_s + (_SWEEP_S if self._sweeps < _SWEEPS_MAX else _SLOW_SWEEP_S)

    # -- requests ----------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._sock.accept()
        except OSError:
            return  # it has gone, or there is no descriptor
        self._followers.take(connection)

    def _asked(self, raw: bytes) -> str | News:
        """Return the answer to a request; news are answered later."""
        request = control.parsed(raw)
        if isinstance(request, SignalCommand):
            return self._signal(request.signum)
        if isinstance(request, KillCommand):
            self._kill(request.now)
            return "ok"
        return "no such request" if request is None else request

    # -- the end -----------------------------------------------------------------------------

    def _outcome(self) -> Outcome:
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        if self._out_of_time:
            text = f"ran longer than {self._terms.timeout_s:g} s"
            return outcomes.timed_out(-code if code < 0 else 0, text)
        return outcomes.exited(code) if code >= 0 else outcomes.killed(-code)

    def _write_end(self, held: bool) -> None:
        dropped = self._writers[0].row.dropped, self._writers[1].row.dropped
        why = self._writers[0].why or self._writers[1].why
        expires_s = time.time() + self._terms.lease_s
        end = RankEnd(self._outcome(), self._ended_s, self._ends(), dropped, why, held, expires_s)
        write_end(self._place, end)
        self._is_told = True


def reserve(place: spool.RankPlace) -> None:
    """Take the room for end.json, so that a disk that is full later has it. OSError: there is none."""
    write_file(place, spool.RESERVE, b" " * END_BYTES)


def write_file(place: spool.RankPlace, name: str, data: bytes) -> None:
    """Write a new file in a rank's directory; OSError: it cannot be written as a whole."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=place.fd)
    try:
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def write_end(place: spool.RankPlace, end: RankEnd) -> None:
    """Write how a rank ended: the first time into the reserve, whose blocks are there already."""
    data = end.encode()
    try:
        fd = os.open(spool.RESERVE, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
    except OSError:
        fd = -1
    try:
        if fd >= 0:
            os.write(fd, data)
            os.truncate(fd, len(data))
        else:
            write_file(place, spool.RESERVE, data)
        os.rename(spool.RESERVE, spool.END, src_dir_fd=place.fd, dst_dir_fd=place.fd)
    except OSError:
        pass  # the first one stays, or the rank is reported as lost: nobody is left to hear why
    finally:
        if fd >= 0:
            os.close(fd)
