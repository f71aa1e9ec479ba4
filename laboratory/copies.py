"""One copy of laboratory.copying: a tree, nodes with older versions of it, options, and faults at moments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from gexec.cluster import control, processes
from gexec.cluster.layout import Layout, State, environment
from gexec.posix.descendants import children_of
from laboratory.trees import Tree, TreeRules, older, random_tree

BIN = Path(sys.executable).parent
#: Longer than anything takes; reached only when something hangs. Orphans may run for 20 s.
DEADLINE_S = 90.0
_STEP_S = 0.005
_PYTHON_BYTES = 430_000
#: What can happen: to one node or the client while the copy runs, or (a full disk) from its beginning.
FAULTS = ("node", "receiver", "client", "sender", "interrupt", "full", "stop")


class CopyFault(NamedTuple):
    """Something that goes wrong.

    Attributes:
        kind: one of FAULTS, or ``stop``.
        node: index of the node that it is about.
        progress: when the sender has read this part of all bytes; or < 0: ``delay_s`` after the start.
        choice: 0 to 5, for what is left to choose: which process, which signal.
    """

    kind: str
    node: int
    progress: float
    delay_s: float
    choice: int

    def __str__(self) -> str:
        when = f"{self.progress:.0%}" if self.progress >= 0 else f"{self.delay_s:.2f} s"
        return f"{self.kind} {self.node} at {when} ({self.choice})"


class CopyPlan:
    """What a seed does.

    Args:
        seed: any number.
        nodes: how many there are.
        kinds: of faults that can be made here.

    Attributes:
        new: the tree that is copied.
        old: what each node has before.
        options: of ensync.
        rules: what these options may leave.
        faults: by their moments.
    """

    def __init__(self, seed: int, nodes: int, kinds: Sequence[str]) -> None:
        rng = Random(seed)
        self.new = random_tree(rng)
        count = rng.randint(min(4, nodes), nodes)
        self.old: list[Tree] = [{} if rng.random() < 0.1 else older(rng, self.new) for _ in range(count)]
        self.bytes = sum(len(entry.content) for entry in self.new.values())
        chosen = {name: rng.random() < 0.35 for name in ("delete", "backup", "checksum-compare", "sync")}
        self.rules = TreeRules(chosen["delete"], chosen["backup"])
        self.options = [f"--{name}" for name, given in chosen.items() if given]
        if rng.random() < 0.5:
            self.options.append(f"--fanout={rng.choice((1, 2, 3, 16))}")
        kind = rng.choice(("auto", "always", "never"))
        self.options.append(f"--compress={kind}")
        #: The copy takes about so long, if nothing happens.
        self.lasts_s = rng.uniform(0.2, 1.2)
        self.faults = [self._fault(rng, kinds) for _ in range(rng.choice((1, 1, 2)))] if kinds else []
        if any(fault.kind == "stop" for fault in self.faults):
            self.options.append("--stall=2")

    def _fault(self, rng: Random, kinds: Sequence[str]) -> CopyFault:
        progress = rng.uniform(0, 1) if rng.random() < 0.6 else -1.0
        delay_s = rng.uniform(0, self.lasts_s + 0.6)
        return CopyFault(rng.choice(kinds), rng.randrange(len(self.old)), progress, delay_s, rng.randrange(6))


class HarmedNodes:
    """A local cluster in a directory of its own, that may be harmed: ``up`` starts it anew."""

    def __init__(self, folder: Path, count: int) -> None:
        self._place = Layout(folder)
        self._count = count
        self.state: State | None = None
        self.env: dict[str, str] = {}
        self.names: list[str] = []

    def up(self) -> None:
        """Start it, after the end of what runs of it; RuntimeError if that fails."""
        self.down()
        self._place.dir.mkdir(exist_ok=True)
        self._place.dir.chmod(0o755)
        done = self._gexecctl("up", str(self._count))
        if done.returncode:
            raise RuntimeError(f"the cluster does not start: {done.stderr.strip()}")
        self.state = control.require(self._place)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}
        self.env = clean | environment(self._place, self.state)
        self.names = [node.name for node in self.state.nodes]

    def down(self) -> None:
        """End it, if it runs."""
        if self.state is not None:
            self._gexecctl("down")
            self.state = None

    def kill(self, name: str, choice: int) -> None:
        """End a node's daemon with SIGKILL: one of its processes, or all."""
        assert self.state is not None
        running = control.node_processes(self.state, name)
        for process in running if choice >= len(running) else [running[choice]]:
            processes.send_signal(process, signal.SIGKILL)

    def broken_daemons(self) -> str:
        """Return what a daemon logged about a defect of its own, or ""."""
        for path in sorted(self._place.dir.glob("logs/*.log")):
            text = path.read_text(errors="replace")
            if "Traceback" in text:
                return f"{path.name}: {text[text.find('Traceback') :][:2000]}"
        return ""

    def _gexecctl(self, what: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            str(BIN / "gexecctl"),
            "cluster",
            what,
            *words,
            "--dir",
            str(self._place.dir),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)


