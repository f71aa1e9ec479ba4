"""The gexec command and the Python API over eight real daemons."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import gexec

from .conftest import DEADLINE_S, Cluster, wait_until


def lines_of(data: bytes) -> list[str]:
    return sorted(data.decode().splitlines())


def test_the_client_uses_unix_sockets_only(cluster: Cluster) -> None:
    """If the nodes' addresses are known: a datagram socket asks for this host's own, and sends nothing."""
    program = (
        "import os, socket, sys\n"
        "told = os.dup(2)\n"
        "def hook(event, words):\n"
        "    if event == 'socket.__new__' and words[2] & socket.SOCK_STREAM:\n"
        "        os.write(told, b'family %d\\n' % words[1])\n"
        "    elif event.startswith('socket.send'):\n"
        "        os.write(told, b'datagram\\n')\n"
        "sys.addaudithook(hook)\n"
        "from gexec.cli.gexec import main\n"
        "sys.exit(main(['-n', '0', 'true']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=cluster.env, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [f"family {int(socket.AF_UNIX)}"] * 2


def test_eight_lines_on_each_stream_and_the_highest_status(cluster: Cluster) -> None:
    script = "echo out; echo err >&2; exit $GEXEC_MY_VNN"
    ended = cluster.gexec("-n", "0", "-p", "host", "sh", "-c", script)
    assert ended.returncode == 7
    assert lines_of(ended.stdout) == [f"{name} out" for name in cluster.names]
    said = ended.stderr.decode().splitlines()
    assert sorted(said[:8]) == [f"{name} err" for name in cluster.names]
    assert said[8:] == [f"gexec: {cluster.names[rank]}: exited {rank}" for rank in range(1, 8)]


@pytest.mark.parametrize("payload", [b"\xff", b"\0", b"", b"no newline", b"\0\xff\n\n\r\n\xfe"])
def test_any_bytes_pass_unchanged(cluster: Cluster, tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "payload"
    path.write_bytes(payload)
    os.chmod(tmp_path, 0o755)
    assert cluster.gexec("-n1", "-p", "none", "--chdir=/", "cat", path).stdout == payload
    assert cluster.gexec("-n1", "-p", "none", "cat", input=payload).stdout == payload


def test_sixty_four_mebibytes_from_each_of_four_nodes(cluster: Cluster, tmp_path: Path) -> None:
    script = "head -c 67108864 /dev/urandom | tee $0/out.$GEXEC_MY_VNN"
    sums: list[str] = []
    os.chmod(tmp_path, 0o777)

    def one(name: str, rank: int) -> None:
        sub = tmp_path / str(rank)
        sub.mkdir()
        os.chmod(sub, 0o777)
        client = cluster.popen("-w", name, "-p", "none", "sh", "-c", script, sub, stdout=subprocess.PIPE)
        digest = hashlib.sha256()
        while data := client.stdout.read(1 << 20):
            digest.update(data)
        client.stdout.close()
        assert client.wait(DEADLINE_S) == 0
        with open(sub / "out.0", "rb") as written:
            same = hashlib.file_digest(written, "sha256").hexdigest() == digest.hexdigest()
        sums.append("same" if same else "different")

    threads = [threading.Thread(target=one, args=(cluster.names[rank], rank)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == ["same"] * 4


def test_one_line_of_eight_mebibytes(cluster: Cluster) -> None:
    script = "head -c 8388608 /dev/zero | tr '\\0' x"
    ended = cluster.gexec("-n2", "-p", "none", "sh", "-c", script)
    assert ended.stdout == b"x" * (2 * 8388608)
    ended = cluster.gexec("-n1", "sh", "-c", script)
    assert ended.stdout == b"0 " + b"x" * 8388608


def test_stdin_reaches_every_node(cluster: Cluster) -> None:
    data = os.urandom(25 << 20)
    ended = cluster.gexec("sha256sum", input=data)
    digest = hashlib.sha256(data).hexdigest()
    assert lines_of(ended.stdout) == [f"{rank} {digest}  -" for rank in range(8)]


def test_a_program_that_reads_no_stdin_does_not_wait_for_it(cluster: Cluster) -> None:
    reader, writer = os.pipe()
    try:
        assert cluster.gexec("true", stdin=reader).returncode == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_environment_directory_and_job_variables_reach_the_processes(
    cluster: Cluster, tmp_path: Path
) -> None:
    script = 'echo "$ODD $GEXEC_MY_VNN $GEXEC_NPROCS $GEXEC_NODE $GEXEC_GPID $(pwd)"'
    os.chmod(tmp_path, 0o755)
    ended = cluster.gexec("-p", "none", "--chdir=/tmp", "sh", "-c", script, env={"ODD": "a b"})
    said = [
        re.fullmatch(r"a b (\d) 8 (\S+) ( *[0-9a-f]+:\d+:\d+) /tmp", line) for line in lines_of(ended.stdout)
    ]
    assert [(found[1], found[2]) for found in said if found] == [
        (str(rank), name) for rank, name in enumerate(cluster.names)
    ]
    assert len({found[3] for found in said if found}) == 1


def test_a_reader_that_goes_away_ends_everything(cluster: Cluster) -> None:
    client = cluster.popen("yes", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    client.stdout.read(10)
    client.stdout.close()
    assert client.wait(DEADLINE_S) == 141
    wait_until(lambda: not cluster.tasks(), "yes still runs")


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"])
def test_signals_reach_the_processes(cluster: Cluster, name: str) -> None:
    script = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
    client = cluster.popen("sh", "-c", script, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    for _ in range(8):
        assert client.stdout.readline().endswith(b" ready\n")
    client.send_signal(getattr(signal, f"SIG{name}"))
    out, _ = client.communicate(timeout=DEADLINE_S)
    assert lines_of(out) == [f"{rank} got {name}" for rank in range(8)]
    assert client.returncode == 9


def test_a_killed_client_leaves_no_process(cluster: Cluster) -> None:
    client = cluster.popen(
        "sh", "-c", "echo ready; exec sleep 1000", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    for _ in range(8):
        client.stdout.readline()
    client.kill()
    client.communicate(timeout=DEADLINE_S)
    wait_until(lambda: not cluster.tasks(), "sleep still runs")


def test_programs_and_directories_that_are_not_there(cluster: Cluster) -> None:
    ended = cluster.gexec("/no/such/program")
    assert ended.returncode == 127
    assert ended.stderr.startswith(b"gexec: 8 of 8 nodes not started: ")
    assert ended.stderr.count(b"\n") == 1
    ended = cluster.gexec("--remote-path", "no-such-program")
    assert ended.returncode == 127
    ended = cluster.gexec("--chdir=/no/such/directory", "true")
    assert ended.returncode == 255
    assert b"/no/such/directory" in ended.stderr


def test_names_that_do_not_resolve_do_no_harm_to_the_others(cluster: Cluster) -> None:
    names = f"{cluster.names[0]},no..such-name,{cluster.names[1]}"
    ended = cluster.gexec("-w", names, "-p", "host", "echo", "x")
    assert ended.returncode == 255
    assert lines_of(ended.stdout) == [f"{name} x" for name in cluster.names[:2]]
    assert ended.stderr.startswith(b"gexec: no..such-name: not started: ")


def test_a_name_may_stand_twice(cluster: Cluster) -> None:
    name = cluster.names[0]
    ended = cluster.gexec("-w", f"{name} {name}", "sh", "-c", "echo $GEXEC_MY_VNN")
    assert lines_of(ended.stdout) == ["0 0", "1 1"]


def test_timeout_ends_what_runs_longer(cluster: Cluster) -> None:
    ended = cluster.gexec("--timeout=1", "-n2", "sleep", "1000")
    assert ended.returncode == 124
    assert ended.stderr.startswith(b"gexec: 2 of 2 nodes timed out")


def test_detached_returns_while_the_processes_run(cluster: Cluster, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    gate = tmp_path / "gate"
    script = f"while [ ! -e {gate} ]; do sleep 0.05; done; touch {tmp_path}/done.$GEXEC_MY_VNN"
    ended = cluster.gexec("-d", "sh", "-c", script)
    gate.touch()
    assert (ended.returncode, len(ended.stdout)) == (0, 13)
    wait_until(lambda: len(list(tmp_path.glob("done.*"))) == 8, "the detached processes did not go on")


def test_detached_processes_write_to_nowhere_and_not_into_a_pipe_that_is_closed(
    cluster: Cluster, tmp_path: Path
) -> None:
    os.chmod(tmp_path, 0o777)
    # Asked for before the shell turns its own stdout into the file.
    script = 't=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2); echo "$t" >$0.part; mv $0.part $0.done'
    assert cluster.gexec("-n1", "-d", "--keep=0", "sh", "-c", script, tmp_path / "fds").returncode == 0
    told = tmp_path / "fds.done"
    wait_until(told.exists, "the detached process did not tell its descriptors")
    assert told.read_text() == "/dev/null\n" * 3


def test_run_over_real_daemons(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEXEC_SVRS", "GEXEC_SOCKET", "GEXEC_AUTHD_SOCKET", "GEXEC_HOSTS", "GEXEC_PORT"):
        if name in cluster.env:
            monkeypatch.setenv(name, cluster.env[name])
    result = gexec.run(["sh", "-c", "cat; echo e >&2; exit $GEXEC_MY_VNN"], stdin=b"in")
    assert result.exit_status == 7
    assert [(node.node, node.stdout, node.stderr) for node in result.results] == [
        (name, b"in", b"e\n") for name in cluster.names
    ]
    assert gexec.run(["true"]).ok  # without stdin


async def test_stream_over_real_daemons(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEXEC_SVRS", "GEXEC_SOCKET", "GEXEC_AUTHD_SOCKET", "GEXEC_HOSTS", "GEXEC_PORT"):
        if name in cluster.env:
            monkeypatch.setenv(name, cluster.env[name])
    said = dict.fromkeys(range(8), b"")
    exits = 0
    async with gexec.stream(["cat"], stdin=True) as job:
        await job.write(b"one\n")
        job.close_stdin()
        async for event in job:
            if isinstance(event, gexec.Stdout):
                said[event.rank] += event.data
            elif isinstance(event, gexec.Exited):
                exits += event.outcome.ok
    assert said == dict.fromkeys(range(8), b"one\n")
    assert (exits, job.exit_status) == (8, 0)
    async with gexec.stream(["sleep", "1000"]) as job:
        pass
    wait_until(lambda: not cluster.tasks(), "leaving the block did not end the job")


def _environment(cluster: Cluster, *words: str, **options: Any) -> dict[str, str]:
    done = cluster.gexec("-n1", "-p", "none", *words, "env", "-0", text=True, **options)
    assert done.returncode == 0, done.stderr
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)


def test_pwd_is_the_directory_that_the_process_gets(cluster: Cluster, tmp_path: Path) -> None:
    env = {"PWD": "/somewhere/else", "OLDPWD": "/before"}
    assert _environment(cluster, "--chdir=/usr", env=env)["PWD"] == "/usr"
    here = _environment(cluster, env=env, cwd="/usr")
    assert here["PWD"] == "/usr"
    assert "OLDPWD" not in here


def test_the_way_through_a_link_is_kept_where_it_leads_here(cluster: Cluster, tmp_path: Path) -> None:
    """Other nodes may have only the path that the user knows (automounters)."""
    real, link = tmp_path / "real", tmp_path / "link"
    (real / "below").mkdir(parents=True)
    link.symlink_to(real)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    found = _environment(cluster, env={"PWD": str(link)}, cwd=real)
    assert found["PWD"] == str(link)
    assert _environment(cluster, "--chdir=below", env={"PWD": str(link)}, cwd=real)["PWD"] == f"{link}/below"
    assert _environment(cluster, env={"PWD": str(tmp_path)}, cwd=real)["PWD"] == str(real)
    assert _environment(cluster, env={"PWD": f"{link}/../link"}, cwd=real)["PWD"] == str(real)


def test_what_describes_this_terminal_and_login_stays_here(cluster: Cluster) -> None:
    mine = {"TMUX": "x", "SSH_TTY": "x", "XDG_RUNTIME_DIR": "x", "_": "x", "TERM": "xterm", "MINE": "y"}
    found = _environment(cluster, env=mine)
    assert not {"TMUX", "SSH_TTY", "XDG_RUNTIME_DIR", "_"} & found.keys()
    assert (found["TERM"], found["MINE"]) == ("xterm", "y")
