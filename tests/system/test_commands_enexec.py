"""enexec on a real cluster: the seed's manners, with gexec's options under them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from .commands import Shell
from .conftest import BIN, DEADLINE_S, Cluster
from .must_hold import sorted_lines


def test_the_shell_of_a_local_cluster_has_its_nodes(cluster: Cluster) -> None:
    """It has GEXEC_NODELIST=/dev/null, for this machine's own list is none of its."""
    assert cluster.env["GEXEC_NODELIST"] == "/dev/null"
    for words in (["enexec", "echo here"], ["enexec", "-x", "echo here"]):
        done = subprocess.run(
            [BIN / words[0], *words[1:]], env=cluster.env, capture_output=True, text=True, timeout=DEADLINE_S
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("here") in (7, 8)


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(cluster.env, tmp_path)


@pytest.fixture
def nodelist(shell: Shell) -> Path:
    """A node list file that GEXEC_NODELIST names."""
    path = shell.folder / "nodelist"
    path.write_text("# the compute nodes\nnode003\nnode001\n")
    shell.env["GEXEC_NODELIST"] = str(path)
    return path


def test_uptime_on_the_nodes_of_the_list(shell: Shell, nodelist: Path) -> None:
    done = shell.run("enexec")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = sorted_lines(done.stdout)
    assert [line.split()[0] for line in lines] == ["node001", "node003"]
    assert all("load average:" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["node003", "node001"]),
        (["-n", "node002"], ["node002"]),
        (["-n", "node004 node002"], ["node004", "node002"]),
        (["-n", "node004,node002"], ["node004", "node002"]),
        (["-w", "node[005-006]", "-n", "node001"], ["node005", "node006", "node001"]),
        (["--exclude", "node003"], ["node001"]),
        (["--nprocs", "1"], ["node003"]),
    ],
)
def test_which_nodes(shell: Shell, nodelist: Path, words: list[str], names: list[str]) -> None:
    done = shell.run("enexec", *words, "-p", "vnn", "echo $GEXEC_NODE")
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted_lines(done.stdout) == [f"{rank} {name}" for rank, name in enumerate(names)]


def test_the_node_list_comes_before_the_variable_and_the_option_before_both(
    shell: Shell, nodelist: Path
) -> None:
    assert len(shell.env["GEXEC_SVRS"].split()) == 8
    own = shell.folder / "own"
    own.write_text("node007\n")
    assert shell.run("enexec", "--nodelist", own, "echo x").stdout == b"node007 x\n"
    assert sorted_lines(shell.run("enexec", "echo x").stdout) == ["node001 x", "node003 x"]
    # gexec takes the variable first.
    assert len(shell.gexec("echo", "x").stdout.splitlines()) == 8


def test_without_a_node_list_it_takes_what_gexec_takes(shell: Shell) -> None:
    if os.path.exists("/etc/gexec/nodelist"):
        pytest.skip("this machine has a node list of its own")
    assert sorted_lines(shell.run("enexec", "echo x", env={"GEXEC_SVRS": "node006"}).stdout) == ["node006 x"]


@pytest.mark.parametrize("own", [socket.gethostname(), "localhost", "127.0.0.1"])
def test_x_leaves_this_host_out(shell: Shell, nodelist: Path, own: str) -> None:
    nodelist.write_text(f"node002\n{own}\nnode004\n")
    done = shell.run("enexec", "-x", "echo x")
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted_lines(done.stdout) == ["node002 x", "node004 x"]
    nodelist.write_text(f"{own}\n")
    done = shell.run("enexec", "-x", "echo x")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"enexec: no node is left")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["echo", "two  words"], "two words"),  # as the seed's own: the words are one line for the shell
        (["echo 'two  words'"], "two  words"),
        (["echo", "a;", "echo", "b"], "a\nb"),
        (["echo b a | tr ' ' '\\n' | sort"], "a\nb"),
        (["echo out >/dev/null; echo err >&2"], ""),
        (["echo $GEXEC_NODE-$((1 + 1))"], "node005-2"),
        (["echo $0"], "/bin/sh"),
        (["uname", "-s"], os.uname().sysname),
    ],
)
def test_the_words_are_one_line_for_the_nodes_shell(shell: Shell, words: list[str], said: str) -> None:
    done = shell.run("enexec", "-n", "node005", *words)
    assert done.returncode == 0
    assert done.stdout.decode() == "".join(f"node005 {line}\n" for line in said.splitlines())
    if "err" in words[0]:
        assert done.stderr == b"node005 err\n"


def test_exit_status_and_what_is_said_carry_its_name(shell: Shell) -> None:
    done = shell.run("enexec", "-n", "node001 node002", "exit ${GEXEC_NODE#node00}")
    assert (done.returncode, done.stdout) == (2, b"")
    assert sorted_lines(done.stderr) == ["enexec: node001: exited 1", "enexec: node002: exited 2"]
    done = shell.run("enexec", "-n", "node001", "no-such-program 2>/dev/null")
    assert done.returncode == 127  # the node's shell says so
    done = shell.run("enexec", "-n", "dead", "true")
    assert done.returncode == 255
    assert done.stderr.startswith(b"enexec: dead: not started: connection refused")
    done = shell.run("enexec", "--frobnicate")
    assert (done.returncode, done.stderr) == (
        2,
        b"enexec: unknown option --frobnicate: enexec -h lists the options\n",
    )
    assert shell.run("enexec", "-s").returncode == 2  # that is ensh's
    done = shell.run("enexec", "-n", "node001", "--", "-x")
    assert done.returncode == 127  # a command that is not there, and no option of the node's shell


def test_gexecs_options_under_their_long_names(shell: Shell, nodelist: Path) -> None:
    done = shell.run("enexec", "-b", "echo same")
    assert done.stdout == b"--- node003,node001 (2)\nsame\n"
    done = shell.run("enexec", "--json", "--batch", "1", "--output-dir", shell.folder / "out", "echo x")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["node"] for one in events if one["event"] == "exited"] == ["node003", "node001"]
    assert (shell.folder / "out" / "node003.out").read_bytes() == b"x\n"
    failed = shell.folder / "failed"
    done = shell.run("enexec", "--failed-to", failed, "[ $GEXEC_NODE = node001 ]")
    assert (done.returncode, failed.read_text()) == (1, "node003  # exited 1\n")
    assert shell.run("enexec", "--rerun", failed, "echo again").stdout == b"node003 again\n"
    done = shell.run("enexec", "--dry-run", "echo 'a  b' | wc")
    assert done.stdout.decode().splitlines()[0] == "# /bin/sh -c 'echo '\\''a  b'\\'' | wc'"
    assert shell.run("enexec", "-p", "none", "--nprocs", "1", "cat", input=b"in\n").stdout == b"in\n"
    assert shell.run("enexec", "--timeout", "0.2", "sleep 1000").returncode == 124
    assert shell.run("enexec", "-d", "echo x").stdout == b""
