"""Real clusters for tests: started by the real `gexecctl`, in short folders, and gone afterwards."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gexec.cluster import control, processes
from gexec.cluster.layout import Layout, State, environment
from gexec.cluster.processes import Process
from gexec.posix.descendants import children_of

from .etc import Etc

if TYPE_CHECKING:
    from .sshd import Sshd

#: Longer than anything takes on a busy machine; reached only when something hangs.
DEADLINE_S = 60.0
BIN = Path(sys.executable).parent


def wait_until(what: Callable[[], object], why: str, deadline_s: float = DEADLINE_S) -> None:
    """Return when ``what()`` is true; fail with ``why`` when it does not become so."""
    end_s = time.monotonic() + deadline_s
    while not what():
        if time.monotonic() > end_s:
            pytest.fail(f"after {deadline_s:g} s: {why}")
        time.sleep(0.02)


def gexecctl(
    *words: object, env: dict[str, str] | None = None, descriptors: int = 0, etc: Etc | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the real gexecctl.

    Args:
        descriptors: what it and all that it starts may open at the most.
        etc: the accounts that they see.
    """

    def limit() -> None:
        if etc is not None:
            etc.take_place()
        if descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    return subprocess.run(
        [sys.executable, BIN / "gexecctl", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        stdin=subprocess.DEVNULL,
        env=os.environ | {} if env is None else env,
        preexec_fn=limit if descriptors or etc is not None else None,
    )


def program(text: str) -> list[str]:
    """Return the argv of a test's own Python program, which may import what tests do.

    The wheel's interpreter (tests/all.py) has neither pytest nor what else only tests need.
    """
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path.append({str(Path(pytest.__file__).parents[1])!r})\n{text}",
    ]


def changed(env: dict[str, str], change: Mapping[str, str | None] | None) -> dict[str, str]:
    """Return an environment with some variables set, or taken out (None)."""
    return {name: value for name, value in (env | dict(change or {})).items() if value is not None}


@dataclass
class Cluster:
    """A running cluster. ``env`` is what a user's shell would have after `cluster env`."""

    place: Layout
    state: State
    env: dict[str, str] = field(init=False)
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}
        self.env = clean | environment(self.place, self.state)
        self.names = [node.name for node in self.state.nodes]

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Give this process the cluster's environment: for tests that call gexec.run."""
        for name in [name for name in os.environ if name.startswith("GEXEC_")]:
            monkeypatch.delenv(name)
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)

    @property
    def dir(self) -> Path:
        """The cluster's folder."""
        return self.place.dir

    def gexec(self, *words: object, env: Mapping[str, str | None] | None = None, **options: Any) -> Any:
        """Run the real gexec command with these words; ``env`` is added to the cluster's.

        Returns a CompletedProcess of bytes (``text=True`` for str). stdin is empty unless
        ``input`` or ``stdin`` is given.
        """
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("capture_output", "stdout" not in options and "stderr" not in options)
        options.setdefault("timeout", DEADLINE_S)
        return subprocess.run(self.command(*words), env=changed(self.env, env), **options)

    def popen(self, *words: object, env: Mapping[str, str | None] | None = None, **options: Any) -> Any:
        """Start the real gexec command; the test ends and reaps it."""
        return subprocess.Popen(self.command(*words), env=changed(self.env, env), **options)

    def command(self, *words: object) -> list[str]:
        """Return the argv of gexec with these words."""
        return [sys.executable, str(BIN / "gexec"), *map(str, words)]

    def daemon(self, name: str) -> list[Process]:
        """Return the living processes of a node's daemon, the spawner first."""
        return control.node_processes(self.state, name)

    def path(self, name: str, path: Path) -> Path:
        """Return where we find what a node sees at an absolute path: it may have a file of its own there."""
        return Path(f"/proc/{self.daemon(name)[0].pid}/root{path}")

    def tasks(self) -> list[int]:
        """Return the pids of everything below the supervisor that is no daemon of this cluster."""
        daemons = {process.pid for name in self.names for process in self.daemon(name)}
        if self.state.authd is not None:
            daemons.add(self.state.authd.pid)
        found = []
        waiting = children_of(self.state.supervisor.pid)
        while waiting:
            pid = waiting.pop()
            waiting += children_of(pid)
            if pid not in daemons and processes.seen(pid) is not None:
                found.append(pid)
        return found


