"""``gexec.run``: run a command on many nodes and return what each of them said.

Blocks; for events while the job runs, and inside asyncio, use ``gexec.stream``.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gexec import limits
from gexec.client.job import Request, build, submit
from gexec.client.session import ACCEPTED, OVER
from gexec.errors import GexecError
from gexec.render.summary import exit_status, summary
from gexec.wire.frames import STDERR, STDOUT, Output
from gexec.wire.outcome import Outcome
from gexec.wire.ranks import members

if TYPE_CHECKING:
    from gexec.client.connection import Connection
    from gexec.wire.jobspec import JobSpec

#: Both streams of all nodes together that ``run`` holds before it gives up.
OUTPUT_MAX_BYTES = 256 * 1024 * 1024
#: How long a job that is ended on the way out may take to confirm it.
_END_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What one rank did. ``stdout`` and ``stderr`` hold what came, also when the node was lost."""

    rank: int
    node: str
    outcome: Outcome
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """True if the process ran and exited 0, and its output is whole (``outcome.cut`` is false)."""
        return self.outcome.ok


@dataclass(frozen=True, slots=True)
class RunResult:
    """What all ranks did, in rank order, and the exit status that the gexec command would have."""

    exit_status: int
    results: list[NodeResult]

    @property
    def ok(self) -> bool:
        """True if every process ran and exited 0, and all output is whole."""
        return all(result.outcome.ok for result in self.results)

    def summary(self) -> list[str]:
        """Return a line for each way in which nodes failed, as gexec says on stderr; [] if none did."""
        names = [os.fsencode(result.node) for result in self.results]
        return summary(names, [result.outcome for result in self.results])


def run(
    argv: Sequence[str | bytes],
    *,
    nodes: Sequence[str] | None = None,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: str | bytes | None = None,
    timeout_s: float = 0.0,
    connect_timeout_s: float = limits.CONNECT_TIMEOUT_S,
    fanout: int = limits.FANOUT_DEFAULT,
    strict: bool = False,
    remote_path: bool = False,
    max_output_bytes: int = OUTPUT_MAX_BYTES,
) -> RunResult:
    """Run ``argv`` on every node at once and wait for all of them.

    Args:
        argv: program and arguments. The program is looked up in the local PATH (see remote_path).
        nodes: names, ``name:port``, addresses, node sets (docs/nodes.md); None = as the gexec command
            without flags. A name may be listed twice.
        stdin: goes to every process; b"" = /dev/null.
        env: the whole environment of the processes; None = this process's own.
        cwd: working directory on the nodes; None = this process's own.
        timeout_s: a process that runs longer is ended (its outcome is *timed out*); 0 = no limit.
        connect_timeout_s: a node that has not answered by then is *not started*.
        fanout: children of a node in the tree, 1 to 1024.
        strict: start nowhere unless every node can start.
        remote_path: look the program up on each node instead of here.
        max_output_bytes: what is held of all output together.

    Returns:
        A result for each rank, in order. A node that fails is an outcome, not an exception.

    Raises:
        UsageError: the request is wrong. AuthError: no credential. DaemonError: gexecd refused or
        does not run. GexecError: more than ``max_output_bytes`` came; the job was ended.
    """
    request = new_request(
        argv,
        nodes=nodes,
        stdin=bool(stdin),
        env=env,
        cwd=cwd,
        timeout_s=timeout_s,
        connect_timeout_s=connect_timeout_s,
        fanout=fanout,
        strict=strict,
        remote_path=remote_path,
    )
    job, _ = build(request)
    connection = submit(job)
    try:
        return _Collector(connection, job, stdin, max_output_bytes).run()
    finally:
        connection.close()


