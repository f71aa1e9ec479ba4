"""Batches, further attempts and what stops them, with the real commands on a real cluster."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .commands import LATE, Shell, until_said
from .conftest import DEADLINE_S, Cluster, wait_until
from .daemons import Service
from .must_hold import end, marked, marker, wait_gone, wait_started

NAMES = [f"node{number:03d}" for number in range(1, 9)]


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(cluster.env, tmp_path)


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    path = tmp_path / "witness"
    path.touch()
    return path


# -- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "sizes"), [("3", [3, 3, 2]), ("30%", [3, 3, 2]), ("50%", [4, 4]), ("99", [8])]
)
def test_a_batch_begins_when_the_one_before_has_ended(
    shell: Shell, witness: Path, batch: str, sizes: list[int]
) -> None:
    script = f"echo begin $GEXEC_NODE >>{witness}; sleep 0.1; echo end $GEXEC_NODE >>{witness}; echo x"
    done = shell.gexec("--batch", batch, "-p", "vnn", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(done.stdout.splitlines()) == [b"%d x" % rank for rank in range(8)]
    lines = witness.read_text().splitlines()
    begin = 0
    for size in sizes:
        own = lines[2 * begin : 2 * (begin + size)]
        expected = NAMES[begin : begin + size]
        assert sorted(own) == [f"{what} {name}" for what in ("begin", "end") for name in expected]
        begin += size


def test_stdin_goes_to_every_batch(shell: Shell, witness: Path) -> None:
    script = b"echo $GEXEC_NODE >>" + bytes(witness) + b"\n"
    done = shell.gexec("--batch", "3", "sh", "-s", input=script)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(witness.read_text().splitlines()) == NAMES
    # The first batch reads none of it, the second a part, the third all.
    some = "case $GEXEC_NODE in node00[123]) ;; node00[456]) head -c 5;; *) cat;; esac"
    done = shell.gexec(
        "--batch", "3", "sh", "-c", f"{some} | wc -c >{witness}.$GEXEC_NODE", input=b"x" * 3_000_000
    )
    assert (done.returncode, done.stderr) == (0, b"")
    sizes = [int(Path(f"{witness}.{name}").read_text()) for name in NAMES]
    assert sizes == [0, 0, 0, 5, 5, 5, 3_000_000, 3_000_000]


def test_a_file_that_is_too_long_for_batches_is_refused_before_anything_runs(
    shell: Shell, tmp_path: Path, witness: Path
) -> None:
    with (tmp_path / "large").open("w+b") as file:
        file.truncate(64 * 1024 * 1024 + 1)
        done = shell.gexec("--batch", "3", "sh", "-c", f"echo x >>{witness}", stdin=file)
    assert done.returncode == 2
    assert done.stderr.startswith(b"gexec: stdin is a file of 64.0 MiB")
    assert b"ensync" in done.stderr
    assert witness.read_text() == ""


def test_a_stream_that_is_too_long_for_batches_goes_to_the_first_and_the_others_say_why(shell: Shell) -> None:
    script = "import sys\nfor i in range(65): sys.stdout.buffer.write(bytes(1 << 20))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as source:
        done = shell.gexec("--batch", "2", "-n", "4", "-p", "host", "wc", "-c", stdin=source.stdout)
    assert sorted(done.stdout.splitlines()) == [b"node001 %d" % (65 << 20), b"node002 %d" % (65 << 20)]
    assert done.returncode == 255
    assert b"2 of 4 nodes not started: not tried: stdin is longer than the 64.0 MiB" in done.stderr
    assert b"node003 node004" in done.stderr


def test_one_form_for_all_batches(shell: Shell) -> None:
    script = "echo same; [ $GEXEC_NODE != node007 ] || echo odd"
    done = shell.gexec("--batch", "3", "-b", "sh", "-c", script)
    assert done.stdout.decode().splitlines() == [
        "--- node[001-006,008] (7)", "same",
        "--- node007 (1)", "same", "odd",
    ]  # fmt: skip
    done = shell.gexec("--batch", "3", "--json", "sh", "-c", script)
    job, *between, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert [node["node"] for node in job["nodes"]] == NAMES
    assert {(one["rank"], one["node"]) for one in between} == set(enumerate(NAMES))
    exits = [one["rank"] for one in between if one["event"] == "exited"]
    assert sorted(exits) == list(range(8))
    assert max(exits[:3]) < 3 <= min(exits[3:])
    assert (last["event"], last["succeeded"], last["exit_status"]) == ("end", 8, 0)


def test_stdin_is_left_to_others_with_no_stdin(shell: Shell) -> None:
    words = ["--batch", "4", "--no-stdin", "-p", "none", "cat"]
    line = " ".join([f"'{word}'" for word in shell.command("gexec", *words)])
    done = subprocess.run(
        ["sh", "-c", f"{line}; cat"], env=shell.env, input=b"for the next\n", capture_output=True, timeout=60
    )
    assert done.stdout == b"for the next\n"


def test_too_many_failures_stop_the_run_and_the_rest_can_be_run_later(shell: Shell, witness: Path) -> None:
    failed = shell.folder / "failed"
    script = f"echo $GEXEC_NODE >>{witness}; [ $GEXEC_NODE != node004 ] && [ $GEXEC_NODE != node003 ]"
    words = ["--batch", "2", "--max-failures", "1", "--failed-to", failed, "--json", "sh", "-c", script]
    done = shell.gexec(*words)
    assert done.returncode == 255
    assert sorted(witness.read_text().split()) == NAMES[:4]
    assert done.stderr.decode().splitlines() == [
        "gexec: 4 of 8 nodes not started: not tried: too many nodes have failed before (--max-failures): "
        "node[005-008]",
        "gexec: 2 of 8 nodes exited 1: node003 node004",
    ]
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["node"] for one in ends if one["event"] == "not_started"] == NAMES[4:]
    assert [line.split()[0] for line in failed.read_text().splitlines()] == NAMES[2:]
    witness.write_text("")
    assert shell.gexec("--rerun", failed, "-x", "node003,node004", "sh", "-c", script).returncode == 0
    assert sorted(witness.read_text().split()) == NAMES[4:]


@pytest.mark.parametrize(("most", "ran"), [("0", 2), ("1", 4), ("25%", 6), ("100%", 8)])
def test_as_many_failures_as_are_allowed_stop_nothing(
    shell: Shell, witness: Path, most: str, ran: int
) -> None:
    script = f"echo $GEXEC_NODE >>{witness}; exit $GEXEC_MY_VNN"  # the second of each batch fails
    done = shell.gexec("--batch", "2", "--max-failures", most, "sh", "-c", script)
    assert sorted(witness.read_text().split()) == NAMES[:ran]
    assert done.returncode == (1 if ran == 8 else 255)


# -- further attempts ---------------------------------------------------------------------------


@pytest.fixture
def start_late(cluster: Cluster, shell: Shell) -> Iterator[Callable[[], None]]:
    """Start the daemon of the node ``late``, which is not there before."""
    place = Path(tempfile.mkdtemp(prefix="gxl", dir="/tmp"))
    place.chmod(0o755)
    (place / "s").mkdir(mode=0o755)
    words: list[object] = [
        "-P", cluster.state.port, "--bind", LATE, "--socket", place / "s" / "g.sock",
        "--authd-socket", cluster.place.authd_socket, "--public-key", cluster.place.public_key,
        "--name", "late", "--name", LATE, "--hosts", shell.folder / "hosts", "--audit-log", place / "audit",
    ]  # fmt: skip
    started: list[Service] = []
    yield lambda: started.append(Service("gexecd", words, place).ready())
    for service in started:
        service.stop()
    shutil.rmtree(place, ignore_errors=True)


def test_a_node_whose_daemon_comes_up_in_time_runs_the_command_once(
    shell: Shell, witness: Path, start_late: Callable[[], None]
) -> None:
    script = f"echo $GEXEC_NODE >>{witness}; exit 1"
    words = ["-v", "--retries", "8", "--json", "-w", "node001,late", "sh", "-c", script]
    client = shell.start("gexec", *words)
    until_said(client, b"attempt 2 for 1 nodes in 1 s")
    assert witness.read_text().split() == ["node001"]
    start_late()
    out, err = end(client)
    assert client.returncode == 1, err
    assert sorted(witness.read_text().split()) == ["late", "node001"]
    ends = [json.loads(line) for line in out.splitlines()]
    assert sorted(one["node"] for one in ends if one["event"] == "exited") == ["late", "node001"]
    assert not [one for one in ends if one["event"] == "not_started"]


def test_stdin_goes_to_a_further_attempt_too(
    shell: Shell, witness: Path, start_late: Callable[[], None]
) -> None:
    client = shell.start(
        "gexec", "-v", "--retries", "8", "-w", "node001,late", "sh", "-s", stdin=subprocess.PIPE
    )
    assert client.stdin is not None
    client.stdin.write(b"echo $GEXEC_NODE >>" + bytes(witness) + b"\n")
    client.stdin.close()
    client.stdin = None
    until_said(client, b"attempt 2 for 1 nodes in 1 s")
    start_late()
    _, err = end(client)
    assert client.returncode == 0, err
    assert sorted(witness.read_text().split()) == ["late", "node001"]


def test_what_may_have_run_is_never_run_again(shell: Shell, witness: Path) -> None:
    script = (
        f"echo $GEXEC_NODE >>{witness}; case $GEXEC_NODE in node001) exit 1;; node002) kill -9 $$;;"
        "node003) exit 255;; node004) exec sleep 1000;; esac"
    )
    done = shell.gexec("--retries", "2", "--timeout", "0.5", "-n", "5", "sh", "-c", script)
    assert done.returncode == 255
    assert sorted(witness.read_text().split()) == NAMES[:5]
    # A node that answers that it has no such program was reached.
    done = shell.gexec("-v", "--retries", "2", "-n", "1", "/no/such/program")
    assert done.returncode == 127
    assert b"attempt" not in done.stderr


def test_a_node_that_stays_away_is_told_once(shell: Shell) -> None:
    done = shell.gexec("-v", "--retries", "1", "--json", "-w", "node001,dead", "true")
    assert done.returncode == 255
    said = done.stderr.decode().splitlines()
    assert [line for line in said if "attempt" in line] == ["gexec: attempt 2 for 1 nodes in 1 s"]
    events = [json.loads(line) for line in done.stdout.splitlines()]
    told = [one["event"] for one in events if one.get("node") == "dead"]
    assert told == ["not_started"]
    assert events[-1]["outcomes"]["not_started"] == 1


# -- ends ---------------------------------------------------------------------------------------


def test_interrupted_it_begins_no_further_batch_and_names_the_rest(shell: Shell, tmp_path: Path) -> None:
    mark = marker()
    files = [tmp_path / f"{name}.out" for name in ("node001", "node002")]
    words = ["--batch", "2", "-b", f"--output-dir={tmp_path}", "sh", "-c", "echo begun; exec sleep $0", mark]
    client = shell.start("gexec", *words)
    wait_until(lambda: all(file.exists() and file.read_text() for file in files), "gexec gets no output")
    client.send_signal(signal.SIGINT)
    out, err = end(client)
    assert client.returncode == 255
    assert out == b"--- node001,node002 (2) killed by signal 2\nbegun\n"
    said = err.decode().splitlines()
    assert said[0].startswith("gexec: ^C goes to all processes ")
    assert said[1:] == [
        "gexec: 6 of 8 nodes not started: the run was ended before it came to this node: node[003-008]",
        "gexec: 2 of 8 nodes killed by signal 2: node001 node002",
    ]
    wait_gone(mark)


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_a_signal_between_two_batches_ends_the_run(shell: Shell, witness: Path, name: str) -> None:
    words = ["-v", "--batch", "4", "--batch-delay", "1000", "sh", "-c", f"echo $GEXEC_NODE >>{witness}"]
    client = shell.start("gexec", *words)
    until_said(client, b"batch 2: 4 nodes in 1000 s")
    client.send_signal(getattr(signal, f"SIG{name}"))
    _, err = end(client)
    assert client.returncode == 255
    assert b"4 of 8 nodes not started: the run was ended before it came to this node: node[005-008]" in err
    assert sorted(witness.read_text().split()) == NAMES[:4]


def test_it_can_be_stopped_and_continued_between_two_batches(shell: Shell, witness: Path) -> None:
    words = ["-v", "--batch", "4", "--batch-delay", "1", "sh", "-c", f"echo $GEXEC_NODE >>{witness}"]
    client = shell.start("gexec", *words)
    until_said(client, b"batch 2: 4 nodes in 1 s")
    client.send_signal(signal.SIGTSTP)
    wait_until(lambda: state_of(client.pid) == "T", "it does not stop")
    client.send_signal(signal.SIGCONT)
    end(client)
    assert client.returncode == 0
    assert sorted(witness.read_text().split()) == NAMES


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("begun", [1, 2, 3, 4, 5])
def test_a_signal_at_any_moment_of_many_short_batches(shell: Shell, witness: Path, begun: int) -> None:
    """Whatever the run does when it is interrupted, it tells of all nodes that it has not come to."""
    failed = shell.folder / "failed"
    script = f"echo $GEXEC_NODE >>{witness}; [ $GEXEC_NODE != node008 ] || exec sleep 1000"
    client = shell.start("gexec", "--batch", "1", "--failed-to", failed, "sh", "-c", script)
    wait_until(lambda: witness.read_text().count("\n") >= begun, "nothing runs")
    client.send_signal(signal.SIGINT)
    _, err = end(client)
    ran = witness.read_text().split()
    left = [line.split()[0] for line in failed.read_text().splitlines()]
    assert client.returncode == (255 if "not started" in failed.read_text() else 130), err
    assert sorted({*ran, *left}) == NAMES
    assert len(set(ran) & set(left)) <= 1  # the one that was interrupted


def test_a_signal_while_the_next_batch_is_submitted_ends_the_run(
    shell: Shell, witness: Path, tmp_path: Path
) -> None:
    """It comes when gexec asks authd to sign the second batch."""
    client: list[subprocess.Popen[bytes]] = []
    script = f"echo $GEXEC_NODE >>{witness}; [ $GEXEC_NODE = node001 ] || exec sleep 1000"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "authd"))
        listener.listen()

        def serve() -> None:
            for batch in (1, 2):
                with listener.accept()[0] as near, socket.socket(socket.AF_UNIX) as far:
                    far.connect(shell.env["GEXEC_AUTHD_SOCKET"])
                    if batch == 2:
                        client[0].send_signal(signal.SIGINT)
                    others = {near: far, far: near}
                    while others:
                        for readable in select.select(list(others), [], [])[0]:
                            data = readable.recv(65536)
                            if data:
                                others[readable].sendall(data)
                            else:
                                others.pop(readable).shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve, daemon=True)
        env = {"GEXEC_AUTHD_SOCKET": str(tmp_path / "authd")}
        client.append(shell.start("gexec", "--batch", "1", "sh", "-c", script, env=env))
        thread.start()
        _, err = end(client[0])
        thread.join(DEADLINE_S)
    assert client[0].returncode in (130, 255), err
    assert len(witness.read_text().split()) <= 2
    assert b"the run was ended before it came to this node" in err


def test_nothing_is_left_of_a_killed_run_and_no_batch_follows(shell: Shell, witness: Path) -> None:
    mark = marker()
    script = f"echo $GEXEC_NODE >>{witness}; exec sleep $0"
    client = shell.start("gexec", "--batch", "3", "sh", "-c", script, mark)
    wait_started(mark, 3, client)
    client.kill()
    client.communicate(timeout=DEADLINE_S)
    wait_gone(mark)
    assert sorted(witness.read_text().split()) == NAMES[:3]
    assert not marked(mark)


def test_a_gexecd_that_ends_in_mid_run_is_told_with_all_that_was_not_tried(
    shell: Shell, witness: Path, tmp_path: Path
) -> None:
    """The socket is not there any more when the second batch begins."""
    socket = tmp_path / "socket"
    os.symlink(shell.env["GEXEC_SOCKET"], socket)
    words = ["--batch", "4", "--json", "sh", "-c", f"echo $GEXEC_NODE >>{witness}; rm -f {socket}"]
    done = shell.gexec(*words, env={"GEXEC_SOCKET": str(socket)})
    assert done.returncode == 255
    assert sorted(witness.read_text().split()) == NAMES[:4]
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["node"] for one in events if one["event"] == "not_started"] == NAMES[4:]
    assert events[-1]["outcomes"] | {"exited": 4, "not_started": 4} == events[-1]["outcomes"]
    assert done.stderr.startswith(b"gexec: gexecd does not run here")
