"""The options of the command lines that say what is shown, and the exit status, on a real cluster."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .commands import Shell, Terminal, until_said
from .conftest import DEADLINE_S, Cluster

_MIB = 1024 * 1024
#: What each of the ranks 0 to 4 does: binary, empty, 1 MiB on one line, failing, killed.
_MIXED = f"""
case $GEXEC_MY_VNN in
0) printf '\\000\\001\\377\\n\\n\\r\\nlast';;
1) ;;
2) head -c {_MIB} /dev/zero | tr '\\0' x; echo; echo short;;
3) echo out; echo err >&2; exit 7;;
4) echo almost; kill -9 $$;;
esac
"""
_NAMES = [f"node{number:03d}" for number in range(1, 6)]
_WRITTEN = {
    "node001": b"\0\1\xff\n\n\r\nlast",
    "node002": b"",
    "node003": b"x" * _MIB + b"\nshort\n",
    "node004": b"out\n",
    "node005": b"almost\n",
}
_SUMMARY = """\
gexec: dead: not started: connection refused (gexecd does not run there)
gexec: node004: exited 7
gexec: node005: killed by signal 9
"""


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(cluster.env, tmp_path)


def events_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def streams_of(events: list[dict[str, Any]], event: str = "stdout") -> dict[str, bytes]:
    """Return what each node wrote to a stream, as docs/output.md says."""
    streams: dict[str, bytes] = {}
    for one in events:
        if one["event"] == event:
            whole = streams.setdefault(one["node"], b"")
            assert one["offset"] == len(whole)
            piece = one["text"].encode() if "text" in one else base64.b64decode(one["base64"])
            streams[one["node"]] = whole + piece + b"\n" * one["newline"]
    return streams


def ends_of(events: list[dict[str, Any]]) -> dict[str, str]:
    """Return how each node ended; each must have ended once."""
    ends: dict[str, str] = {}
    for one in events:
        if one["event"] not in ("job", "started", "stdout", "stderr", "end"):
            assert one["node"] not in ends
            ends[one["node"]] = one["event"]
    return ends


# -- one run in all forms -----------------------------------------------------------------------


@pytest.fixture
def mixed(shell: Shell) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run what is binary, empty, long, failing, killed, and not started."""

    def run(*words: object) -> subprocess.CompletedProcess[bytes]:
        done = shell.gexec(*words, "-w", ",".join([*_NAMES, "dead"]), "sh", "-c", _MIXED)
        assert done.returncode == 255
        assert done.stderr.decode().endswith(_SUMMARY)
        return done

    return run


Mixed = Callable[..., subprocess.CompletedProcess[bytes]]


def test_lines_agree_with_what_was_written(mixed: Mixed) -> None:
    done = mixed("-p", "host")
    assert done.stderr == b"node004 err\n" + _SUMMARY.encode()
    said: dict[str, list[bytes]] = {name: [] for name in _NAMES}
    for line in done.stdout.removesuffix(b"\n").split(b"\n"):
        name, _, rest = line.partition(b" ")
        said[name.decode()].append(rest)
    expected = {
        name: data.removesuffix(b"\n").split(b"\n") if data else [] for name, data in _WRITTEN.items()
    }
    assert said == expected


