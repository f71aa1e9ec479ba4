"""`gexecctl cluster up --private`: one path, another directory on every node, and no trace of it outside."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gexec
from gexec.cluster import control, processes
from gexec.cluster.layout import Layout, State

from .conftest import BIN, DEADLINE_S, Cluster, gexecctl, wait_until


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short folder with a directory to be private, `files`, and one beside it, `other`."""
    with tempfile.TemporaryDirectory(prefix="gx", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "files").mkdir()
        (path / "other").mkdir()
        yield path


def mounts(process: str = "self") -> list[str]:
    return Path(f"/proc/{process}/mountinfo").read_text().splitlines()


def processes_that_see(path: Path) -> list[str]:
    """Return the pids of all processes for which something is mounted on ``path``."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if any(line.split()[4] == str(path) for line in mounts(name)):
                found.append(name)
        except OSError:
            pass  # it ended
    return found


@pytest.mark.root
@pytest.mark.root
def test_the_same_path_is_another_file_on_every_node_and_the_host_sees_none(
    cluster_of: Callable[..., Cluster], folder: Path
) -> None:
    files, other = folder / "files", folder / "other"
    (files / "of the host").write_text("unseen")
    before = mounts()
    cluster = cluster_of(3, private=[files, other])
    assert cluster.state.private == [str(files), str(other)]
    assert cluster.gexec("-n", "0", "ls", "-A", files, other, text=True).stdout.count("of the host") == 0
    script = f'echo "$GEXEC_NODE" >{files}/name && echo "$GEXEC_MY_VNN" >{other}/rank'
    assert cluster.gexec("-n", "0", "sh", "-c", script).returncode == 0
    done = cluster.gexec("-n", "0", "-p", "vnn", "cat", files / "name", other / "rank", text=True)
    assert sorted(done.stdout.splitlines()) == [
        *("0 0", "0 node001"),
        *("1 1", "1 node002"),
        *("2 2", "2 node003"),
    ]
    assert cluster.path("node002", files / "name").read_text() == "node002\n"
    assert os.listdir(files) == ["of the host"]
    assert os.listdir(other) == []
    assert mounts() == before
    done = gexecctl("cluster", "down", "--dir", cluster.dir)
    assert done.returncode == 0, done.stderr
    assert processes_that_see(files) == []
    assert mounts() == before
    assert (files / "of the host").read_text() == "unseen"


@pytest.mark.root
@pytest.mark.root
def test_another_users_tasks_see_the_nodes_files_and_not_the_hosts(
    cluster_of: Callable[..., Cluster], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a Debian `sync` is one at least.
    users = [one for one in pwd.getpwall() if one.pw_uid and not one.pw_shell.endswith(("nologin", "false"))]
    if not users:
        pytest.skip("no account but root's has a shell, and others are refused jobs")
    user = users[0]
    cluster = cluster_of(2, private=[folder / "files"])
    name = folder / "files" / "name"
    monkeypatch.setattr(os, "environ", cluster.env)
    # As root first: it loads all modules, which the other user may not be allowed to read.
    assert gexec.run(["sh", "-c", f'echo "$GEXEC_NODE" >{name}'], cwd="/").ok
    assert as_user(user, ["cat", str(name)]) == b"0 node001\n0 node002\n"
    # The folder is root's: nobody else writes there.
    assert as_user(user, ["touch", f"{name}2"]).count(b"Permission denied") == 2


def as_user(user: pwd.struct_passwd, argv: list[str]) -> bytes:
    """Return exit status, stdout and stderr of another user's job on all nodes."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(*[user.pw_gid] * 3)
            os.setresuid(*[user.pw_uid] * 3)
            for one in gexec.run(argv, cwd="/").results:
                text = b"%d %b%b" % (one.outcome.exit_status, one.stdout, one.stderr)
                os.write(writing, text)
        except Exception as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


@pytest.mark.root
@pytest.mark.root
def test_nothing_is_mounted_outside_where_mounts_are_shared(folder: Path) -> None:
    # As systemd sets up a machine. Not every machine has it, so we make a namespace that does.
    files, place = folder / "files", Layout(folder / "c")
    ctl = f'"{sys.executable}" "{BIN}/gexecctl" cluster'
    script = (
        f'cat /proc/self/mountinfo; {ctl} up 1 --dir "{place.dir}" --private "{files}" >&2 || exit'
        f'; cat /proc/self/mountinfo; {ctl} down --dir "{place.dir}" >&2'
    )
    words = ["unshare", "--mount", "--propagation", "shared", "sh", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert " shared:" in done.stdout
    assert str(files) not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]


