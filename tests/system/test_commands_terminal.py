"""gexec on a real terminal: progress that disturbs nothing, and stdin of a job in the background."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .commands import Shell, Terminal, screen
from .conftest import DEADLINE_S, Cluster, wait_until

_GATED = "while [ ! -e {gate} ]; do sleep 0.05; done; "


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(cluster.env, tmp_path)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that the processes wait for."""
    return tmp_path / "gate"


def test_progress_is_drawn_on_stderr_and_leaves_nothing_behind(shell: Shell, gate: Path) -> None:
    terminal = Terminal()
    script = f"[ $GEXEC_MY_VNN != 0 ] || exit 3; {_GATED.format(gate=gate)} echo out; echo err >&2"
    client = shell.start("gexec", "-p", "host", "sh", "-c", script, stderr=terminal.fd)
    terminal.close()
    terminal.wait_for(b"still running: node[002-008]")
    drawn = screen(terminal.written)
    assert len(drawn) == 2
    assert re.search(r"1/8 done, 1 failed, 7 running, \d+ s$", drawn[0])
    gate.touch()
    out, _ = client.communicate(timeout=DEADLINE_S)
    names = [f"node{number:03d}" for number in range(2, 9)]
    assert sorted(out.decode().splitlines()) == [f"{name} out" for name in names]
    lines = terminal.end()
    assert sorted(lines[:7]) == [f"{name} err" for name in names]
    assert lines[7:] == ["gexec: node001: exited 3"]


def test_lines_that_come_while_progress_is_drawn_are_whole(shell: Shell, gate: Path) -> None:
    terminal = Terminal()
    # More lines only after something was drawn, on both streams of the same terminal.
    script = (
        f"{_GATED.format(gate=gate)} for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; sleep 0.2; done"
    )
    words = ["-p", "none", "-n", "3", "--color=never", "sh", "-c", script]
    client = shell.start("gexec", *words, stdout=terminal.fd, stderr=terminal.fd)
    terminal.close()
    terminal.wait_for(b"0/3 done")
    gate.touch()
    assert client.wait(DEADLINE_S) == 0
    said = [f"{stream} {number}" for stream in ("err", "out") for number in range(1, 6)]
    assert sorted(terminal.end()) == sorted(said * 3)


@pytest.mark.parametrize("stream", ["", " >&2"])
def test_an_unfinished_line_is_never_drawn_over(shell: Shell, stream: str) -> None:
    terminal = Terminal()
    # The first leaves its line without an end; the other runs on for longer than progress waits.
    script = f"if [ $GEXEC_MY_VNN = 0 ]; then printf unfinished{stream}; else sleep 1.6; fi"
    client = shell.start(
        "gexec", "-n", "2", "-p", "host", "sh", "-c", script, stdout=terminal.fd, stderr=terminal.fd,
        env={"NO_COLOR": "1"},
    )  # fmt: skip
    terminal.close()
    assert client.wait(DEADLINE_S) == 0
    assert [line.rstrip() for line in terminal.end()] == ["node001 unfinished"]
    assert b"done" not in terminal.written


def test_no_progress_where_nobody_wants_or_sees_it(shell: Shell) -> None:
    cases: list[tuple[list[str], dict[str, str]]] = [
        (["--no-progress", "-n", "2"], {}),
        (["-n", "2"], {"TERM": "dumb"}),
        (["-n", "1", "-p", "none"], {}),  # bytes pass as they come, lines or not
    ]
    started = []
    for words, env in cases:
        terminal = Terminal()
        client = shell.start("gexec", *words, "sleep", "1.6", stderr=terminal.fd, env=env)
        terminal.close()
        started.append((client, terminal))
    piped = shell.start("gexec", "-n", "2", "sleep", "1.6")
    for client, terminal in started:
        assert client.communicate(timeout=DEADLINE_S)[0] == b""
        assert terminal.end() == []
        assert terminal.written == b""
    assert piped.communicate(timeout=DEADLINE_S) == (b"", b"")


def test_progress_counts_all_batches_together(shell: Shell, gate: Path) -> None:
    terminal = Terminal()
    script = f"case $GEXEC_NODE in node00[78]) {_GATED.format(gate=gate)};; esac"
    client = shell.start("gexec", "--batch", "2", "sh", "-c", script, stderr=terminal.fd)
    terminal.close()
    terminal.wait_for(b"still running: node007 node008")
    assert "6/8 done, 2 running" in screen(terminal.written)[0]
    gate.touch()
    client.communicate(timeout=DEADLINE_S)
    assert client.returncode == 0
    assert terminal.end() == []


def test_the_first_interrupt_is_told_on_a_line_of_its_own(shell: Shell, gate: Path) -> None:
    terminal = Terminal()
    begun = shell.folder / "begun"
    script = f"trap '' INT; echo $GEXEC_NODE >>{begun}; {_GATED.format(gate=gate)}"
    client = shell.start("gexec", "-n", "2", "sh", "-c", script, stderr=terminal.fd)
    terminal.close()
    terminal.wait_for(b"0/2 done, 2 running")
    wait_until(lambda: begun.exists() and begun.read_text().count("\n") == 2, "the processes do not begin")
    client.send_signal(signal.SIGINT)
    terminal.wait_for(b"2 of 2 still run: node001 node002")
    gate.touch()
    client.communicate(timeout=DEADLINE_S)
    assert client.returncode == 0
    # 80 columns here; the sentence is one line.
    assert terminal.end() == [
        "gexec: ^C goes to all processes (^C once more within a second kills them); "
        "2 of 2 still run: node001 node002"
    ]


def test_a_terminal_that_goes_away_does_not_end_what_does_not_need_it(shell: Shell, gate: Path) -> None:
    ours, theirs = pty.openpty()
    script = f"{_GATED.format(gate=gate)} echo x"
    client = shell.start("gexec", "-n", "2", "sh", "-c", script, stderr=theirs)
    os.close(theirs)
    drawn = b""
    while b"0/2 done" not in drawn:
        drawn += os.read(ours, 65536)
    os.close(ours)
    gate.touch()
    out, _ = client.communicate(timeout=DEADLINE_S)
    assert (client.returncode, sorted(out.splitlines())) == (0, [b"0 x", b"1 x"])


_BACKGROUND = """
import os, signal, subprocess, sys
os.setsid()
terminal = os.open(sys.argv[1], os.O_RDWR)  # the first that a session opens is its own
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = subprocess.Popen(sys.argv[2:], stdin=terminal, process_group=0)
print(job.pid, flush=True)  # we stay in the foreground; the job is in the background
sys.exit(job.wait())
"""


def test_a_job_in_the_background_is_not_stopped_by_its_terminal(shell: Shell, gate: Path) -> None:
    terminal = Terminal()
    begun = shell.folder / "begun"
    script = f"echo $GEXEC_NODE >>{begun}; {_GATED.format(gate=gate)} echo x"
    words = shell.command("gexec", "-n", "2", "sh", "-c", script)
    parent = subprocess.Popen(
        [sys.executable, "-c", _BACKGROUND, os.ttyname(terminal.fd), *words],
        env=shell.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    try:
        terminal.type(b"for somebody else\n")
        wait_until(lambda: begun.exists() and begun.read_text().count("\n") == 2, "nothing runs")
        gate.touch()
        out, err = parent.communicate(timeout=DEADLINE_S)
    finally:
        if parent.poll() is None:
            os.kill(pid, signal.SIGKILL)
            parent.kill()
            parent.communicate()
    assert (parent.returncode, sorted(out.splitlines()), err) == (0, [b"0 x", b"1 x"], b"")
    terminal.close()
    terminal.end()
