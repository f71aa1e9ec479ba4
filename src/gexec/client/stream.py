"""``gexec.stream``: a job's events as an asynchronous iterator, with back-pressure to the processes.

Output counts as taken when the iterator has handed it out. A consumer that stops iterating stops the
processes once their windows are full, and memory stays bounded by ranks x window x 2.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from gexec import limits
from gexec.client.api import new_request
from gexec.client.job import ACCEPT_TIMEOUT_S, build, open_session
from gexec.client.session import ACCEPTED, OVER, SUBMITTED
from gexec.errors import DaemonError, GexecError
from gexec.render.summary import exit_status
from gexec.wire import frames
from gexec.wire.outcome import DENIED, LOST, NOT_STARTED, Outcome
from gexec.wire.ranks import Ranges, members

if TYPE_CHECKING:
    from types import TracebackType

    from gexec.client.job import Request
    from gexec.client.session import JobSession

#: Leaving the block waits so long for the confirmation that everything has ended.
LEAVE_WAIT_S = 2 * limits.KILL_GRACE_S
_RECEIVE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Started:
    """The process of this rank runs."""

    rank: int
    node: str


@dataclass(frozen=True, slots=True)
class Stdout:
    """Bytes of this rank's stdout, in order; not cut at lines."""

    rank: int
    node: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Stderr:
    """Bytes of this rank's stderr, in order; not cut at lines."""

    rank: int
    node: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Exited:
    """The process of this rank ran and is over: exited, killed by a signal, or timed out (``outcome``)."""

    rank: int
    node: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Lost:
    """There is no end of a process to tell: not started, denied, or lost on the way (``outcome``)."""

    rank: int
    node: str
    outcome: Outcome


Event = Started | Stdout | Stderr | Exited | Lost


def stream(
    argv: Sequence[str | bytes],
    *,
    nodes: Sequence[str] | None = None,
    stdin: bool = False,
    env: Mapping[str, str] | None = None,
    cwd: str | bytes | None = None,
    timeout_s: float = 0.0,
    connect_timeout_s: float = limits.CONNECT_TIMEOUT_S,
    fanout: int = limits.FANOUT_DEFAULT,
    strict: bool = False,
    remote_path: bool = False,
) -> Job:
    """Return a job to use with ``async with``; the arguments are those of ``gexec.run``.

    ``stdin=True`` gives the processes a stdin that ``Job.write`` fills; without it they get
    /dev/null. The job is submitted on entering the block, and ended on leaving it.
    """
    request = new_request(
        argv,
        nodes=nodes,
        stdin=stdin,
        env=env,
        cwd=cwd,
        timeout_s=timeout_s,
        connect_timeout_s=connect_timeout_s,
        fanout=fanout,
        strict=strict,
        remote_path=remote_path,
    )
    return Job(request)


class Job:
    """A job that runs: iterate over it for its events; for one task of one event loop.

    Entering raises what ``gexec.run`` raises. The iteration ends after every rank's Exited or Lost;
    if gexecd goes before that, the ranks without an end are Lost.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._names: list[str] = []
        self._connection: _Connection | None = None
        #: What is still to be handed out of the frames that came.
        self._batch: deque[Event] = deque()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        # Names, credential and connecting may block for a moment each: not in the loop's thread.
        job, _ = await loop.run_in_executor(None, build, self._request)
        thin, session = await loop.run_in_executor(None, open_session, job)
        sock = socket.socket(fileno=thin.detach())
        sock.setblocking(False)
        connection = _Connection(sock, session)
        self._names = [os.fsdecode(name) for name in job.names]
        self._connection = connection
        try:
            await connection.accepted()
        except BaseException:
            connection.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = self._open()
        self._batch.clear()
        try:
            await connection.finish()
        finally:
            connection.close()

    async def __aiter__(self) -> AsyncIterator[Event]:
        connection = self._open()
        while True:
            while self._batch:
                event = self._batch.popleft()
                if isinstance(event, (Stdout, Stderr)):
                    kind = frames.STDOUT if isinstance(event, Stdout) else frames.STDERR
                    connection.taken(((event.rank, event.rank + 1),), kind, len(event.data))
                yield event
            frame = await connection.next_frame()
            if frame is None:
                return
            self._batch.extend(self._events(frame))

    @property
    def nodes(self) -> list[str]:
        """The nodes' names in rank order."""
        return list(self._names)

    @property
    def outcomes(self) -> list[Outcome | None]:
        """Each rank's outcome, None while it runs."""
        return list(self._open().session.outcomes)

    @property
    def exit_status(self) -> int | None:
        """What the gexec command would exit with; None while the job runs."""
        session = self._open().session
        return exit_status(session.ended_outcomes()) if session.state == OVER else None

    async def write(self, data: bytes) -> None:
        """Send bytes to every process's stdin; waits while the slowest has a window of them to read."""
        await self._open().write(data)

    def close_stdin(self) -> None:
        """End every process's stdin."""
        self._open().close_stdin()

    async def signal(self, signum: int) -> None:
        """Send a signal to the process group of every rank."""
        if not 1 <= signum <= 64:
            raise ValueError(f"signal {signum}: expected 1 to 64")
        connection = self._open()
        connection.session.signal(signum)
        connection.flush()

    async def kill(self, now: bool = False) -> None:
        """End every process: SIGHUP and SIGTERM, after the grace SIGKILL; or SIGKILL at once."""
        connection = self._open()
        connection.session.kill(now)
        connection.flush()

    def _open(self) -> _Connection:
        if self._connection is None:
            raise RuntimeError("use the job inside `async with gexec.stream(...) as job`")
        return self._connection

    def _events(self, frame: frames.Frame) -> list[Event]:
        names = self._names
        if isinstance(frame, frames.Output):
            event = Stdout if frame.stream == frames.STDOUT else Stderr
            return [event(rank, names[rank], frame.data) for rank in members(frame.ranks)]
        if isinstance(frame, frames.RanksStarted):
            return [Started(rank, names[rank]) for rank in members(frame.ranks)]
        if isinstance(frame, frames.Ended):
            ended = Lost if frame.outcome.kind in (NOT_STARTED, DENIED, LOST) else Exited
            return [ended(rank, names[rank], frame.outcome) for rank in members(frame.ranks)]
        return []