def test_json_agrees_with_what_was_written_and_the_files_with_json(mixed: Mixed, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "out"
    done = mixed("--json", "--output-dir", directory)
    assert done.stderr == _SUMMARY.encode()
    job, *between, end = events_of(done.stdout)
    assert [node["node"] for node in job["nodes"]] == [*_NAMES, "dead"]
    assert {"node002": b""} | streams_of(between) == _WRITTEN
    assert streams_of(between, "stderr") == {"node004": b"err\n"}
    ends = dict(zip(_NAMES, ["exited", "exited", "exited", "exited", "killed"], strict=True))
    assert ends_of(between) == ends | {"dead": "not_started"}
    assert (end["event"], end["exit_status"], end["succeeded"]) == ("end", 255, 3)
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert files == {f"{name}.out": data for name, data in _WRITTEN.items()} | {"node004.err": b"err\n"}


def test_groups_agree_with_what_was_written_and_with_the_files(mixed: Mixed, tmp_path: Path) -> None:
    done = mixed("-b", "--output-dir", tmp_path)
    assert done.stderr == b"--- node004 (1) exited 7 stderr\nerr\n" + _SUMMARY.encode()
    groups = {}
    for group in done.stdout.split(b"--- ")[1:]:
        heading, _, content = group.partition(b"\n")
        groups[heading.decode()] = content
    assert groups == {
        "node001 (1)": _WRITTEN["node001"] + b"\n",
        "node003 (1)": _WRITTEN["node003"],
        "node004 (1) exited 7": b"out\n",
        "node005 (1) killed by signal 9": b"almost\n",
    }
    for name, data in _WRITTEN.items():
        assert (tmp_path / f"{name}.out").read_bytes() == data


def test_a_node_that_is_lost_in_mid_run(cluster_of: Callable[..., Cluster], tmp_path: Path) -> None:
    """Its output so far counts everywhere, it is told as lost, and --retries never run it again."""
    own = cluster_of(2)
    shell = Shell(own.env, tmp_path)
    witness = tmp_path / "witness"
    daemon = own.daemon("node002")[0].pid
    script = (
        f"echo $GEXEC_NODE >>{witness}; echo before;"
        f"[ $GEXEC_NODE = node001 ] || {{ sleep 0.5; kill -9 {daemon}; sleep 1000; }}"
    )
    words = ["--json", "--output-dir", tmp_path / "out", "--failed-to", tmp_path / "failed", "--retries", "2"]
    done = shell.gexec(*words, "sh", "-c", script)
    events = events_of(done.stdout)
    assert (done.returncode, events[-1]["exit_status"]) == (255, 255)
    assert ends_of(events) == {"node001": "exited", "node002": "lost"}
    assert streams_of(events) == {"node001": b"before\n", "node002": b"before\n"}
    assert (tmp_path / "out" / "node002.out").read_bytes() == b"before\n"
    assert done.stderr.startswith(b"gexec: node002: lost: ")
    assert (tmp_path / "failed").read_text().startswith("node002  # lost: ")
    assert sorted(witness.read_text().split()) == ["node001", "node002"]


# -- each form's options ------------------------------------------------------------------------


def test_equal_output_once_and_live(shell: Shell) -> None:
    script = "echo same; [ $GEXEC_MY_VNN != 5 ] || { echo odd; exit 3; }"
    done = shell.gexec("-b", "sh", "-c", script)
    assert done.returncode == 3
    assert done.stdout.decode().splitlines() == [
        "--- node[001-005,007-008] (7)", "same",
        "--- node006 (1) exited 3", "same", "odd",
    ]  # fmt: skip
    live = shell.gexec("--gather", "--live", "-n", "2", "echo", "x").stdout.decode().splitlines()
    assert live[0].startswith("--- [1] node00")
    assert live[1] == "x"


def test_what_differs(shell: Shell) -> None:
    words = ["sh", "-c", "echo a; echo $((GEXEC_MY_VNN / 7))"]
    changes = ["@@ -1,2 +1,2 @@", " a", "-0", "+1"]
    assert shell.gexec("--diff", *words).stdout.decode().splitlines() == [
        "--- node[001-007] (7)", "+++ node008 (1)", *changes,
    ]  # fmt: skip
    named = shell.gexec("--diff=node008", *words).stdout.decode().splitlines()
    assert named[:2] == ["--- node008 (1)", "+++ node[001-007] (7)"]
    assert shell.gexec("--diff", "echo", "x").stdout == b""
    assert b"\nx\n" in shell.gexec("-b", "--diff", "echo", "x").stdout


def test_quiet_and_summary(shell: Shell) -> None:
    script = "echo out; echo err >&2; exit $((GEXEC_MY_VNN / 7))"
    done = shell.gexec("--quiet", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"gexec: node008: exited 1\n")
    done = shell.gexec("--quiet", "--summary", "sh", "-c", script)
    assert done.stderr.decode().splitlines() == [
        "gexec: 7 of 8 nodes exited 0: node[001-007]",
        "gexec: node008: exited 1",
    ]
    done = shell.gexec("--summary", "-n", "1", "echo", "x")
    assert (done.stdout, done.stderr) == (b"0 x\n", b"gexec: node001: exited 0\n")


@pytest.mark.parametrize(
    ("words", "prefix"),
    [
        (["-p", "none"], ""),
        (["-p", "vnn"], "0 "),
        (["-p", "h"], "node001 "),
        (["--prefix-type=HOST"], "node001 "),
        (["-p", "ip"], "127."),
        (["-p", "h", "--batch", "1"], "node001 "),
        (["-p", "N", "--batch", "1"], ""),
    ],
)
def test_what_stands_before_each_line(shell: Shell, words: list[str], prefix: str) -> None:
    done = shell.gexec(*words, "-n", "1", "echo", "x")
    said = done.stdout.decode()
    assert said.startswith(f"{prefix}x" if not prefix.startswith("127") else prefix)
    assert said.endswith("x\n")


@pytest.mark.parametrize(
    ("words", "env", "coloured"),
    [
        ([], {}, False),
        (["--color=auto"], {}, False),
        (["--color=never"], {}, False),
        (["--color=always"], {}, True),
        (["--color=always"], {"NO_COLOR": "1", "TERM": "dumb"}, True),
    ],
)
def test_colour_in_a_pipe(shell: Shell, words: list[str], env: dict[str, str], coloured: bool) -> None:
    for form in ([], ["-b"]):
        done = shell.gexec(*words, *form, "-n", "1", "echo", "x", env=env)
        assert (b"\x1b[" in done.stdout) is coloured
        assert done.stdout.endswith(b"x\n")


@pytest.mark.parametrize(
    ("words", "env", "coloured"),
    [
        ([], {}, True),
        ([], {"NO_COLOR": "1"}, False),
        ([], {"TERM": "dumb"}, False),
        (["--color=never"], {}, False),
        (["--color=always"], {"NO_COLOR": "1"}, True),
    ],
)
def test_colour_and_columns_on_a_terminal(
    shell: Shell, words: list[str], env: dict[str, str], coloured: bool
) -> None:
    terminal = Terminal()
    names = ["-p", "host", "-w", "node001,a-longer-name..than-that"]
    client = shell.start("gexec", *words, *names, "echo", "x", stdout=terminal.fd, env=env)
    terminal.close()
    client.communicate(timeout=DEADLINE_S)
    assert terminal.end() == ["node001" + " " * 17 + " x"]
    assert (b"\x1b[" in terminal.written) is coloured


# -- the exit status ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "nodes", "status"),
    [
        (None, "node[001-008]", 7),
        ("worst", "node[001-008]", 7),
        ("any", "node[001-008]", 0),
        ("any", "node[002-003],dead", 255),
        ("ok-if 1", "node001,dead", 0),
        ("ok-if=2", "node001,dead", 255),
        ("ok-if 50%", "node001,node002", 0),
        ("ok-if 51%", "node001,node002", 1),
        ("ok-if:2", "node001,node002", 1),
    ],
)
def test_exit_policies(shell: Shell, policy: str | None, nodes: str, status: int) -> None:
    script = "exit ${GEXEC_NODE#node00}"  # the node's number
    words: list[object] = [] if policy is None else ["--exit-policy", policy]
    done = shell.gexec(*words, "--json", "-w", nodes, "sh", "-c", f"n=$(({script[5:]} - 1)); exit $n")
    assert done.returncode == status
    assert events_of(done.stdout)[-1]["exit_status"] == status


