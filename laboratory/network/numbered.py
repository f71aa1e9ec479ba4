"""A job whose nodes write numbered lines, and the claims that hold whatever happens to its daemons."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from gexec.cluster import processes
from laboratory.network.nodes import BIN, DEADLINE_S, NetworkedNodes, until

#: Arguments: directory of marks, number of lines (0: as many as stdin has), seconds between them.
_WRITER = """
import os, sys, time
marks, count, step_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
mark = f"{marks}/{os.environ['GEXEC_MY_VNN']}"
try:
    os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
except FileExistsError:
    os.close(os.open(mark + ".again", os.O_CREAT | os.O_WRONLY))
if count:
    due_s = time.monotonic()
    for number in range(count):
        os.write(1, b"%d\\n" % number)
        due_s += step_s
        time.sleep(max(0.0, due_s - time.monotonic()))
else:
    for line in sys.stdin.buffer:
        os.write(1, line)
"""
#: Events of `gexec --json` that are outcomes.
OUTCOMES = frozenset({"exited", "killed", "not_started", "denied", "lost", "timed_out"})
#: What an orphan may take beyond its grace: SIGTERM, and SIGKILL after the kill grace.
ORPHAN_MARGIN_S = 5.0
#: How much longer things may take on a machine that does other things too.
_BUSY_S = 10.0


@dataclass
class Rank:
    """What the client has shown of one rank, and when (time.monotonic)."""

    started: bool = False
    lines: int = 0
    line_s: list[float] = field(default_factory=list)
    outcome: str = ""
    text: str = ""
    status: int | None = None
    ended_s: float = 0.0
    quiet_s: float | None = None  #: since when it is shown as not responding
    wrong: list[str] = field(default_factory=list)


class NumberedJob:
    """A running job; use it inside ``with``.

    Args:
        nodes: of the cluster.
        lines: that each node writes; 0: those of stdin, which :meth:`feed` sends.
        step_s: between two of them.
        words: more options of gexec.
        names: of the job's nodes (default: all), in rank order.
    """

    def __init__(
        self,
        nodes: NetworkedNodes,
        lines: int,
        step_s: float = 0.05,
        words: Sequence[str] = (),
        names: Sequence[str] | None = None,
    ) -> None:
        self._nodes = nodes
        self.lines = lines
        self.names = list(nodes.names if names is None else names)
        self.ranks = [Rank() for _ in self.names]
        self.exit_status: int | None = None
        self.marks = Path(f"{nodes.dir}/m{time.monotonic_ns()}")
        self.marks.mkdir()
        self.marks.chmod(0o777)
        argv = [sys.executable, "-I", "-S", "-c", _WRITER, str(self.marks), str(lines), str(step_s)]
        stdin = [] if lines == 0 else ["--no-stdin"]
        self.client = subprocess.Popen(
            [sys.executable, str(BIN / "gexec"), "--json", *stdin, *words, "-w", ",".join(self.names), *argv],
            env=nodes.env, cwd="/", bufsize=0,
            stdin=subprocess.PIPE if lines == 0 else subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._fed = 0
        self._end = b""
        self.errors = b""
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> NumberedJob:
        return self

    def __exit__(self, *_: object) -> None:
        """End what is left of it."""
        if self.client.poll() is None:
            self.client.kill()
        self.client.wait()
        for reader in self._readers:
            reader.join()
        for pipe in (self.client.stdin, self.client.stdout, self.client.stderr):
            if pipe is not None:
                pipe.close()
        for pid in self.tasks():
            process = processes.seen(pid)
            if process is not None:
                processes.send_signal(process, signal.SIGKILL)

    # -- while it runs ------------------------------------------------------------------------

    def feed(self, lines: int) -> None:
        """Send so many more numbered lines to all nodes; waits if they cannot be taken."""
        assert self.client.stdin is not None
        until_line = self._fed + lines
        data = b"".join(b"%d\n" % number for number in range(self._fed, until_line))
        self._fed = until_line
        while data:
            data = data[self.client.stdin.write(data) :]

    def close(self) -> None:
        """End stdin: the nodes end then."""
        assert self.client.stdin is not None
        self.client.stdin.close()

    def all_started(self, but: Iterable[int] = ()) -> bool:
        """Wait until every rank but these has shown a line; return whether that is so."""
        others = [rank for number, rank in enumerate(self.ranks) if number not in set(but)]
        return until(lambda: self.client.poll() is not None or all(rank.lines for rank in others)) and all(
            rank.lines for rank in others
        )

    def longest_gap_s(self, number: int) -> float:
        """Return the longest time between two lines of a rank, as the client showed them."""
        times_s = self.ranks[number].line_s
        return max((later - sooner for sooner, later in pairwise(times_s)), default=0.0)

    def tasks(self) -> list[int]:
        """Return the pids of its processes on the nodes that still run."""
        mark = os.fsencode(self.marks)
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark in words and int(entry) != self.client.pid and processes.seen(int(entry)) is not None:
                found.append(int(entry))
        return found

    def wait(self, deadline_s: float = DEADLINE_S) -> int | None:
        """Return the client's exit status, when all that it wrote is read; None if it does not end."""
        try:
            self.client.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return None
        for reader in self._readers:
            reader.join()
        return self.client.returncode

    def _read(self) -> None:
        assert self.client.stdout is not None
        rest = b""
        while data := os.read(self.client.stdout.fileno(), 1 << 20):
            now_s = time.monotonic()
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                self._event(json.loads(line), now_s)
        self._end = rest

    def _read_errors(self) -> None:
        assert self.client.stderr is not None
        while data := os.read(self.client.stderr.fileno(), 65536):
            self.errors += data

    def _event(self, event: dict[str, object], now_s: float) -> None:
        kind, number = event["event"], event.get("rank")
        if kind == "end":
            self.exit_status = event["exit_status"]  # type: ignore[assignment]
        if not isinstance(number, int):
            return
        rank = self.ranks[number]
        if kind == "started":
            rank.started = True
        elif kind == "stdout":
            text = str(event["text"]) + ("\n" if event["newline"] else "")
            expected, at = rank.lines, 0
            for line in text.split("\n")[:-1]:
                if line != str(expected):
                    rank.wrong.append(f"line {line!r} where {expected} should be")
                expected, at = expected + 1, at + len(line) + 1
            if rank.outcome:
                rank.wrong.append(f"output after its outcome {rank.outcome}")
            rank.lines = expected
            rank.line_s.append(now_s)
        elif kind == "stderr":
            rank.wrong.append(f"stderr: {event['text']!r}")
        elif kind == "not_responding":
            rank.quiet_s = rank.quiet_s or now_s
        elif kind in OUTCOMES:
            if rank.outcome:
                rank.wrong.append(f"two outcomes: {rank.outcome} and {kind}")
            rank.outcome, rank.ended_s = str(kind), now_s
            rank.text = str(event.get("text", event.get("reason", "")))
            rank.status = event.get("status")  # type: ignore[assignment]

    # -- claims -------------------------------------------------------------------------------

    def findings(
        self, lost: Iterable[int] = (), maybe: Iterable[int] = (), orphan_grace_s: float = 20.0
    ) -> list[str]:
        """Return what is not as it must be, after the end.

        Args:
            lost: ranks that must not succeed.
            maybe: ranks that may be lost or succeed, as it comes.
            orphan_grace_s: of the nodes.
        """
        lost, maybe = set(lost), set(maybe)
        found = []
        if self.client.poll() is None:
            return [f"gexec does not end; {self._shown()}"]
        if b"Traceback" in self.errors:
            found.append(f"a traceback of the client: {self.errors[-1500:].decode(errors='replace')}")
        if maybe == set(range(len(self.ranks))) and self._refused:
            return found + self._left_over(orphan_grace_s)
        for number, rank in enumerate(self.ranks):
            found += [f"{self.names[number]}: {one}" for one in self._wrong(number, rank, lost, maybe)]
        if self.client.returncode != self.exit_status:
            said = self.errors[-500:].decode(errors="replace")
            found.append(
                f"exit status {self.client.returncode}, in the last event {self.exit_status}: {said}"
            )
        if self.client.returncode == 0 and any(rank.outcome != "exited" for rank in self.ranks):
            found.append("exit status 0 though not all succeeded")
        found += [f"rank {path.stem} was started twice" for path in self.marks.glob("*.again")]
        return found + self._left_over(orphan_grace_s)

    @property
    def _refused(self) -> bool:
        """True if the client gave a reason, and nothing began."""
        nothing = not any(rank.started or rank.lines or rank.outcome for rank in self.ranks)
        return nothing and self.client.returncode == 255 and bool(self.errors)

    def _left_over(self, orphan_grace_s: float) -> list[str]:
        """Return what is left after the orphans' grace, and what daemons logged."""
        until(lambda: not self.tasks(), orphan_grace_s + ORPHAN_MARGIN_S + _BUSY_S)
        left = [f"{len(self.tasks())} processes are left"] if self.tasks() else []
        return left + self._nodes.defects()

    def _wrong(self, number: int, rank: Rank, lost: set[int], maybe: set[int]) -> list[str]:
        expected = self.lines or self._fed
        wrong = list(rank.wrong)
        if not rank.outcome:
            wrong.append("no outcome")
        if rank.lines > expected:
            wrong.append(f"{rank.lines} lines instead of {expected}")
        succeeded = rank.outcome == "exited" and rank.status == 0
        if succeeded and rank.lines != expected:
            wrong.append(f"exited 0 with {rank.lines} of {expected} lines")
        if number in lost and succeeded:
            wrong.append("succeeded, but must have been lost")
        if number not in lost | maybe and not succeeded:
            wrong.append(f"{rank.outcome or 'nothing'} after {rank.lines} lines: {rank.text}")
        return wrong

    def _shown(self) -> str:
        ranks = ", ".join(f"{rank.lines} {rank.outcome or 'runs'}" for rank in self.ranks)
        return f"{ranks}; stderr: {self.errors[-500:].decode(errors='replace')}"
