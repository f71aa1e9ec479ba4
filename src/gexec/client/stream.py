"""``gexec.stream``: a job's events as an asynchronous iterator, with back-pressure to the processes.

Output counts as taken when the iterator has handed it out. A consumer that stops iterating stops the
processes once their windows are full, and memory stays bounded by ranks x window x 2.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from gexec import limits
from gexec.client.api import new_request
from gexec.client.job import build, submit
from gexec.client.session import ACCEPTED, OVER, SUBMITTED
from gexec.errors import GexecError
from gexec.render.summary import exit_status
from gexec.wire import frames
from gexec.wire.outcome import DENIED, LOST, NOT_STARTED, Outcome
from gexec.wire.ranks import Ranges, members

if TYPE_CHECKING:
    from types import TracebackType

    from gexec.client.connection import Connection
    from gexec.client.job import Request

#: Leaving the block waits so long for the confirmation that everything has ended.
LEAVE_WAIT_S = 2 * limits.KILL_GRACE_S


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
    """The end of this rank's process is not known: not started, denied, or lost (``outcome``)."""

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
        self._driver: _Driver | None = None
        #: What is still to be handed out of the frames that came.
        self._batch: deque[Event] = deque()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        # Names, credential and connecting may block for a moment each: not in the loop's thread.
        job, _ = await loop.run_in_executor(None, build, self._request)
        driver = _Driver(await loop.run_in_executor(None, submit, job))
        self._names = [os.fsdecode(name) for name in job.names]
        self._driver = driver
        try:
            await driver.accepted()
        except BaseException:
            driver.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        driver = self._open()
        self._batch.clear()
        try:
            await driver.finish()
        finally:
            driver.close()

    async def __aiter__(self) -> AsyncIterator[Event]:
        driver = self._open()
        while True:
            while self._batch:
                event = self._batch.popleft()
                if isinstance(event, (Stdout, Stderr)):
                    kind = frames.STDOUT if isinstance(event, Stdout) else frames.STDERR
                    driver.taken(((event.rank, event.rank + 1),), kind, len(event.data))
                yield event
            frame = await driver.next_frame()
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

    @property
    def not_responding(self) -> list[str]:
        """Names of the nodes from which nothing has come for some seconds: they recover, or are lost."""
        return [self._names[rank] for rank in sorted(self._open().session.quiet)]

    async def signal(self, signum: int) -> None:
        """Send a signal to the process group of every rank."""
        if not 1 <= signum <= 64:
            raise ValueError(f"signal {signum}: expected 1 to 64")
        driver = self._open()
        driver.session.signal(signum)
        driver.flush()

    async def kill(self, now: bool = False) -> None:
        """End every process: SIGHUP and SIGTERM, after the grace SIGKILL; or SIGKILL at once."""
        driver = self._open()
        driver.session.kill(now)
        driver.flush()

    def _open(self) -> _Driver:
        if self._driver is None:
            raise RuntimeError("use the job inside `async with gexec.stream(...) as job`")
        return self._driver

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


class _Driver:
    """Drives a connection in the event loop, and wakes the tasks that wait for it.

    Reader and writer callbacks rather than a transport: a transport gives up at the first failed
    write, but what gexecd sent before it closed its side must still be read.
    """

    def __init__(self, connection: Connection) -> None:
        self.session = connection.session
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._writing = False
        self._frames: deque[frames.Frame] = deque()
        self._changed = asyncio.Event()
        self._error: GexecError | None = None
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._loop.add_reader(connection.fileno(), self._step, connection.receive)
        self._arm()

    def _on_time(self) -> None:
        self._timer = None
        self._step(lambda: self._connection.on_time(time.monotonic()))

    def _step(self, step: Callable[[], list[frames.Frame]]) -> None:
        """Queue the frames of one step, then send, set the timer and wake the waiting tasks."""
        try:
            self._frames.extend(step())
        except GexecError as error:
            self._error = error
        if self._error is not None or self._connection.gone:
            self.close()
        self.flush()
        self._arm()
        self._changed.set()

    def _arm(self) -> None:
        """Set the timer, unless it is set for an earlier time."""
        due_s = self._connection.due_s
        if self._closed or due_s is None or (self._timer is not None and self._timer_s <= due_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = due_s
        self._timer = self._loop.call_later(max(0.0, due_s - time.monotonic()), self._on_time)

    def close(self) -> None:
        """Close the connection; gexecd ends what still runs."""
        if not self._closed:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            self._loop.remove_reader(self._connection.fileno())
            self._loop.remove_writer(self._connection.fileno())
            self._connection.close()
            self._changed.set()

    def flush(self) -> None:
        """Send what is outstanding, now or when the socket takes it."""
        if self._closed:
            return
        self._connection.send()
        if self._connection.unsent != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._connection.fileno(), self.flush)
            else:
                self._loop.remove_writer(self._connection.fileno())

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def accepted(self) -> None:
        """Wait until gexecd has taken the job; raise why it has not."""
        while self.session.state == SUBMITTED and self._error is None:
            await self._wait()
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
        while rest and not self.session.stdin_over and not self._closed:
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
        if self.session.state != ACCEPTED or self._closed:
            return
        self.session.kill(now=False)
        self.flush()
        try:
            async with asyncio.timeout(LEAVE_WAIT_S):
                while self.session.state == ACCEPTED and not self._closed:
                    self._discard()
                    await self._wait()
        except TimeoutError:
            self.session.close()
            self.flush()

    def _discard(self) -> None:
        """Acknowledge output that is not handed out any more, so that the processes can end."""
        while self._frames:
            frame = self._frames.popleft()
            if isinstance(frame, frames.Output):
                self.session.taken(frame.ranks, frame.stream, len(frame.data))
        self.flush()
