"""Jobs over ssh as their client sees them: the real engine, driven by the real session."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gexec.client.session import ACCEPTED, OVER
from gexec.ssh.job import SshOptions, prepare, submit
from gexec.wire.frames import STDERR, STDOUT, Ended, Frame, Output, RanksStarted
from gexec.wire.jobspec import JobSpec
from gexec.wire.outcome import Outcome

from .conftest import DEADLINE_S, wait_until
from .sshd import NETWORK, Sshd, processes_with

EIGHT = [f"node{number}" for number in range(1, 9)]


class Run:
    """One job over ssh, seen by its client.

    ``events`` has what came in order, output aside: ("started" | "ended", rank).
    """

    def __init__(self, job: JobSpec, options: SshOptions, stdin: bytes = b"") -> None:
        self.output: dict[tuple[int, int], bytearray] = {}
        self.events: list[tuple[str, int]] = []
        self._stdin = memoryview(stdin)
        self._job = job
        self.connection = submit(job, options)
        self.session = self.connection.session

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def until(self, what: Callable[[], object]) -> None:
        """Serve the session until ``what()`` is true."""
        end_s = time.monotonic() + DEADLINE_S
        while not what():
            assert self.session.state != OVER, f"over, with {self.session.outcomes}"
            self._feed()
            self.connection.send()
            if not select.select([self.connection], [], [], 0.2)[0]:
                assert time.monotonic() < end_s, f"nothing more, with {self.session.outcomes}"
                continue
            frames = self.connection.receive()
            assert not self.connection.gone, "the engine ended"
            for frame in frames:
                self._on_frame(frame)

    def finish(self) -> Run:
        """Serve until the job is over."""
        self.until(lambda: self.session.state == OVER)
        return self

    def _feed(self) -> None:
        if self.session.state == ACCEPTED and not self.session.stdin_over:
            room = self.session.stdin_room
            if room:
                part, self._stdin = self._stdin[:room], self._stdin[room:]
                self.session.stdin(bytes(part), eof=not self._stdin)

    def _on_frame(self, frame: Frame) -> None:
        if isinstance(frame, Output):
            self.session.taken(frame.ranks, frame.stream, len(frame.data))
            for low, _ in frame.ranks:
                self.output.setdefault((low, frame.stream), bytearray()).extend(frame.data)
        elif isinstance(frame, RanksStarted):
            self.events.append(("started", frame.ranks[0][0]))
        elif isinstance(frame, Ended):
            self.events.append(("ended", frame.ranks[0][0]))

    def stdout(self, rank: int = 0) -> bytes:
        return bytes(self.output.get((rank, STDOUT), b""))

    def stderr(self, rank: int = 0) -> bytes:
        return bytes(self.output.get((rank, STDERR), b""))

    @property
    def outcomes(self) -> list[Outcome]:
        return self.session.ended_outcomes()


def start(
    sshd: Sshd,
    names: list[str],
    *argv: str | bytes,
    stdin: bytes | None = None,
    options: SshOptions | None = None,
    **settings: Any,
) -> Run:
    """Submit a command to nodes; ``settings`` are those of ``prepare``."""
    job = prepare([(name, 0) for name in names], argv, stdin=stdin is not None, **settings)
    return Run(job, options or SshOptions(command=sshd.ssh), stdin or b"")


def run(sshd: Sshd, names: list[str], *argv: str | bytes, stdin: bytes | None = None, **settings: Any) -> Run:
    """Run a command on nodes to its end."""
    with start(sshd, names, *argv, stdin=stdin, **settings) as job:
        return job.finish()


def gone(pid: bytes | int) -> None:
    """Return when there is no such process any more."""
    wait_until(lambda: not os.path.exists(f"/proc/{int(pid)}"), f"process {int(pid)} is still there")


def engine_of() -> int:
    """Return the pid of the engine: the child of ours that is Python."""

    def engines() -> list[int]:
        return [pid for pid in processes_with("gexec.ssh.engine") if _parent(pid) == os.getpid()]

    wait_until(engines, "there is no engine")  # it has no name before the kernel has loaded it
    [pid] = engines()
    return pid


def is_zombie(pid: int) -> bool:
    """Tell whether a child of ours has ended, and was not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def port_of_nobody() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((f"{NETWORK}.1", 0))
        return int(probe.getsockname()[1])
