"""A receiver, or a gexecd, that stands still in the middle of a copy: all other nodes get every byte."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gexec.wire import outcome as outcomes

from . import ssh_jobs
from .commands import Shell
from .conftest import Cluster, wait_until
from .frozen import frozen_at
from .must_hold import end, wait_gone
from .sshd import Sshd
from .test_ensync import begun, root_only, to_each, told

#: Short, and yet longer than what a receiver needs to begin. On a busy machine one that has not stopped may
#: be given up too: it gets its files once more, so only the end of a run is certain.
_STALL_S = 2
_NOTHING_TAKEN = b"lost: took none of its input for 2 s: given up"
#: Far more than what pipes, sockets and windows hold.
_SIZE = 12 << 20


@pytest.fixture
def place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="gxt", dir="/tmp"))
    place.chmod(0o755)
    (place / "to").mkdir()
    (place / "to").chmod(0o777)
    (place / "file").write_bytes(os.urandom(_SIZE))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(cluster.env, tmp_path)


_RECEIVER = """\
import os, signal, sys, time
from fnmatch import fnmatch
from gexec.cli import receive
from gexec.files.receiver import Receiver

feed, taken = Receiver.feed, 0

def feed_with_pauses(self, data):
    global taken
    taken += len(data)
    pause(taken)
    feed(self, data)

def pause(taken):
    {pause}

if any(fnmatch(os.environ["GEXEC_NODE"], name) for name in {nodes!r}):
    Receiver.feed = feed_with_pauses
sys.exit(receive.main(sys.argv[1:]))
"""


def pausing(place: Path, nodes: tuple[str, ...], pause: str) -> dict[str, str]:
    """Return the environment for real receivers that do something before each piece on these nodes."""
    folder = place / "bin"
    folder.mkdir()
    text = _RECEIVER.format(nodes=nodes, pause=pause)
    (folder / "gexec-receive").write_text(f"#!{sys.executable}\n{text}")
    (folder / "gexec-receive").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def stopping(place: Path, *nodes: str, after_bytes: int = 3_000_000) -> dict[str, str]:
    """Return the environment for receivers that take so much of their input on these nodes, and then stop."""
    return pausing(place, nodes, f"if taken > {after_bytes}: os.kill(os.getpid(), signal.SIGSTOP)")


def received(place: Path, names: list[str], file: str = "file") -> None:
    """Fail unless these nodes, and no others, have the whole file and nothing else."""
    content = (place / file).read_bytes()
    for name in names:
        found = {path.name: path.read_bytes() for path in (place / "to" / name).iterdir()}
        assert found == {file: content}, name
    assert {path.parent.name for path in (place / "to").glob("*/*")} == set(names)


def receiver_on(cluster: Cluster, node: str) -> int:
    """Return the pid of a node's receiver."""
    for pid in cluster.tasks():
        try:
            env = Path(f"/proc/{pid}/environ").read_bytes()
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if f"GEXEC_NODE={node}\0".encode() in env and b"gexec-receive" in words:
            return pid
    pytest.fail(f"no receiver on {node}")


# -- receivers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fanout", [1, 2])
def test_receivers_that_stop_are_lost_and_the_nodes_behind_them_have_every_byte(
    cluster: Cluster, shell: Shell, place: Path, fanout: int
) -> None:
    env = stopping(place, "node002", "node005")
    words = (
        "--via=gexec",
        "--compress=never",
        f"--stall={_STALL_S}",
        "-f",
        fanout,
        *to_each(place),
        place / "file",
    )
    done = shell.run("ensync", *words, env=env)
    assert done.returncode == 255
    [again, both] = done.stderr.splitlines()
    assert again.startswith(b"ensync: once more: ")
    assert b" nodes (%s): " % _NOTHING_TAKEN in again
    assert both == b"ensync: 2 of 8 nodes %s: node002 node005" % _NOTHING_TAKEN
    received(place, [name for name in cluster.names if name not in ("node002", "node005")])
    wait_gone(str(place))