# -- readers that go away, and disks that are full ----------------------------------------------

_FORMS = [[], ["-b"], ["--diff=node001"], ["--json"], ["--batch", "3"], ["--batch", "3", "-b"],
          ["--batch", "3", "--json"], ["--output-dir", "out"]]  # fmt: skip


@pytest.mark.parametrize("words", _FORMS, ids=" ".join)
def test_a_reader_that_goes_away_ends_every_form(shell: Shell, cluster: Cluster, words: list[str]) -> None:
    # Groups are shown at the end, so there it must come; it is more than a pipe holds.
    endless = "-b" not in words and "--diff=node001" not in words
    script = "exec yes" if endless else 'seq 9000 | sed "s/^/$GEXEC_NODE /"'
    client = shell.start("gexec", *words, "sh", "-c", script, cwd=shell.folder)
    assert client.stdout is not None
    assert client.stdout.readline()
    client.stdout.close()
    assert client.stderr is not None
    try:
        assert client.wait(DEADLINE_S) == 141
        assert client.stderr.read() == b""
    finally:
        client.kill()
        client.stderr.close()


@pytest.mark.parametrize("words", _FORMS[:-1], ids=" ".join)
def test_a_full_disk_is_told_in_every_form(shell: Shell, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = shell.gexec(*words, "sh", "-c", "echo $GEXEC_NODE", stdout=full)
    said = done.stderr.decode().splitlines()
    assert done.returncode == 255
    assert said[0].startswith("gexec: cannot write stdout: No space left on device")


# -- the rest of --help-all ---------------------------------------------------------------------


def test_verbose_says_who_chose_and_how_it_went(shell: Shell) -> None:
    done = shell.gexec("-v", "-n", "2", "true")
    said = done.stderr.decode().splitlines()
    assert [line.rstrip("0123456789. ms") for line in said] == [
        f"gexec: 2 nodes from GEXEC_SVRS: {_which('true')}".rstrip("0123456789. ms"),
        "gexec: 2 of 2 started after",
        "gexec: done after",
    ]


def _which(name: str) -> str:
    return next(
        path for folder in os.environ["PATH"].split(":") if os.access(path := f"{folder}/{name}", os.X_OK)
    )


def test_time_outs_directory_port_fanout_and_stdin(shell: Shell) -> None:
    done = shell.gexec("--timeout", "0.2", "-n", "2", "sleep", "1000")
    assert done.returncode == 124
    assert done.stderr.startswith(b"gexec: 2 of 2 nodes timed out")
    assert shell.gexec("--chdir", "/tmp", "-n", "1", "-p", "none", "pwd").stdout == b"/tmp\n"
    assert shell.gexec("-P", "1", "-n", "2", "true").returncode == 255
    assert len(shell.gexec("-f", "1", "echo", "x").stdout.splitlines()) == 8
    assert shell.gexec("--no-stdin", "-n", "1", "cat", input=b"x").stdout == b""
    assert shell.gexec("--remote-path", "-n", "1", "echo", "x").stdout == b"0 x\n"


def test_a_node_that_does_not_answer_is_not_waited_for(shell: Shell) -> None:
    # Connections to a listener whose queue is full are neither accepted nor refused.
    with socket.socket() as silent:
        silent.bind(("127.250.9.2", 0))
        silent.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        done = shell.gexec(
            "--connect-timeout", "0.3", "-w", f"node001,late:{silent.getsockname()[1]}", "echo", "x"
        )
        for filler in fillers:
            filler.close()
    assert (done.returncode, done.stdout) == (255, b"0 x\n")
    assert done.stderr.startswith(b"gexec: late: not started: "), done.stderr


def test_detached_and_strict(shell: Shell) -> None:
    witness = shell.folder / "witness"
    done = shell.gexec("--strict", "-w", "node001,dead", "touch", witness)
    assert (done.returncode, witness.exists()) == (255, False)
    done = shell.gexec("-d", "-v", "-n", "1", "echo", "x")
    assert (done.returncode, len(done.stdout)) == (0, 13)  # the job's id


def test_interrupted_it_says_who_runs_and_the_job_goes_on(shell: Shell) -> None:
    gate = shell.folder / "gate"
    script = f"trap '' INT; echo ready; while [ ! -e {gate} ]; do sleep 0.05; done; echo through"
    client = shell.start("gexec", "-v", "-n", "2", "-p", "host", "sh", "-c", script)
    until_said(client, b"2 of 2 started")
    assert client.stdout is not None
    assert client.stderr is not None
    for _ in range(2):
        client.stdout.readline()
    client.send_signal(signal.SIGINT)
    assert client.stderr.readline().decode() == (
        "gexec: ^C goes to all processes (^C once more within a second kills them); "
        "2 of 2 still run: node001 node002\n"
    )
    gate.touch()
    out, _ = client.communicate(timeout=DEADLINE_S)
    assert (client.returncode, sorted(out.splitlines())) == (0, [b"node001 through", b"node002 through"])
