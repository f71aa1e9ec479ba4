"""Real daemons in networks of their own, to be harmed: what a test of faults does to a node's processes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from gexec.cluster import control, processes
from gexec.cluster.layout import Layout, State, environment
from gexec.cluster.processes import Process
from gexec.posix.descendants import children_of, stat_of
from laboratory.network import namespaces
from laboratory.network.router import ROOT, Network

BIN = Path(sys.executable).parent
#: Longer than anything takes on a busy machine; reached only when something hangs.
DEADLINE_S = 90.0
_STEP_S = 0.01
_TITLE = "gexecd-"
#: Of the directory that each node has for itself.
OWN_MIB = 16
#: Of daemons that are started again; the local cluster's own relays have a uid without a name.
_RELAY_USER = "daemon"
#: What a daemon writes about a defect of its own. No fault of others may lead to that.
DEFECTS = ("Traceback", " failed: AssertionError", " call failed")


def until(what: Callable[[], object], deadline_s: float = DEADLINE_S) -> bool:
    """Return whether ``what()`` is true, as soon as it is, or at the deadline."""
    end_s = time.monotonic() + deadline_s
    while not what():
        if time.monotonic() > end_s:
            return bool(what())
        time.sleep(_STEP_S)
    return True


class NetworkedNodes:
    """A cluster in a directory of its own, its nodes in a :class:`Network`; use it inside ``with``.

    Args:
        count: of nodes.
        settings: of gexecd.toml: texts, numbers, booleans.
        mtu, seed: of the network.
    """

    def __init__(
        self,
        count: int,
        *,
        settings: Mapping[str, object] | None = None,
        mtu: int = 1500,
        seed: int = 0,
    ) -> None:
        # A short path: sockets' paths may have 107 bytes.
        self.dir = Path(tempfile.mkdtemp(prefix="gxn", dir="/tmp"))
        self.dir.chmod(0o755)
        self.place = Layout(self.dir / "c")
        self.place.dir.mkdir(mode=0o755)
        self._settings = {name: json.dumps(value) for name, value in (settings or {}).items()}
        #: A directory that each node has for itself, in a small file system of its own.
        self.own = self.dir / "own"
        self.own.mkdir(mode=0o755)
        self._again: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: set[Process] = set()
        try:
            self.network = Network(count, mtu=mtu, seed=seed)
            self.state = self._up()
        except BaseException:
            shutil.rmtree(self.dir)
            raise
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}
        self.env = clean | environment(self.place, self.state)
        self.names = [node.name for node in self.state.nodes]

    def _up(self) -> State:
        config = self.place.dir / "gexecd.toml"
        config.write_text("".join(f"{name} = {value}\n" for name, value in self._settings.items()))
        asked = {
            "dir": str(self.place.dir),
            "config": str(config),
            "private": [str(self.own)],
            "size_mib": OWN_MIB,
            "addresses": self.network.addresses,
            "namespaces": [self.network.namespace(node) for node in range(self.network.count)],
        }
        words = [sys.executable, "-m", "laboratory.network.starting", json.dumps(asked)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S)
        if done.returncode:
            self.network.__exit__()
            raise RuntimeError(f"the cluster does not start: {done.stderr.strip()}")
        return control.require(self.place)

    def __enter__(self) -> NetworkedNodes:
        return self

    def __exit__(self, *_: object) -> None:
        """End all daemons and the network, and remove the directory."""
        for process in list(self._stopped):
            self.signal(process, signal.SIGCONT)
        for service in self._again.values():
            service.terminate()
        for service in self._again.values():
            try:
                service.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()
        control.down(self.place)
        self.network.__exit__()
        shutil.rmtree(self.dir, ignore_errors=True)

    def defects(self) -> list[str]:
        """Return what daemons logged about defects of their own."""
        found = []
        for path in sorted(self.place.dir.glob("logs/*.log")):
            text = path.read_text(errors="replace")
            for defect in DEFECTS:
                at = text.find(defect)
                if at >= 0:
                    found.append(f"{path.name}: {text[max(0, at - 500) : at + 1500]}")
        return found

    # -- processes ----------------------------------------------------------------------------

    def first(self, name: str) -> Process | None:
        """Return the first process of a node's daemon, its spawner, or None if it has ended."""
        if name in self._again:
            return processes.seen(self._again[name].pid)
        process = self.state.node(name).process
        return process if process is not None and processes.is_alive(process) else None

    def daemon(self, name: str, role: str = "") -> list[Process]:
        """Return the living processes of a node's daemon: all, or of one role.

        Args:
            role: spawner, relay, starter or helper.
        """
        first = self.first(name)
        if first is None:
            return []
        found, waiting = [], [first.pid]
        while waiting:
            pid = waiting.pop()
            stat = stat_of(pid)
            if stat is None or stat.state in "ZX" or not stat.name.startswith(_TITLE):
                continue
            waiting += children_of(pid)
            if stat.name.removeprefix(_TITLE).startswith(role):
                found.append(Process(pid, stat.born))
        return found

    def owned(self, name: str) -> Path:
        """Return where this process finds a node's own directory; not after a restart of that node."""
        process = self.state.node(name).process
        assert process is not None
        return Path(f"/proc/{process.pid}/root{self.own}")

    def below(self, name: str) -> list[int]:
        """Return the pids of all processes of a node, its tasks too."""
        first = self.first(name)
        found = [] if first is None else [first.pid]
        for pid in found:
            found += children_of(pid)
        return found

    def signal(self, process: Process, signum: int) -> None:
        """Send a signal to a process, if it still runs."""
        processes.send_signal(process, signum)
        if signum == signal.SIGSTOP:
            self._stopped.add(process)
        elif signum == signal.SIGCONT:
            self._stopped.discard(process)

    def kill(self, name: str, role: str = "") -> None:
        """End the processes of one role of a node's daemon, or all, with SIGKILL."""
        for process in self.daemon(name, role):
            self.signal(process, signal.SIGKILL)

    def authd(self) -> Process:
        """Return authd's process."""
        assert self.state.authd is not None
        return self.state.authd

    def restart(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Start a node's gexecd by its own command line, in the node's network, when the former has ended.

        Args:
            env: more variables of its environment.
        """
        if not until(lambda: self.first(name) is None):
            raise RuntimeError(f"{name}: its daemon has not ended")
        if name in self._again:
            self._again.pop(name).wait()
        index = self.names.index(name)
        config = self.place.dir / f"{name}.toml"
        own = self._settings | {"find_names": "false", "names": json.dumps([self.network.addresses[index]])}
        config.write_text("".join(f"{key} = {value}\n" for key, value in own.items()))
        reading, writing = os.pipe()
        place = self.place
        words = [
            sys.executable, str(BIN / "gexecd"), "--config", str(config), "--ready-fd", str(writing),
            "-P", str(self.state.port), "--bind", self.network.addresses[index],
            "--socket", str(place.socket(name)), "--authd-socket", str(place.authd_socket),
            "--public-key", str(place.public_key), "--name", name, "--hosts", str(place.hosts),
            "--audit-log", str(place.audit(name)), "--relay-user", _RELAY_USER,
        ]  # fmt: skip
        path = self.network.namespace(index)
        try:
            with place.log(name).open("ab") as log:
                self._again[name] = subprocess.Popen(
                    words, env=os.environ | dict(env or {}), pass_fds=[writing], stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, preexec_fn=lambda: namespaces.enter(path),
                )  # fmt: skip
            os.close(writing)
            writing = -1
            if not select.select([reading], [], [], DEADLINE_S)[0] or os.read(reading, 1) != b"1":
                raise RuntimeError(f"{name}: {place.log(name).read_text(errors='replace')[-2000:]}")
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)

    # -- pauses -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def stopped(self, stopping: Sequence[Process]) -> Iterator[None]:
        """Stop processes (SIGSTOP); let them go on afterwards, all at once."""
        for process in stopping:
            self.signal(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in stopping:
                self.signal(process, signal.SIGCONT)
