"""Out of descriptors, processes or room: one rank of one user is not started, and everybody else goes on."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gexec
from gexec.cluster.processes import is_alive
from gexec.wire.outcome import exited

from .conftest import DEADLINE_S, Cluster, wait_until

NODES = 2


def _user() -> pwd.struct_passwd:
    """Return an account that may run jobs and is not root's."""
    for one in pwd.getpwall():
        if one.pw_uid and not one.pw_shell.endswith(("nologin", "false")):
            return one
    pytest.skip("no account but root's has a shell, and others are refused jobs")


@pytest.fixture
def small(cluster_of: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster whose daemons may open 1,024 files, as systemd has it for services."""
    cluster = cluster_of(NODES, descriptors=1024)
    cluster.enter(monkeypatch)
    # As root first: it loads all modules, which the other user may not be allowed to read.
    assert gexec.run(["true"], cwd="/").ok
    return cluster


@contextlib.contextmanager
def user_job(user: pwd.struct_passwd, argv: list[str], nodes: list[str]) -> Iterator[int]:
    """Run a job of this user in a process of its own; yield a descriptor that gets its outcomes as JSON."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.setgroups([])
            os.setresgid(*[user.pw_gid] * 3)
            os.setresuid(*[user.pw_uid] * 3)
            os.close(reading)
            done = gexec.run(argv, nodes=nodes, cwd="/")
            with os.fdopen(writing, "w") as pipe:
                json.dump([result.outcome.describe() for result in done.results], pipe)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        yield reading
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)


def outcomes(fd: int) -> list[str]:
    with os.fdopen(os.dup(fd)) as pipe:
        said: list[str] = json.load(pipe)
        return said


@contextlib.contextmanager
def roots_job(cluster: Cluster) -> Iterator[Callable[[], int]]:
    """A job of root's on all nodes; what it yields ends the job and returns its status."""
    client = cluster.popen(
        "-p",
        "none",
        "sh",
        "-c",
        "echo up; while read line; do echo $line; done; exit 5",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        for _ in range(NODES):
            assert client.stdout.readline() == b"up\n"

        def end() -> int:
            output, _ = client.communicate(b"still here\n", timeout=DEADLINE_S)
            assert output == b"still here\n" * NODES
            return int(client.returncode)

        yield end
    finally:
        client.kill()
        client.communicate()


def helpers(cluster: Cluster, user: pwd.struct_passwd) -> list[int]:
    """Return the pids of this user's helpers."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if (
                name.isdigit()
                and os.stat(f"/proc/{name}/comm").st_uid in (0, user.pw_uid)
                and Path(f"/proc/{name}/comm").read_text() == "gexecd-helper\n"
                and f"\nUid:\t{user.pw_uid}\t" in Path(f"/proc/{name}/status").read_text()
            ):
                found.append(int(name))
    return found


@pytest.mark.root
@pytest.mark.timeout(300)
def test_a_user_who_stops_its_helper_and_queues_hundreds_of_ranks_ends_nothing(small: Cluster) -> None:
    user = _user()
    everyone = [process for name in small.names for process in small.daemon(name)]
    with roots_job(small) as end:
        with user_job(user, ["sh", "-c", "kill -STOP $PPID; sleep 1000"], small.names):
            wait_until(lambda: len(helpers(small, user)) >= NODES, "there are no helpers")
            with user_job(user, ["true"], small.names * 900) as fd:
                assert set(outcomes(fd)) == {"exited 0"}
        assert end() == 5
    assert all(map(is_alive, everyone))


@pytest.mark.root
@pytest.mark.timeout(300)
def test_large_environments_wait_for_a_stopped_helper_like_small_ones(
    small: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = _user()
    with user_job(user, ["sh", "-c", "kill -STOP $PPID; sleep 1000"], small.names):
        wait_until(lambda: len(helpers(small, user)) >= NODES, "there are no helpers")
        monkeypatch.setenv("LARGE", "x" * 60_000)
        with user_job(user, ["true"], small.names * 300) as fd:
            assert set(outcomes(fd)) == {"exited 0"}


@pytest.mark.root
@pytest.mark.timeout(300)
def test_a_user_who_stops_its_helper_again_and_again_harms_nobody_else(small: Cluster) -> None:
    user = _user()
    everyone = [process for name in small.names for process in small.daemon(name)]
    with roots_job(small) as end:
        script = "trap '' HUP TERM; while :; do kill -STOP $PPID; done"
        with user_job(user, ["sh", "-c", script], small.names):
            wait_until(lambda: len(helpers(small, user)) >= NODES, "there are no helpers")
            with user_job(user, ["sleep", "1000"], small.names * 900):
                for _ in range(3):
                    assert gexec.run(["true"], nodes=small.names * 20, cwd="/").ok
        assert end() == 5
    assert all(map(is_alive, everyone))


@pytest.mark.timeout(300)
def test_a_node_that_is_named_as_often_as_a_job_may_have_processes_starts_them_all(
    cluster_of: Callable[..., Cluster],
) -> None:
    cluster = cluster_of(1)
    done = cluster.gexec("-w", ",".join(["node001"] * 4096), "--quiet", "sh", "-c", "exit 0", timeout=250)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_more_processes_than_descriptors_are_told_one_by_one(small: Cluster) -> None:
    """Each rank has its outcome, and the daemons serve the next job."""
    everyone = [process for name in small.names for process in small.daemon(name)]
    done = gexec.run(["sleep", "20"], nodes=small.names * 600, cwd="/")
    kinds = {result.outcome.describe() for result in done.results}
    assert exited(0).describe() in kinds
    refused = kinds - {"exited 0"}
    assert refused
    assert all("out of resources: " in each for each in refused), refused
    assert gexec.run(["true"], cwd="/").ok
    assert all(map(is_alive, everyone))


def test_a_task_has_the_descriptors_that_the_daemon_was_given(cluster: Cluster) -> None:
    done = cluster.gexec("-n", 1, "-p", "none", "sh", "-c", "ulimit -Sn")
    assert (
        done.stdout.decode().strip()
        == subprocess.run(
            ["sh", "-c", "ulimit -Sn"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