@pytest.mark.root
@pytest.mark.root
def test_kill_9_of_a_daemon_leaves_no_mount(cluster_of: Callable[..., Cluster], folder: Path) -> None:
    files = folder / "files"
    before = mounts()
    cluster = cluster_of(2, private=[files])
    job = cluster.popen("-n", "0", "sleep", "1000", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(cluster.tasks()) >= 2, "the job does not start")
        victim = cluster.daemon("node002")[0]
        namespace = os.readlink(f"/proc/{victim.pid}/ns/mnt")
        assert len(_in_namespace(namespace)) >= 3  # spawner, relay, task
        processes.send_signal(victim, signal.SIGKILL)
        wait_until(lambda: not _in_namespace(namespace), "the killed daemon's mounts are still there")
        assert mounts() == before
        assert len(processes_that_see(files)) >= 2  # node001 keeps its own
    finally:
        job.kill()
        job.wait()


def _in_namespace(namespace: str) -> list[str]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{name}/ns/mnt") == namespace:
                found.append(name)
        except OSError:
            pass  # it ended
    return found


@pytest.mark.root
@pytest.mark.root
def test_a_private_folder_holds_no_more_than_its_size(folder: Path) -> None:
    place = Layout(folder / "c")
    words = ["cluster", "up", 1, "--dir", place.dir, "--private", folder / "files", "--private-size", 2]
    done = gexecctl(*words)
    assert done.returncode == 0, done.stderr
    try:
        cluster = Cluster(place, control.require(place))

        def fill(size_bytes: int) -> Any:
            script = f"head -c {size_bytes} /dev/zero >{folder}/files/zeros"
            return cluster.gexec("-n", "0", "--no-stdin", "sh", "-c", script)

        assert fill(2 * 2**20).returncode == 0
        done = fill(2 * 2**20 + 1)
        assert done.returncode == 1
        assert b"No space left" in done.stderr
    finally:
        assert gexecctl("cluster", "down", "--dir", place.dir).returncode == 0


@pytest.mark.root
@pytest.mark.root
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/"], "contains the cluster's files"),
        (["{folder}"], "contains the cluster's files"),
        (["{folder}/c/keys"], "contains the cluster's files"),
        (["/proc"], "contains the processes"),
        (["{gexec}"], "contains gexec itself"),
        (["{gexec}/cli"], "contains gexec itself"),
        (["{python}"], "contains Python"),
        (["/etc"], "contains the users"),
        (["{folder}/none"], "not a directory; create it first"),
        (["{folder}/file"], "not a directory; create it first"),
        (["{folder}/" + "d" * 5000], "not a directory; create it first"),
        (["{folder}/files", "{folder}/link"], "is already private"),
        (["{folder}/files", "{folder}/files/inner"], "is already private"),
        (["{folder}/files", "--private-size=0"], "--private-size 0: expected 1 to"),
        (["--private-size=1"], "--private-size without --private"),
        (["{folder}/files"] * 17, "17 private directories"),
    ],
)
def test_a_folder_that_cannot_be_private_is_refused_with_a_sentence(
    folder: Path, words: list[str], said: str
) -> None:
    (folder / "file").touch()
    (folder / "files" / "inner").mkdir()
    (folder / "link").symlink_to("files")
    (folder / "c" / "keys").mkdir(parents=True)
    places = {"folder": folder, "gexec": Path(gexec.__file__).parent, "python": Path(os.__file__).parent}
    given = [word.format(**places) for word in words]
    given = [word if word.startswith("--") else f"--private={word}" for word in given]
    done = gexecctl("cluster", "up", 1, "--dir", folder / "c", *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.startswith("gexecctl: ")
    assert done.stderr.count("\n") == 1
    assert State.read(Layout(folder / "c")) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may: see above")
def test_an_ordinary_user_is_told_that_it_needs_root(folder: Path) -> None:
    done = gexecctl("cluster", "up", 1, "--dir", folder / "c", "--private", folder / "files")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gexecctl: --private needs root")


@pytest.mark.root
@pytest.mark.root
def test_root_without_the_capability_is_told_and_nothing_is_left(folder: Path) -> None:
    place = Layout(folder / "c")
    words = ["setpriv", "--bounding-set", "-sys_admin", str(BIN / "python"), str(BIN / "gexecctl")]
    words += ["cluster", "up", "1", "--dir", str(place.dir), "--private", str(folder / "files")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert done.stderr == (
        "gexecctl: node001: --private: cannot create a mount namespace here (Operation not permitted)\n"
    )
    assert not place.state.exists()
