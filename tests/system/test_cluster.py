"""Local clusters: nothing is ever left, whoever dies; and the commands that look at them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gexec.cluster import control, processes
from gexec.cluster.layout import Layout
from gexec.cluster.processes import Process
from gexec.posix.descendants import children_of

from .conftest import BIN, DEADLINE_S, Cluster, gexecctl, wait_until

# Daemons that are stubborn and untidy: a relay that ignores SIGTERM, a task in its own session.
_SUPERVISOR = """
import os, pathlib, signal, subprocess, sys, time
from gexec.cluster.daemon import Daemon
from gexec.cluster.guard import guarded
from gexec.cluster.supervisor import Supervisor
from gexec.errors import GexecError
folder, count, kind = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def body(ready):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True: time.sleep(100)
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    ready()
    while True: time.sleep(100)

def failing(ready):
    if kind == "refuses": raise GexecError("the reason it gives")
    if kind == "breaks": raise ValueError("a defect")
    if kind == "vanishes": os._exit(3)
    body(ready)

def supervise():
    bodies = [body] * (count - 1) + [failing]
    daemons = [Daemon(f"d{i}", bodies[i], folder / f"{i}.log") for i in range(count)]
    boss = Supervisor(daemons)
    try:
        boss.bring_up()
        print("up", os.getpid(), *(daemon.process.pid for daemon in daemons), flush=True)
        boss.watch()
    except GexecError as error:
        print("failed", error, flush=True)
        return 1
    finally:
        boss.take_down()
    return 0

