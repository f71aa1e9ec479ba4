"""ensh over a real sshd: the manners of enexec before any gexecd is there."""

from __future__ import annotations

import json
import os
import shlex
import socket
from pathlib import Path

import pytest

from .commands import Shell, until_said
from .conftest import wait_until
from .must_hold import end, marked, marker, sorted_lines, wait_gone, wait_started
from .sshd import Sshd


@pytest.fixture
def shell(sshd: Sshd, tmp_path: Path) -> Shell:
    return shell_of(sshd, tmp_path)


def shell_of(sshd: Sshd, folder: Path) -> Shell:
    """No gexecd anywhere, and ssh knows where node1 to node8 are."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}
    return Shell(clean | {"GEXEC_SSH": shlex.join(sshd.ssh)}, folder)


def nodelist(shell: Shell, *names: str) -> Shell:
    """Give a shell a node list file."""
    path = shell.folder / "nodelist"
    path.write_text("".join(f"{name}\n" for name in names))
    shell.env["GEXEC_NODELIST"] = str(path)
    return shell


def test_uptime_on_the_nodes_of_the_list(shell: Shell) -> None:
    done = nodelist(shell, "node1", "node2").run("ensh")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = sorted_lines(done.stdout)
    assert [line.split()[0] for line in lines] == ["node1", "node2"]
    assert all("load average:" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["-n", "node3"], ["node3"]),
        (["-n", "node4 node2"], ["node4", "node2"]),
        (["-w", "node[5-6],node1"], ["node5", "node6", "node1"]),
        (["--exclude", "node1"], ["node2"]),
    ],
)
def test_which_nodes(shell: Shell, words: list[str], names: list[str]) -> None:
    done = nodelist(shell, "node1", "node2").run("ensh", *words, "-p", "vnn", "echo $GEXEC_NODE")
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted_lines(done.stdout) == [f"{rank} {name}" for rank, name in enumerate(names)]


def test_x_leaves_this_host_out(shell: Shell) -> None:
    done = nodelist(shell, "node2", socket.gethostname(), "localhost").run("ensh", "-x", "echo x")
    assert (done.returncode, done.stdout) == (0, b"node2 x\n")


def test_the_words_are_one_line_for_the_nodes_shell(shell: Shell) -> None:
    done = shell.run("ensh", "-n", "node3", "echo 'a  b' | sed s/a/$GEXEC_NODE/; echo err >&2; exit 3")
    assert (done.returncode, done.stdout) == (3, b"node3 node3  b\n")
    assert sorted_lines(done.stderr) == ["ensh: node3: exited 3", "node3 err"]


def test_one_after_the_other_in_the_order_of_the_list(shell: Shell) -> None:
    witness = shell.folder / "witness"
    line = f"echo begin $GEXEC_NODE >>{witness}; sleep 0.05; echo end $GEXEC_NODE >>{witness}"
    done = shell.run("ensh", "-s", "-n", "node4 node2 node[7-8]", line)
    assert done.returncode == 0, done.stderr
    order = ["node4", "node2", "node7", "node8"]
    assert witness.read_text().splitlines() == [
        f"{what} {name}" for name in order for what in ("begin", "end")
    ]


def test_batches_and_what_stops_them(shell: Shell) -> None:
    witness = shell.folder / "witness"
    failed = shell.folder / "failed"
    line = f"echo $GEXEC_NODE >>{witness}; exit 1"
    words = ["--batch", "2", "--max-failures", "0", "--failed-to", failed, "-n", "node[1-5]", line]
    done = shell.run("ensh", *words)
    assert done.returncode == 255
    assert sorted(witness.read_text().split()) == ["node1", "node2"]
    assert b"3 of 5 nodes not started: not tried: too many nodes have failed before" in done.stderr
    assert [text.split()[0] for text in failed.read_text().splitlines()] == [f"node{n}" for n in range(1, 6)]
    done = shell.run("ensh", "--rerun", failed, "--batch", "40%", "--json", "true")
    events = [json.loads(text) for text in done.stdout.splitlines()]
    exits = [one["rank"] for one in events if one["event"] == "exited"]
    assert sorted(exits[:2]) == [0, 1]
    assert sorted(exits) == list(range(5))


def test_groups_files_and_json(shell: Shell) -> None:
    out = shell.folder / "out"
    done = shell.run("ensh", "-b", "--output-dir", out, "-n", "node[1-4]", "echo same")
    assert (done.returncode, done.stdout) == (0, b"--- node[1-4] (4)\nsame\n")
    assert sorted(path.name for path in out.iterdir()) == [f"node{number}.out" for number in range(1, 5)]
    done = shell.run("ensh", "--json", "-n", "node1", "printf '\\000\\377'")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["base64"] for one in events if one["event"] == "stdout"] == ["AP8="]
    assert shell.run("ensh", "-n", "node1", "cat", input=b"in\n").stdout == b"node1 in\n"


def test_nodes_that_cannot_be_reached_have_their_reasons(shell: Shell) -> None:
    failed = shell.folder / "failed"
    words = ["--failed-to", failed, "-n", "node1,no..such,stranger,nologin"]
    done = shell.run("ensh", *words, "echo x")
    assert (done.returncode, done.stdout) == (255, b"node1 x\n")
    said = done.stderr.decode()
    assert "ensh: no..such: not started: " in said
    assert "ensh: stranger: " in said
    assert "Permission denied" in said
    assert "ensh: nologin: not started: " in said
    assert [line.split()[0] for line in failed.read_text().splitlines()] == [
        "no..such",
        "stranger",
        "nologin",
    ]


def test_a_node_that_is_not_reached_is_tried_again_and_told_once(shell: Shell) -> None:
    done = shell.run("ensh", "-v", "--retries", "1", "--json", "-n", "node1,no..such", "true")
    assert done.returncode == 255
    assert b"attempt 2 for 1 nodes" in done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["event"] for one in events if one.get("node") == "no..such"] == ["not_started"]


def test_options_for_ssh(shell: Shell, sshd: Sshd) -> None:
    done = shell.run("ensh", "-n", "node1", "-o", "ConnectTimeout=nonsense", "true")
    assert done.returncode == 255
    assert b"ensh: node1: " in done.stderr
    done = shell.run(
        "ensh", "-n", "node1", "-o", "SetEnv=GEXEC_TEST=1", "--ssh-option", "LogLevel=ERROR", "echo x"
    )
    assert (done.returncode, done.stdout) == (0, b"node1 x\n")
    done = shell.run("ensh", "-n", "node1", "-l", "no-such-user", "echo x")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"ensh: node1: denied: " in done.stderr or b"ensh: node1: not started: " in done.stderr
    done = shell.run("ensh", "-n", "node1", "-P", "1", "echo x")
    assert done.returncode == 255
    assert b"refused" in done.stderr
    assert shell.run("ensh", "-n", "node1", "-P", sshd.port, "echo x").returncode == 0
    assert shell.run("ensh", "-n", f"node1:{sshd.port}", "-p", "none", "echo x").stdout == b"x\n"


def test_verbose_and_dry_run(shell: Shell) -> None:
    done = shell.run("ensh", "-v", "-n", "node1 node2", "true")
    said = done.stderr.decode().splitlines()
    assert said[0] == "ensh: 2 nodes from -w: /bin/sh"
    assert said[1].startswith("ensh: 2 of 2 started after ")
    assert said[2].startswith("ensh: done after ")
    witness = shell.folder / "witness"
    done = shell.run("ensh", "--dry-run", "-n", "node1:22 node2", f"touch {witness}")
    assert done.returncode == 0
    assert not witness.exists()
    assert [line.split()[0] for line in done.stdout.decode().splitlines()[2:]] == ["node1:22", "node2"]
    plan = shell.folder / "plan"
    plan.write_bytes(shell.run("ensh", "--dry-run", "-n", "node4 node2", "true").stdout)
    assert sorted_lines(shell.run("ensh", "--nodelist", plan, "echo x").stdout) == ["node2 x", "node4 x"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-p", "ip"], "ensh: option -p ip: it is ssh that looks the addresses up; use -p host"),
        (["-d"], "ensh: unknown option -d: ensh -h lists the options"),
        (["--strict"], "ensh: unknown option --strict: ensh -h lists the options"),
        (["-n", "-oProxyCommand=x"], "ensh: "),
        (["-f", "0"], "ensh: option -f/--fanout: expected a whole number from 1"),
    ],
)
def test_wrong_words(shell: Shell, words: list[str], sentence: str) -> None:
    done = shell.run("ensh", *words, f"touch {shell.folder}/witness")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith(sentence)
    assert done.stderr.count(b"\n") == 1
    assert not (shell.folder / "witness").exists()


def test_without_ssh_it_says_so(shell: Shell) -> None:
    done = shell.run("ensh", "-n", "node1", "true", env={"GEXEC_SSH": "no-such-ssh"})
    assert done.returncode == 2
    assert done.stderr.startswith(b"ensh: no-such-ssh is not found in PATH: ")


def test_a_time_out_and_signals_end_the_commands(shell: Shell) -> None:
    assert shell.run("ensh", "--timeout", "0.3", "-n", "node[1-2]", "sleep 1000").returncode == 124
    mark = marker()
    client = shell.start("ensh", "--batch", "2", "-n", "node[1-3]", f"sleep {mark}")
    wait_started(f"sleep\0{mark}", 2, client)
    client.send_signal(2)
    _, err = end(client)
    assert client.returncode == 255
    assert b"ensh: node3: not started: the run was ended before it came to this node" in err
    wait_gone(mark)
    assert not marked(mark)
    client = shell.start("ensh", "-v", "-n", "node[1-2]", f"sleep {mark}")
    until_said(client, b"2 of 2 started")
    client.kill()
    client.communicate()
    wait_gone(mark)


def test_a_node_that_drops_connections_is_not_down_and_one_that_refuses_them_is(tmp_path: Path) -> None:
    server = Sshd(startups=2)
    try:
        shell = shell_of(server, tmp_path)
        place = ("127.0.87.3", server.port)
        with socket.create_connection(place) as one, socket.create_connection(place) as other:
            assert one.recv(4) == other.recv(4) == b"SSH-"  # both count
            done = shell.run("ensh", "-n", "node1", "true")
        assert b"ensh: node1: not started: " in done.stderr, done.stderr
        assert not (tmp_path / "cache" / "gexec" / "down").exists()
        wait_until(lambda: shell.run("ensh", "-n", "node1", "--skip-down", "true").returncode == 0, "dropped")
        server.process.terminate()
        server.process.wait()
        assert shell.run("ensh", "-n", "node1", "true").returncode == 255
        assert "node1" in (tmp_path / "cache" / "gexec" / "down").read_text()
    finally:
        server.stop()