class RunningCopy:
    """A running ensync, and what happens to it.

    Args:
        nodes: of the cluster.
        plan: the faults.
        words: ensync's options and files.
        target: a path in the receivers' arguments, by which they are found.

    Attributes:
        killed: indexes of the nodes whose receiver got SIGKILL.
        dead: indexes of the nodes whose daemon got it.
        happened: kinds of the faults that came while the copy ran.
    """

    def __init__(self, nodes: HarmedNodes, plan: CopyPlan, words: Sequence[str], target: Path) -> None:
        self._nodes, self._plan, self._target = nodes, plan, os.fsencode(target)
        self.killed: set[int] = set()
        self.dead: set[int] = set()
        self.happened: list[str] = []
        self.stderr = b""
        self._client = subprocess.Popen(
            [sys.executable, str(BIN / "ensync"), *words],
            env=nodes.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._sender = 0

    def run(self) -> int:
        """Let the faults happen, and wait for the end; return the exit status (negative: a signal).

        Raises:
            TimeoutError: it does not end.
        """
        try:
            # Before, it is Python that starts, and a signal is Python's matter.
            _until(lambda: self._client.poll() is not None or self._has_sender(), DEADLINE_S)
            began_s = time.monotonic()
            for fault in sorted(self._plan.faults, key=lambda fault: (fault.progress, fault.delay_s)):
                if fault.kind != "full" and self._until(fault, began_s) and self._apply(fault):
                    self.happened.append(fault.kind)
            self.stderr = self._client.communicate(timeout=DEADLINE_S)[1]
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"ensync does not end within {DEADLINE_S:g} s") from error
        finally:
            if self._client.poll() is None:
                self._client.kill()
                self._client.communicate()
        return self._client.returncode

    def receivers(self, node: str = "") -> list[int]:
        """Return the pids of the receivers, or of a node's."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            words = _read(f"/proc/{entry}/cmdline")
            if b"gexec-receive" in words and self._target in words and int(entry) != self._client.pid:
                marks = _read(f"/proc/{entry}/environ").split(b"\0")
                if not node or f"GEXEC_NODE={node}".encode() in marks:
                    found.append(int(entry))
        return found

    def wait_gone(self) -> bool:
        """Wait until no receiver runs; end what does not end, and return False then."""
        if _until(lambda: not self.receivers(), DEADLINE_S):
            return True
        for pid in self.receivers():
            _kill(pid, signal.SIGKILL)
        return False

    def _until(self, fault: CopyFault, began_s: float) -> bool:
        """Wait for a fault's moment; return False if the copy has ended before."""

        def has_come() -> bool:
            if self._client.poll() is not None:
                return True
            if fault.progress < 0:
                return time.monotonic() - began_s >= fault.delay_s
            return self._bytes_read() >= fault.progress * self._plan.bytes

        return _until(has_come, DEADLINE_S) and self._client.poll() is None

    def _bytes_read(self) -> int:
        """Return how much the sender has read of the files, about: without what Python reads at its start."""
        counted = _read(f"/proc/{self._sender}/io").partition(b"rchar: ")[2].split(maxsplit=1)
        return max(0, int(counted[0]) - _PYTHON_BYTES) if counted else 0

    def _has_sender(self) -> bool:
        for pid in children_of(self._client.pid):
            if b"gexec.cli.send" in _read(f"/proc/{pid}/cmdline"):
                self._sender = pid
        return self._sender > 0

    def _apply(self, fault: CopyFault) -> bool:
        """Let it happen; return False if that on which it would happen is not there."""
        name = self._nodes.names[fault.node]
        if fault.kind == "node":
            if fault.node in self.dead:
                return False
            self._nodes.kill(name, fault.choice)
            self.dead.add(fault.node)
            return True
        if fault.kind in ("receiver", "stop"):
            signum = signal.SIGKILL if fault.kind == "receiver" else signal.SIGSTOP
            running = self.receivers(name)
            if not running or not _kill(running[0], signum):
                return False
            self.killed.add(fault.node)
            return True
        if fault.kind == "sender":
            return self._sender > 0 and _kill(self._sender, signal.SIGKILL)
        asks = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._client.send_signal(signal.SIGKILL if fault.kind == "client" else asks[fault.choice % 3])
        return True


def _until(what: Callable[[], bool], deadline_s: float) -> bool:
    end_s = time.monotonic() + deadline_s
    while not what():
        if time.monotonic() > end_s:
            return False
        time.sleep(_STEP_S)
    return True


def _kill(pid: int, signum: int) -> bool:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