sys.exit(guarded(supervise))
"""


class Guarded:
    """A guard with a supervisor and daemons that do nothing useful."""

    def __init__(self, folder: Path, kind: str = "") -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _SUPERVISOR, str(folder), "4", kind],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.popen.stdout is not None
        self.words = self.popen.stdout.readline().split()
        self.pids = [int(word) for word in self.words[1:]] if self.words[0] == "up" else []

    def everything(self) -> list[Process]:
        """Return all processes below the guard."""
        found: list[Process] = []
        waiting = children_of(self.popen.pid)
        while waiting:
            pid = waiting.pop()
            waiting += children_of(pid)
            process = processes.seen(pid)
            if process is not None:
                found.append(process)
        return found


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Callable[..., Guarded]]:
    started: list[Guarded] = []

    def start(kind: str = "") -> Guarded:
        started.append(Guarded(tmp_path, kind))
        return started[-1]

    yield start
    for one in started:
        everything = one.everything()
        if one.popen.poll() is None:
            one.popen.kill()
        for process in everything:
            processes.send_signal(process, signal.SIGKILL)
        one.popen.communicate()


def _all_gone(everything: list[Process]) -> bool:
    return not any(processes.is_alive(process) for process in everything)


def test_what_a_killed_daemon_leaves_is_ended_and_the_others_stay(guarded: Callable[..., Guarded]) -> None:
    one = guarded()
    victim, others = one.pids[2], [one.pids[1], *one.pids[3:]]
    left = [process for pid in children_of(victim) if (process := processes.seen(pid))]
    assert len(left) == 2
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: _all_gone(left), "the dead daemon's processes live on")
    assert all(len(children_of(pid)) == 2 for pid in others)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("victim", ["guard", "supervisor"])
def test_nothing_is_left_when_guard_or_supervisor_ends(
    guarded: Callable[..., Guarded], victim: str, signum: signal.Signals
) -> None:
    one = guarded()
    everything = one.everything()
    assert len(everything) == 1 + 3 * 4
    os.kill(one.popen.pid if victim == "guard" else one.pids[0], signum)
    wait_until(lambda: _all_gone(everything), f"{signum.name} for the {victim} left processes")
    one.popen.wait(DEADLINE_S)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("refuses", "d3: the reason it gives"),
        ("breaks", "d3: failed with ValueError: a defect"),
        ("vanishes", "d3: ended before it was ready"),
    ],
)
def test_a_daemon_that_fails_makes_the_start_fail_with_its_reason(
    guarded: Callable[..., Guarded], kind: str, said: str
) -> None:
    one = guarded(kind)
    assert one.words[0] == "failed"
    assert said in " ".join(one.words)
    assert one.popen.wait(DEADLINE_S) == 1
    assert one.everything() == []


# -- real daemons -----------------------------------------------------------------------------


def test_every_node_listens_and_has_its_log_and_is_in_hosts(cluster: Cluster) -> None:
    lines = gexecctl("cluster", "addresses", "--dir", cluster.dir).stdout.split()
    assert lines == [f"127.0.1.{index}:{cluster.state.port}" for index in range(1, 9)]
    for line in lines:
        host, port = line.split(":")
        socket.create_connection((host, int(port)), DEADLINE_S).close()
    hosts = cluster.place.hosts.read_text().split()
    assert hosts[1::2] == cluster.names
    assert all(cluster.place.log(name).exists() for name in [*cluster.names, "authd", "supervisor"])


def test_pids_are_the_daemons_processes_and_not_its_tasks(cluster: Cluster) -> None:
    done = gexecctl("cluster", "pids", "--dir", cluster.dir, "node003")
    assert done.returncode == 0
    pids = [int(line) for line in done.stdout.split()]
    assert len(pids) >= 2  # spawner and relay
    job = cluster.popen("-n", "0", "sleep", "1000", stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(cluster.tasks()) >= 8, "the job does not start")
        now = [
            int(pid) for pid in gexecctl("cluster", "pids", "--dir", cluster.dir, "node003").stdout.split()
        ]
        assert set(pids) <= set(now)
        assert not set(now) & set(cluster.tasks())
    finally:
        job.terminate()
        job.wait(DEADLINE_S)


def test_an_unknown_node_is_named(cluster: Cluster) -> None:
    done = gexecctl("cluster", "pids", "--dir", cluster.dir, "node009")
    assert done.returncode == 2
    assert done.stderr.startswith("gexecctl: node009: no node of this cluster")


def test_a_second_cluster_in_the_same_folder_is_refused(cluster: Cluster) -> None:
    done = gexecctl("cluster", "up", 2, "--dir", cluster.dir)
    assert done.returncode == 1
    assert "already runs here" in done.stderr
    assert gexecctl("cluster", "status", "--dir", cluster.dir).returncode == 0


def test_two_clusters_live_side_by_side_on_their_own_ports(
    cluster: Cluster, cluster_of: Callable[..., Cluster]
) -> None:
    other = cluster_of(2)
    assert other.state.port != cluster.state.port
    done = other.gexec("-n", "0", "-p", "host", "echo", "here", text=True)
    assert sorted(done.stdout.splitlines()) == ["node001 here", "node002 here"]


@pytest.mark.root
@pytest.mark.root
def test_hostname_answers_the_nodes_name_as_root(cluster: Cluster) -> None:
    done = cluster.gexec("-n", "0", "-p", "none", "hostname", text=True)
    assert sorted(done.stdout.split()) == cluster.names
    assert socket.gethostname() not in cluster.names


@pytest.mark.parametrize("which", [0, 1])
def test_a_daemon_that_is_killed_takes_its_processes_along(
    cluster_of: Callable[..., Cluster], which: int
) -> None:
    cluster = cluster_of(2)
    job = cluster.popen("-n", "0", "sleep", "1000", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(cluster.tasks()) >= 2, "the job does not start")
        family = cluster.daemon("node002")
        tasks = [seen for pid in cluster.tasks() if (seen := processes.seen(pid))]
        on_node002 = [task for task in tasks if _below(task.pid, family[0].pid)]
        assert on_node002
        processes.send_signal(family[which], signal.SIGKILL)
        wait_until(lambda: _all_gone(family + on_node002), "the node's processes live on")
        # node001 is not harmed: its task goes on until it is told to end.
        assert any(processes.is_alive(task) for task in tasks)
        job.terminate()
        assert job.wait(DEADLINE_S) == 255
    finally:
        if job.poll() is None:
            job.kill()
            job.wait()
    status = gexecctl("cluster", "status", "--dir", cluster.dir)
    assert status.returncode == 1
    assert "node002: ended" in status.stdout


def test_a_node_that_shuts_down_says_so_to_its_parent_and_is_not_down(
    cluster_of: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = cluster_of(2, drain_s=60)
    job = cluster.popen("-w", "node002", "sh", "-c", "echo up; exec sleep 1000", stdout=subprocess.PIPE)
    try:
        assert job.stdout.readline() == b"0 up\n"
        processes.send_signal(cluster.daemon("node002")[0], signal.SIGTERM)
        words = ("-w", "node[001-002]", "echo", "x")
        env = {"XDG_CACHE_HOME": str(tmp_path)}
        wait_until(lambda: cluster.gexec(*words).returncode == 255, "new jobs are taken")
        done = cluster.gexec(*words, env=env, text=True)
        said = "gexec: node002: not started: gexecd is shutting down\n"
        assert (done.returncode, done.stdout, done.stderr) == (255, "0 x\n", said)
        assert not (tmp_path / "gexec" / "down").exists()
        assert job.poll() is None
    finally:
        job.terminate()
        job.communicate(timeout=DEADLINE_S)


def _below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return False
        pid = int(fields[1])
    return False


def test_kill_9_of_the_supervisor_ends_the_whole_cluster(cluster_of: Callable[..., Cluster]) -> None:
    cluster = cluster_of(3)
    everyone = [process for name in cluster.names for process in cluster.daemon(name)]
    assert cluster.state.authd is not None
    everyone += [cluster.state.authd, cluster.state.guard]
    processes.send_signal(cluster.state.supervisor, signal.SIGKILL)
    wait_until(lambda: _all_gone(everyone), "daemons outlive their supervisor")
    assert gexecctl("cluster", "env", "--dir", cluster.dir).returncode == 1


def test_down_ends_a_cluster_with_a_job_that_ignores_signals(cluster_of: Callable[..., Cluster]) -> None:
    cluster = cluster_of(2)
    script = "trap '' HUP TERM INT; echo ready; while :; do sleep 1000; done"
    job = cluster.popen("-n", "0", "sh", "-c", script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    lines = [job.stdout.readline() for _ in range(2)]
    assert all(line.endswith(b"ready\n") for line in lines)
    tasks = [seen for pid in cluster.tasks() if (seen := processes.seen(pid))]
    done = gexecctl("cluster", "down", "--dir", cluster.dir)
    assert (done.returncode, done.stdout) == (0, "ended: 2 nodes, node001 to node002\n")
    assert _all_gone(tasks)
    job.communicate(timeout=DEADLINE_S)
    again = gexecctl("cluster", "down", "--dir", cluster.dir)
    assert (again.returncode, again.stdout) == (0, f"no cluster runs in {cluster.dir}\n")


@pytest.fixture
def short_dir() -> Iterator[Path]:
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="gx", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_start_that_is_interrupted(short_dir: Path, signum: signal.Signals) -> None:
    place = Layout(short_dir / "c")
    command = [sys.executable, str(BIN / "gexecctl"), "cluster", "up", "64", "--dir", str(place.dir)]
    up = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: place.log("node002").exists() or up.poll() is not None, "no daemon is started")
    up.send_signal(signum)
    status = up.wait(DEADLINE_S)
    assert status in (0, 130, -signum)
    if status != 0:  # else it was just ready
        wait_until(lambda: not place.state.exists(), "the supervisor does not end")
    control.down(place)
    wait_until(lambda: not _processes_with(str(place.dir)), "processes of the start are left")


def _processes_with(word: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if word.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
            except OSError:
                pass
    return found


def test_a_start_that_fails_says_why_and_leaves_nothing(short_dir: Path) -> None:
    place = Layout(short_dir)
    place.create()
    place.private_key.write_text("no key")
    place.private_key.chmod(0o600)
    place.public_key.write_text("no key")
    place.public_key.chmod(0o644)
    done = gexecctl("cluster", "up", 2, "--dir", place.dir)
    assert done.returncode == 1
    assert done.stderr.startswith("gexecctl: authd: private key")
    assert done.stderr.count("\n") == 1
    assert not _processes_with(str(place.dir))
    assert not place.state.exists()


def test_foreground_stays_until_sigterm(short_dir: Path) -> None:
    place = Layout(short_dir)
    command = [sys.executable, str(BIN / "gexecctl"), "cluster", "up", "2", "--foreground", "--dir"]
    up = subprocess.Popen([*command, str(place.dir)], stdout=subprocess.PIPE, text=True)
    assert up.stdout is not None
    assert up.stdout.readline().startswith("2 nodes are up")
    state = control.require(place)
    everyone = [process for node in state.nodes for process in control.node_processes(state, node.name)]
    up.terminate()
    assert up.wait(DEADLINE_S) == 0
    up.stdout.close()
    assert _all_gone(everyone)
