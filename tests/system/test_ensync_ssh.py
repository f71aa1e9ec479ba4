"""ensync over a real sshd: to nodes that have Python and no gexec, and where only some have gexecd."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .commands import Shell
from .conftest import DEADLINE_S, Cluster, wait_until
from .must_hold import end
from .ssh_jobs import gone
from .sshd import Sshd, processes_with
from .test_ensync import no_file_below, sender_of, to_each, told, tree_of, wait_read

#: What the nodes' sshd gives a session; with the sshd's own PATH this is the system's Python.
PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    if PYTHON is None:
        pytest.skip("needs the system's python3, which sessions by ssh find")
    probe = [PYTHON, "-I", "-c", "import sys, zlib; sys.exit(sys.version_info < (3, 11))"]
    if subprocess.run(probe, capture_output=True, timeout=DEADLINE_S).returncode:
        pytest.skip(f"needs Python 3.11 as {PYTHON}")
    server = Sshd()
    yield server
    server.stop()


@pytest.fixture
def place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="gxs", dir="/tmp"))
    place.chmod(0o755)
    (place / "to").mkdir()
    yield place
    shutil.rmtree(place)


@pytest.fixture
def env(sshd: Sshd, tmp_path: Path) -> dict[str, str]:
    """The environment on a machine without gexecd and authd, whose ssh reaches the nodes."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}
    return clean | {
        "GEXEC_SSH": " ".join(sshd.ssh),
        "GEXEC_SOCKET": str(tmp_path / "no.sock"),
        "GEXEC_AUTHD_SOCKET": str(tmp_path / "none.sock"),
    }


@pytest.fixture
def shell(env: dict[str, str], tmp_path: Path) -> Shell:
    return Shell(env, tmp_path)


def test_the_nodes_python_has_no_gexec(sshd: Sshd) -> None:
    words = [*sshd.ssh, "node1", "python3 -I -c 'import gexec'"]
    done = subprocess.run(words, capture_output=True, timeout=DEADLINE_S)
    assert done.returncode == 1, "the other tests here would show nothing"


def test_files_to_nodes_without_gexec(sshd: Sshd, shell: Shell, place: Path) -> None:
    (place / "tree/sub").mkdir(parents=True)
    (place / "tree/sub/large").write_bytes(os.urandom(5 << 20))
    (place / "tree/text").write_text("words " * 100_000)
    (place / "tree/new\nline").touch()
    (place / "tree/link").symlink_to("text")
    expected = tree_of(place / "tree")
    words = ["-n", "node[1-3]", "--via=ssh", *to_each(place), place / "tree"]
    assert told(shell.run("ensync", *words)) == (0, b"", b"")
    for name in ("node1", "node2", "node3"):
        assert tree_of(place / "to" / name / "tree") == expected
    done = shell.run("ensync", "-v", *words)
    assert b"0 files written on 3 of 3 nodes, 12 were right already" in done.stderr
    (place / "to/node2/tree/text").unlink()
    done = shell.run("ensync", "--checksum", *words)
    assert (done.returncode, done.stdout) == (1, b"--- node2 (1) exited 1\nmissing tree/text\n")
    sshd.check_idle()


def test_beyond_the_fanout_files_wait_on_disk(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(os.urandom(3 << 20))
    words = ["-n", "node[1-4]", "--via=ssh", "-f", "2", *to_each(place), place / "f"]
    assert told(shell.run("ensync", *words)) == (0, b"", b"")
    for name in ("node1", "node4"):
        assert (place / "to" / name / "f").read_bytes() == (place / "f").read_bytes()


def test_auto_says_why_all_go_by_ssh(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    done = shell.run("ensync", "-n", "node[1-3] stranger", *to_each(place), place / "f")
    assert done.returncode == 255
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("ensync: ")
    assert lines[0].endswith("; all nodes are reached by ssh instead")
    assert lines[1].startswith("ensync: stranger: denied: ")
    assert len(lines) == 2
    found = sorted(path.parent.name for path in place.glob("to/*/f"))
    assert found == ["node1", "node2", "node3"]
    done = shell.run("ensync", "-n", "node1", "--via=gexec", *to_each(place), place / "f")
    assert (done.returncode, done.stderr.count(b"\n")) == (255, 1)


def test_auto_takes_ssh_to_nodes_where_no_gexecd_answers(
    cluster_of: Callable[..., Cluster], env: dict[str, str], place: Path, tmp_path: Path
) -> None:
    cluster = cluster_of(2)
    shell = Shell(cluster.env | {"GEXEC_SSH": env["GEXEC_SSH"]}, tmp_path)
    (place / "f").write_bytes(os.urandom(2 << 20))
    done = shell.run("ensync", "-n", "node001 node1 node002 node2", "-v", *to_each(place), place / "f")
    assert done.returncode == 0
    assert b"ensync: by ssh: 2 of 4 nodes (not started: " in done.stderr
    assert b"): node1 node2\n" in done.stderr
    assert b"4 files written on 4 of 4 nodes" in done.stderr
    for name in ("node001", "node1", "node002", "node2"):
        assert (place / "to" / name / "f").read_bytes() == (place / "f").read_bytes()
    # Ranks are those of the run, so that there is no second job where they are in the destination.
    words = ["-n", "node001 node1", "--parents", "--dest", f"{place}/n%n/", place / "f"]
    done = shell.run("ensync", *words)
    assert done.returncode == 255
    assert b"ensync: node1: not started: " in done.stderr
    assert [path.parent.name for path in place.glob("n*/f")] == ["n0"]


def test_a_node_without_python_is_told(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    words = ["-n", "node1 nologin", "--via=ssh", *to_each(place), place / "f"]
    done = shell.run("ensync", *words)
    assert done.returncode == 255
    assert b"ensync: nologin: not started: " in done.stderr
    assert (place / "to/node1/f").read_bytes() == b"content"


def test_remove_over_ssh(shell: Shell, place: Path) -> None:
    (place / "f").touch()
    done = shell.run("ensync", "-n", "node1", "--via=ssh", "--remove", place / "f", place / "none")
    assert done.returncode == 0
    assert b"f: left alone, because it is this host's own file" in done.stderr
    assert (place / "f").exists()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_when_ensync_ends_so_do_the_receivers(sshd: Sshd, shell: Shell, place: Path, signum: int) -> None:
    (place / "large").write_bytes(os.urandom(20 << 20))
    words = ["-n", "node[1-2]", "--via=ssh", "--bwlimit=1M", *to_each(place), place / "large"]
    client = shell.start("ensync", *words)
    sender = sender_of(client)
    wait_read(sender, 2 << 20)  # much is left: a signal by ssh may need seconds
    client.send_signal(signum)
    _, err = end(client)
    assert client.returncode == (-signum if signum == signal.SIGKILL else 128 + signum)
    assert b"Traceback" not in err
    gone(sender)
    sshd.check_idle()
    wait_until(lambda: not processes_with(str(place / "to")), "a receiver is left")
    no_file_below(place / "to")