def test_all_receivers_stop(cluster: Cluster, shell: Shell, place: Path) -> None:
    env = stopping(place, "node*", after_bytes=0)
    words = ("--via=gexec", "--compress=never", f"--stall={_STALL_S}", *to_each(place), place / "file")
    done = shell.run("ensync", *words, env=env)
    assert done.returncode == 255
    assert done.stderr.splitlines()[-1] == b"ensync: 8 of 8 nodes %s: node[001-008]" % _NOTHING_TAKEN
    received(place, [])
    wait_gone(str(place))


def test_one_that_stops_after_the_end_of_its_input_is_lost(shell: Shell, place: Path) -> None:
    (place / "small").write_bytes(b"content")
    env = stopping(place, "node002", after_bytes=0)
    words = ("-n", "node[001-003]", "--via=gexec", f"--stall={_STALL_S}", *to_each(place), place / "small")
    done = shell.run("ensync", *words, env=env)
    assert done.returncode == 255
    assert b"node002: lost: " in done.stderr
    assert b": given up\n" in done.stderr
    received(place, ["node001", "node003"], "small")


def test_one_that_was_stopped_once_gets_its_file_once_more(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    client, _ = begun(shell, place, "-f", "1", f"--stall={_STALL_S}")
    pid = receiver_on(cluster, "node003")
    os.kill(pid, signal.SIGSTOP)
    out, err = end(client)
    assert (client.returncode, out) == (0, b"")
    assert err.startswith(b"ensync: once more: ")
    assert err.count(b"\n") == 1
    assert b"(%s): " % _NOTHING_TAKEN in err
    assert not os.path.exists(f"/proc/{pid}")  # it was killed, although it was stopped
    received(place, cluster.names, "large")


def test_one_that_is_continued_in_time_is_not_given_up(cluster: Cluster, shell: Shell, place: Path) -> None:
    client, _ = begun(shell, place, "-f", "1", "--stall=60")
    pid = receiver_on(cluster, "node003")
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: _state(pid) == "T", "it does not stop")
    os.kill(pid, signal.SIGCONT)
    assert (*end(client), client.returncode) == (b"", b"", 0)
    received(place, cluster.names, "large")


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_slow_node_is_not_one_that_stands_still(shell: Shell, place: Path) -> None:
    """It takes little at a time; the others have its pace."""
    env = pausing(place, ("node002",), "time.sleep(0.1)")
    words = ("-n", "node[001-003]", "--via=gexec", "--compress=never", "--stall=20", *to_each(place))
    done = shell.run("ensync", *words, place / "file", env=env)
    assert told(done) == (0, b"", b"")
    received(place, ["node001", "node002", "node003"])


def test_a_job_without_a_stall_time_waits(cluster: Cluster, shell: Shell, place: Path) -> None:
    """--stall=0: whoever stands still is continued, and nothing is lost."""
    client, _ = begun(shell, place, "-n", "node[001-003]", "--stall=0")
    pid = receiver_on(cluster, "node002")
    os.kill(pid, signal.SIGSTOP)
    sender = Path(f"/proc/{pid}/stat")
    wait_until(lambda: " T " in sender.read_text(), "it does not stop")
    os.kill(pid, signal.SIGCONT)
    assert (*end(client), client.returncode) == (b"", b"", 0)
    received(place, ["node001", "node002", "node003"], "large")


def test_stall_times_have_bounds(shell: Shell, place: Path) -> None:
    for text in ("0.5", "86401", "x", "-1"):
        done = shell.run("ensync", f"--stall={text}", place / "file")
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"--stall" in done.stderr