class _Connection:
    """Bytes between the loop and the session, and whoever waits for either.

    Reader and writer callbacks rather than a transport: a transport gives up at the first failed
    write, but what gexecd said before it closed its side must still be read.
    """

    def __init__(self, sock: socket.socket, session: JobSession) -> None:
        self.session = session
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._unsent = memoryview(b"")
        self._writing = False
        self._frames: deque[frames.Frame] = deque()
        self._changed = asyncio.Event()
        self._error: GexecError | None = None
        self._gone = False
        self._loop.add_reader(sock, self._readable)
        self._silence: asyncio.TimerHandle | None = None
        self._hear()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        try:
            if data:
                self._frames.extend(self.session.feed(data))
                self._hear()
            else:
                self._ended()
        except GexecError as error:
            self._error = error
            self.close()
        self.flush()
        self._changed.set()

    def _hear(self) -> None:
        """Gexecd lives: look again when it has been silent for long."""
        self.session.heard(time.monotonic())
        if self._silence is None:
            self._watch()

    def _watch(self) -> None:
        self._silence = None
        if self._gone:
            return
        reason = self.session.silence(time.monotonic())
        if reason:
            self._lost(reason)
            self.close()
            return
        self.flush()
        due_s = self.session.silence_due_s
        wait_s = limits.HEARTBEAT_S if due_s is None else max(0.0, due_s - time.monotonic())
        self._silence = self._loop.call_later(wait_s, self._watch)

    def _ended(self) -> None:
        if self.session.state == SUBMITTED:
            self._error = DaemonError("gexecd closed the connection before it took the job: see its log")
        elif self.session.state == ACCEPTED:
            self._lost("the local gexecd ended")
        self.close()

    def close(self) -> None:
        """Let go of the socket; gexecd ends what still runs."""
        if not self._gone:
            self._gone = True
            if self._silence is not None:
                self._silence.cancel()
                self._silence = None
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._changed.set()

    def flush(self) -> None:
        """Send what the session has to say, now or when the socket takes it."""
        while not self._gone:
            if not self._unsent:
                self._unsent = memoryview(self.session.outgoing())
                if not self._unsent:
                    break
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except (BlockingIOError, InterruptedError):
                if not self._writing:
                    self._loop.add_writer(self._sock, self.flush)
                    self._writing = True
                return
            except OSError:
                self._unsent = memoryview(b"")  # what it said before it went is still to be read
                break
        if self._writing and not self._gone:
            self._loop.remove_writer(self._sock)
        self._writing = False

    def _lost(self, reason: str) -> None:
        missing = self.session.connection_ended(reason)
        for low, high in missing:
            outcome = self.session.outcomes[low]
            assert outcome is not None
            unknown = frames.LENGTH_UNKNOWN
            self._frames.append(frames.Ended(((low, high),), outcome, unknown, unknown))

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def accepted(self) -> None:
        try:
            async with asyncio.timeout(ACCEPT_TIMEOUT_S):
                while self.session.state == SUBMITTED and self._error is None:
                    await self._wait()
        except TimeoutError as error:
            if self.session.state == SUBMITTED and self._error is None:
                raise DaemonError(f"gexecd did not take the job within {ACCEPT_TIMEOUT_S:g} s") from error
        if self._error is not None:
            raise self._error

    async def next_frame(self) -> frames.Frame | None:
        """Return the next frame, None after the last; raise what ended the connection."""
        while not self._frames:
            if self._error is not None:
                raise self._error
            if self.session.state == OVER:
                return None
            await self._wait()
        return self._frames.popleft()

    def taken(self, ranks: Ranges, stream_: int, count: int) -> None:
        self.session.taken(ranks, stream_, count)
        self.flush()

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self.session.stdin_over and not self._gone:
            room = self.session.stdin_room
            if not room:
                await self._wait()
                continue
            self.session.stdin(bytes(rest[:room]))
            rest = rest[room:]
            self.flush()

    def close_stdin(self) -> None:
        self.session.stdin(b"", eof=True)
        self.flush()

    async def finish(self) -> None:
        """End the job if it still runs, and wait for gexecd to confirm it, within bounds."""
        if self.session.state != ACCEPTED or self._gone:
            return
        self.session.kill(now=False)
        self.flush()
        try:
            async with asyncio.timeout(LEAVE_WAIT_S):
                while self.session.state == ACCEPTED and not self._gone:
                    self._discard()
                    await self._wait()
        except TimeoutError:
            self.session.close()
            self.flush()

    def _discard(self) -> None:
        """Take what nobody will read, so that the processes can end."""
        while self._frames:
            frame = self._frames.popleft()
            if isinstance(frame, frames.Output):
                self.session.taken(frame.ranks, frame.stream, len(frame.data))
        self.flush()