def _start(
    count: int,
    config: str = "",
    descriptors: int = 0,
    private: Sequence[Path] = (),
    hardened: bool = False,
    etc: Etc | None = None,
) -> Cluster:
    # Not pytest's tmp_path: sockets' paths may have 107 bytes.
    place = Layout(Path(tempfile.mkdtemp(prefix="gx", dir="/tmp")))
    words: list[object] = ["cluster", "up", count, "--dir", place.dir]
    for path in private:
        words += ["--private", path]
    if hardened:
        words.append("--hardened")
    if os.geteuid() == 0:
        place.dir.chmod(0o755)  # the relays are another user
    if config:
        path = place.dir / "gexecd.toml"
        path.write_text(config)
        words += ["--config", path]
    done = gexecctl(*words, descriptors=descriptors, etc=etc)
    if done.returncode != 0:
        logs = "".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}"
            for path in sorted((place.dir / "logs").glob("*.log"))[:4]
        )
        shutil.rmtree(place.dir, ignore_errors=True)
        pytest.fail(f"cluster up {count}: {done.stderr}\n{logs}")
    return Cluster(place, control.require(place))


def _stop(cluster: Cluster) -> None:
    everyone = [cluster.state.guard, cluster.state.supervisor]
    everyone += [process for name in cluster.names for process in cluster.daemon(name)]
    tasks = [process for pid in cluster.tasks() if (process := processes.seen(pid)) is not None]
    done = gexecctl("cluster", "down", "--dir", cluster.dir)
    left = [process for process in everyone + tasks if processes.is_alive(process)]
    for process in left:
        processes.send_signal(process, signal.SIGKILL)
    faults = _tracebacks(cluster)
    shutil.rmtree(cluster.dir, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert not faults, faults
    assert not left, f"`cluster down` left {left}"


def _tracebacks(cluster: Cluster) -> str:
    """Return what daemons said about defects of their own: nobody's doing may lead to that."""
    told = []
    for path in sorted((cluster.dir / "logs").glob("*.log")):
        text = path.read_text(errors="replace")
        for fault in ("Traceback", " failed: AssertionError", " call failed"):
            at = text.find(fault)
            if at >= 0:
                told.append(f"{path.name}: {text[max(0, at - 500) : at + 1500]}")
    return "\n".join(told)


@pytest.fixture(scope="session")
def _shared_cluster() -> Iterator[Cluster]:
    cluster = _start(8)
    yield cluster
    _stop(cluster)


@pytest.fixture
def cluster(_shared_cluster: Cluster) -> Iterator[Cluster]:
    """Eight nodes, shared by all tests that do them no harm; no task is left after each test."""
    yield _shared_cluster
    wait_until(lambda: not _shared_cluster.tasks(), "tasks of the test are left on the cluster")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path that all nodes see and all users may enter, with ``to`` in it."""
    place = Path(tempfile.mkdtemp(prefix="gxp", dir="/tmp"))
    place.chmod(0o755)
    (place / "to").mkdir()
    yield place
    shutil.rmtree(place)


@pytest.fixture
def machines_place() -> Iterator[Path]:
    """A folder for what the machines of ``machines`` have in common."""
    place = Path(tempfile.mkdtemp(prefix="gxb", dir="/tmp"))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def cluster_of() -> Iterator[Callable[..., Cluster]]:
    """Return ``cluster_of(n, **settings)``: a cluster of one's own, which may be harmed.

    ``settings`` are those of gexecd.toml (texts, numbers, booleans); with ``descriptors=N`` no
    daemon may open more files than that; with ``private=[PATH]`` each node has this directory for itself
    (root only); with ``hardened=True`` only the first node takes jobs of users.
    With ``etc`` they have the accounts of a test's own (root only).
    """
    started: list[Cluster] = []

    def start(
        count: int,
        descriptors: int = 0,
        private: Sequence[Path] = (),
        etc: Etc | None = None,
        hardened: bool = False,
        **settings: object,
    ) -> Cluster:
        config = "".join(f"{name} = {_toml(value)}\n" for name, value in settings.items())
        started.append(_start(count, config, descriptors, private, hardened, etc))
        return started[-1]

    yield start
    for cluster in started:
        _stop(cluster)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f"'{value}'" if isinstance(value, str) else str(value)


@pytest.fixture(scope="module")
def _shared_sshd() -> Iterator[Sshd]:
    from .sshd import Sshd  # it takes things from here

    server = Sshd()
    yield server
    server.stop()


@pytest.fixture
def sshd(_shared_sshd: Sshd) -> Iterator[Sshd]:
    """A real sshd; after each test nothing of it runs any more."""
    yield _shared_sshd
    _shared_sshd.check_idle()


@pytest.fixture
def etc(tmp_path: Path) -> Etc:
    """An account database of the test's own; processes must take its place (root only)."""
    directory = tmp_path / "etc"
    directory.mkdir()
    return Etc(directory)