@pytest.mark.root
@root_only
def test_a_receiver_whose_storage_hangs_cannot_be_killed_and_holds_nobody(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    """node002 writes to a file system that is frozen: its receiver does not end, even by SIGKILL."""
    with frozen_at(place / "to/node002") as freeze:
        client, _ = begun(shell, place, "-f", "1", f"--stall={_STALL_S}")
        pid = receiver_on(cluster, "node002")
        freeze()
        out, err = end(client)
        assert (client.returncode, out) == (255, b"")
        assert b"ensync: node002: " + _NOTHING_TAKEN in err
        assert _state(pid) == "D"
        received(place, [name for name in cluster.names if name != "node002"], "large")
        # The node takes further jobs, while it still has that process.
        done = shell.gexec("-p", "host", "echo", "here")
        assert b"node002 here\n" in done.stdout
        assert done.returncode == 0
    wait_gone(str(place))


# -- daemons --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("node", "fanout"), [("node002", 1), ("node006", 1), ("node002", 2)])
def test_a_frozen_gexecd_is_lost_and_may_go_on_later(
    cluster_of: Callable[..., Cluster], place: Path, tmp_path: Path, node: str, fanout: int
) -> None:
    """In the middle of a chain, at its end, and an inner node of a tree; node001 is the client's own."""
    cluster = cluster_of(6, heartbeat_s=0.4, lost_after_s=1.5, orphan_grace_s=3.0)
    shell = Shell(cluster.env, tmp_path)
    client, _ = begun(shell, place, "-f", fanout, "--connect-timeout=1")
    relay = cluster.daemon(node)[1]
    os.kill(relay.pid, signal.SIGSTOP)
    try:
        out, err = end(client)
    finally:
        os.kill(relay.pid, signal.SIGCONT)
    assert (client.returncode, out) == (255, b"")
    assert b"ensync: once more: 1 of 6 nodes (lost: no answer for " in err
    assert b"ensync: %s: lost: no answer for " % node.encode() in err
    received(place, [name for name in cluster.names if name != node], "large")
    wait_until(lambda: not cluster.tasks(), "tasks are left")
    done = shell.run("ensync", *to_each(place), place / "large")
    assert told(done) == (0, b"", b"")
    received(place, cluster.names, "large")


def test_a_frozen_gexecd_of_the_client_itself_ends_the_run(
    cluster_of: Callable[..., Cluster], place: Path, tmp_path: Path
) -> None:
    cluster = cluster_of(2)
    shell = Shell(cluster.env, tmp_path)
    client, _ = begun(shell, place, "--connect-timeout=1")
    relay = cluster.daemon("node001")[1]
    os.kill(relay.pid, signal.SIGSTOP)
    try:
        out, err = end(client)
    finally:
        os.kill(relay.pid, signal.SIGCONT)
    assert (client.returncode, out) == (255, b"")
    assert b"ensync: gexecd did not take the job within 1 s\n" in err
    assert b"ensync: 2 of 2 nodes lost: the local gexecd has not answered for 15 s" in err


# -- over ssh -------------------------------------------------------------------------------------


def test_over_ssh_a_command_that_stops_is_lost_and_the_others_have_every_byte(sshd: Sshd) -> None:
    script = 'if test "$GEXEC_MY_VNN" = 1; then echo $$; kill -STOP $$; fi; wc -c'
    names = ["node1", "node2", "node3"]
    done = ssh_jobs.run(sshd, names, "sh", "-c", script, stdin=bytes(_SIZE), stall_s=4.0)
    lost = outcomes.lost("took none of its input for 4 s: given up")
    assert done.outcomes == [outcomes.exited(0), lost, outcomes.exited(0)]
    assert [done.stdout(rank).split()[-1] for rank in (0, 2)] == [b"%d" % _SIZE] * 2
    ssh_jobs.gone(int(done.stdout(1)))


def test_over_ssh_a_command_that_stops_after_its_input_is_lost(sshd: Sshd) -> None:
    done = ssh_jobs.run(sshd, ["node1"], "sh", "-c", "echo $$; kill -STOP $$", stdin=b"x", stall_s=1.0)
    assert done.outcomes[0].kind == outcomes.LOST
    assert done.outcomes[0].text.endswith("for 1 s: given up") or "end of its input" in done.outcomes[0].text
    ssh_jobs.gone(int(done.stdout(0)))


def test_over_ssh_a_command_that_writes_is_not_given_up(sshd: Sshd) -> None:
    script = "cat >/dev/null; for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done"
    done = ssh_jobs.run(sshd, ["node1", "node2"], "sh", "-c", script, stdin=b"x", stall_s=20.0)
    assert done.outcomes == [outcomes.exited(0)] * 2