def new_request(
    argv: Sequence[str | bytes],
    *,
    nodes: Sequence[str] | None,
    stdin: bool,
    env: Mapping[str, str] | None,
    cwd: str | bytes | None,
    timeout_s: float,
    connect_timeout_s: float,
    fanout: int,
    strict: bool,
    remote_path: bool,
) -> Request:
    """Return the Request of a call of ``run`` or ``stream``."""
    if isinstance(argv, (str, bytes)):
        raise TypeError("argv: expected a list such as ['hostname'], not a string")
    if isinstance(nodes, str):
        raise TypeError("nodes: expected a list of names, not a string")
    request = Request(argv)
    request.nodes = nodes or ()
    request.env = env
    request.chdir = cwd or ""
    request.timeout_s = timeout_s
    request.connect_timeout_s = connect_timeout_s
    request.fanout = fanout
    request.strict = strict
    request.remote_path = remote_path
    request.stdin = stdin
    if nodes is not None and not nodes:
        raise ValueError("nodes: the list is empty; None stands for the configured nodes")
    return request


class _Collector:
    """The poll loop of ``run``: one connection, everything kept in memory."""

    def __init__(self, connection: Connection, job: JobSpec, stdin: bytes, max_output_bytes: int) -> None:
        self._connection = connection
        self._session = connection.session
        self._job = job
        self._stdin = memoryview(stdin)
        self._room = max_output_bytes
        self._max_output_bytes = max_output_bytes
        self._pieces: dict[int, list[list[bytes]]] = {
            stream: [[] for _ in range(job.ranks)] for stream in (STDOUT, STDERR)
        }

    def run(self) -> RunResult:
        try:
            self._loop()
        except BaseException:
            self._end()
            raise
        outcomes = self._session.ended_outcomes()
        results = [
            NodeResult(
                rank,
                os.fsdecode(name),
                outcomes[rank],
                b"".join(self._pieces[STDOUT][rank]),
                b"".join(self._pieces[STDERR][rank]),
            )
            for rank, name in enumerate(self._job.names)
        ]
        return RunResult(exit_status(outcomes), results)

    def _loop(self) -> None:
        connection = self._connection
        while self._session.state != OVER:
            self._feed_stdin()
            due_s = connection.due_s
            events = select.POLLIN | (select.POLLOUT if connection.unsent else 0)
            happened = _wait(connection, events, None if due_s is None else due_s - time.monotonic())
            if happened & select.POLLOUT:
                connection.send()
            if happened & ~select.POLLOUT:
                for frame in connection.receive():
                    if isinstance(frame, Output):
                        self._output(frame)
            connection.on_time(time.monotonic())

    def _feed_stdin(self) -> None:
        session = self._session
        if session.state == ACCEPTED and not session.stdin_over and (room := session.stdin_room):
            chunk = self._stdin[:room]
            self._stdin = self._stdin[room:]
            session.stdin(bytes(chunk), eof=not self._stdin)

    def _output(self, frame: Output) -> None:
        pieces = self._pieces[frame.stream]
        for rank in members(frame.ranks):
            pieces[rank].append(frame.data)
            self._room -= len(frame.data)
        if self._room < 0:
            raise GexecError(
                f"the job wrote more than {self._max_output_bytes} bytes and was ended: raise "
                "max_output_bytes, or use gexec.stream"
            )
        self._session.taken(frame.ranks, frame.stream, len(frame.data))

    def _end(self) -> None:
        """Ask for the job's end on the way out; closing the connection ends it all the same."""
        self._session.kill(now=False)
        self._session.close()
        until_s = time.monotonic() + _END_WAIT_S
        while self._connection.unsent and (left_s := until_s - time.monotonic()) > 0:
            if _wait(self._connection, select.POLLOUT, left_s):
                self._connection.send()


def _wait(connection: Connection, events: int, wait_s: float | None) -> int:
    """Wait for the socket, at most ``wait_s``; return what happened, as select.poll, 0 for nothing."""
    poll = select.poll()
    poll.register(connection.fileno(), events)
    ready = poll.poll(None if wait_s is None else max(0.0, wait_s) * 1000 + 1)
    return ready[0][1] if ready else 0
