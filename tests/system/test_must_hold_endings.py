"""After every end no process of the job is left, and the client always ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import DEADLINE_S, Cluster, wait_until
from .must_hold import end, marked, marker, sorted_lines, wait_gone, wait_started

#: Leaves behind: one in its process group, one in a session of its own, one whose parent is gone as well.
UNTIDY = """
sleep $0 &
setsid sleep $0 >/dev/null 2>&1 </dev/null &
setsid sh -c 'sleep $0 & sleep $0 & exit 0' $0 >/dev/null 2>&1 </dev/null
"""
LEFT_BEHIND = 4


def _start(cluster: Cluster, *words: object, **options: Any) -> subprocess.Popen[bytes]:
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    client: subprocess.Popen[bytes] = cluster.popen(*words, **options)
    return client


def _ready(client: subprocess.Popen[bytes], count: int) -> None:
    _until_written(client, count, "ready")


def _until_written(client: subprocess.Popen[bytes], count: int, word: str) -> None:
    assert client.stdout is not None
    for _ in range(count):
        assert client.stdout.readline().rstrip().endswith(word.encode())


def test_services_live_on_after_their_command_and_the_end_of_other_jobs(
    cluster_of: Callable[..., Cluster],
) -> None:
    cluster = cluster_of(3)
    mark = marker()
    quiet = ">/dev/null 2>&1 </dev/null"
    services = (
        f"nohup setsid sleep $0 {quiet} & (setsid sleep $0 {quiet} &) & "
        f"env -i /usr/bin/setsid /bin/sleep $0 {quiet} & wait_for_no_one=1;"
    )
    try:
        ended = cluster.gexec("sh", "-c", f"{services} echo done", mark)
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert sorted_lines(ended.stdout) == [f"{rank} done" for rank in range(3)]
        wait_until(lambda: len(marked(mark)) == 9, "not all services run")
        for signum in (signal.SIGINT, signal.SIGKILL):
            other = marker()
            client = _start(cluster, "sh", "-c", f"{UNTIDY} echo ready; wait; sleep $0", other)
            _ready(client, 3)
            client.send_signal(signum)
            end(client)
            wait_gone(other)
        assert len(marked(mark)) == 9
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
    wait_gone(mark)


def test_a_node_may_end_what_commands_leave_behind(cluster_of: Callable[..., Cluster]) -> None:
    cluster = cluster_of(2, **{"policy.leftovers": "kill"})
    mark = marker()
    ended = cluster.gexec("sh", "-c", f"{UNTIDY} echo done", mark)
    assert ended.returncode == 0
    assert sorted_lines(ended.stdout) == [f"{rank} done" for rank in range(2)]
    wait_gone(mark)


def _untidy_job(cluster: Cluster, mark: str, trap: str = "") -> subprocess.Popen[bytes]:
    script = f"{trap} {UNTIDY} echo ready; wait; sleep $0"
    client = _start(cluster, "sh", "-c", script, mark)
    wait_started(mark, 8 * (1 + LEFT_BEHIND), client)
    _ready(client, 8)
    return client


@pytest.mark.parametrize(("name", "status"), [("INT", 130), ("TERM", 143), ("HUP", 129), ("QUIT", 131)])
def test_nothing_is_left_after_a_signal(cluster: Cluster, name: str, status: int) -> None:
    mark = marker()
    client = _untidy_job(cluster, mark)
    client.send_signal(getattr(signal, f"SIG{name}"))
    end(client)
    assert client.returncode == status
    wait_gone(mark)


def test_interrupting_twice_kills_what_ignores_it_and_says_so(cluster: Cluster) -> None:
    mark = marker()
    client = _untidy_job(cluster, mark, "trap '' INT TERM HUP;")
    client.send_signal(signal.SIGINT)
    client.send_signal(signal.SIGINT)
    while client.poll() is None:  # one was swallowed, as a pending signal is: once more
        try:
            client.wait(0.2)
        except subprocess.TimeoutExpired:
            if marked(mark, client.pid):
                client.send_signal(signal.SIGINT)
    _, err = end(client)
    assert b"gexec: ^C twice within a second: the job is being killed on all nodes\n" in err
    assert client.returncode in (130, 137)
    wait_gone(mark)


def test_control_c_on_a_terminal(cluster: Cluster) -> None:
    mark = marker()
    ours, theirs = pty.openpty()
    try:
        client = cluster.popen(
            "sh", "-c", "echo ready; exec sleep $0", mark,
            stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        _ready(client, 8)
        os.write(ours, b"\x03")
        _, err = end(client)
        assert client.returncode == 130
        assert b"8 of 8 nodes killed by signal 2" in err
    finally:
        os.close(ours)
        os.close(theirs)
    wait_gone(mark)


def test_a_terminal_that_goes_away_ends_the_job(cluster: Cluster) -> None:
    mark = marker()
    ours, theirs = pty.openpty()
    client = cluster.popen(
        "sh", "-c", "echo ready; exec sleep $0", mark,
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    _ready(client, 8)
    os.close(ours)
    end(client)
    assert client.returncode == 129
    wait_gone(mark)


def test_nothing_is_left_of_a_killed_client(cluster: Cluster) -> None:
    mark = marker()
    client = _untidy_job(cluster, mark, "trap '' INT TERM HUP;")
    client.kill()
    client.communicate(timeout=DEADLINE_S)
    wait_gone(mark)


@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_term_and_hup_kill_what_does_not_end_within_the_grace(cluster: Cluster, name: str) -> None:
    mark = marker()
    client = _untidy_job(cluster, mark, "trap '' INT TERM HUP;")
    client.send_signal(getattr(signal, f"SIG{name}"))
    _, err = end(client)
    assert f"gexec: not ended 5 s after SIG{name}: the job is being killed on all nodes\n".encode() in err
    assert client.returncode == 137
    wait_gone(mark)


def test_two_signals_at_once_are_one_and_a_later_one_kills(cluster: Cluster) -> None:
    mark = marker()
    client = _untidy_job(cluster, mark, "trap '' INT HUP; trap 'echo asked' TERM;")
    client.send_signal(signal.SIGTERM)
    client.send_signal(signal.SIGHUP)
    _until_written(client, 1, "asked")  # signals that are pending together have no order
    client.send_signal(signal.SIGINT)  # ^C after TERM is meant
    _, err = end(client)
    assert b"gexec: ^C after SIG" in err
    assert client.returncode == 137
    wait_gone(mark)


def test_timeout_of_coreutils_ends_the_client_and_the_job(cluster: Cluster) -> None:
    mark = marker()
    done = subprocess.run(
        ["timeout", "1", *cluster.command("sh", "-c", "trap '' TERM; sleep $0; sleep $0", mark)],
        env=cluster.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 124
    wait_gone(mark)


# -- daemons that die -------------------------------------------------------------------------

#: With fan-out 2 the ranks 0 and 4 are inner nodes; node001 is also the client's own daemon.
_WAITS = "sleep $0 & echo ready; while [ ! -e $1 ]; do sleep 0.05; done; seq 3000; kill $!"


@pytest.mark.parametrize("process", ["spawner", "relay", "starter", "all"])
@pytest.mark.parametrize("victim", ["node001", "node005", "node008"])
def test_a_killed_daemon(
    cluster_of: Callable[..., Cluster], tmp_path: Path, victim: str, process: str
) -> None:
    cluster = cluster_of(8, orphan_grace_s=1.0)
    os.chmod(tmp_path, 0o755)
    mark, gate = marker(), tmp_path / "gate"
    client = _start(cluster, "-f", 2, "-p", "host", "sh", "-c", _WAITS, mark, gate)
    _ready(client, 8)
    family = dict(zip(("spawner", "relay", "starter"), cluster.daemon(victim), strict=True))
    for one in family.values() if process == "all" else [family[process]]:
        with contextlib.suppress(ProcessLookupError):  # it may have ended with another one
            os.kill(one.pid, signal.SIGKILL)
    if victim == "node001":  # the client's own: there is nobody to hear of the others from
        out, err = end(client)
        assert out == b""
        assert err.startswith(b"gexec: 8 of 8 nodes lost: "), err
        assert err.endswith(b": node[001-008]\n"), err
    else:
        wait_until(lambda: not cluster.daemon(victim), "a part of a daemon lives on")
        gate.touch()
        out, err = end(client)
        others = [name for name in cluster.names if name != victim]
        said = sorted_lines(out)
        assert said == sorted(f"{name} {number}" for name in others for number in range(1, 3001))
        assert err.startswith(f"gexec: {victim}: lost: ".encode()), err
        assert err.count(b"\n") == 1
    assert client.returncode == 255
    wait_gone(mark)


def test_a_daemon_that_stands_still_for_a_moment_loses_nothing(
    cluster_of: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = cluster_of(4, heartbeat_s=0.2)
    os.chmod(tmp_path, 0o755)
    mark, gate = marker(), tmp_path / "gate"
    client = _start(cluster, "-f", 2, "-p", "host", "sh", "-c", _WAITS, mark, gate)
    _ready(client, 4)
    stopped = cluster.daemon("node003")
    for one in stopped:
        os.kill(one.pid, signal.SIGSTOP)
    gate.touch()
    assert client.stdout is not None
    early = [client.stdout.readline() for _ in range(2 * 3000)]  # of those that the tree still reaches
    for one in stopped:
        os.kill(one.pid, signal.SIGCONT)
    out, err = end(client)
    assert (client.returncode, err) == (0, b"")
    everything = b"".join(early) + out
    assert sorted_lines(everything) == sorted(f"{n} {i}" for n in cluster.names for i in range(1, 3001))
    wait_gone(mark)


def test_a_daemon_that_stands_still_for_long_is_lost_and_ends_its_process_when_it_goes_on(
    cluster_of: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = cluster_of(4, heartbeat_s=0.3, lost_after_s=3.0, orphan_grace_s=1.0)
    os.chmod(tmp_path, 0o755)
    mark, gate = marker(), tmp_path / "gate"
    client = _start(cluster, "-f", 2, "--connect-timeout=3", "-p", "host", "sh", "-c", _WAITS, mark, gate)
    _ready(client, 4)
    stopped = cluster.daemon("node004")
    for one in stopped:
        os.kill(one.pid, signal.SIGSTOP)
    try:
        gate.touch()
        out, err = end(client)
    finally:
        for one in stopped:
            os.kill(one.pid, signal.SIGCONT)
    assert client.returncode == 255
    assert err.startswith(b"gexec: node004: lost: "), err
    assert sorted_lines(out) == sorted(f"{n} {i}" for n in cluster.names[:3] for i in range(1, 3001))
    wait_gone(mark)


def test_the_clients_own_daemon_stands_still(cluster_of: Callable[..., Cluster]) -> None:
    cluster = cluster_of(2, orphan_grace_s=1.0)
    mark = marker()
    client = _start(cluster, "sh", "-c", "echo ready; sleep $0", mark)
    _ready(client, 2)
    stopped = cluster.daemon("node001")
    for one in stopped:
        os.kill(one.pid, signal.SIGSTOP)
    try:
        _, err = end(client)
    finally:
        for one in stopped:
            os.kill(one.pid, signal.SIGCONT)
    assert client.returncode == 255
    assert b"2 of 2 nodes lost: the local gexecd has not answered for 1" in err
    wait_gone(mark)


def test_a_signal_ends_the_client_although_its_daemon_stands_still(
    cluster_of: Callable[..., Cluster],
) -> None:
    cluster = cluster_of(2, orphan_grace_s=1.0)
    mark = marker()
    client = _start(cluster, "sh", "-c", "echo ready; sleep $0", mark)
    _ready(client, 2)
    stopped = cluster.daemon("node001")
    for one in stopped:
        os.kill(one.pid, signal.SIGSTOP)
    try:
        client.send_signal(signal.SIGTERM)
        _, err = end(client)
    finally:
        for one in stopped:
            os.kill(one.pid, signal.SIGCONT)
    assert client.returncode == 143
    assert err.endswith(b"gexec: the end of 2 of 2 processes is not confirmed\n")
    wait_gone(mark)


def test_a_daemon_that_is_told_to_stop_in_mid_job(cluster_of: Callable[..., Cluster]) -> None:
    cluster = cluster_of(3)
    mark = marker()
    client = _start(cluster, "sh", "-c", "echo ready; [ $GEXEC_MY_VNN = 2 ] && exec sleep $0", mark)
    _ready(client, 3)
    os.kill(cluster.daemon("node003")[0].pid, signal.SIGTERM)
    _, err = end(client)
    assert client.returncode == 255
    assert b"gexec: node003: lost: " in err, err
    wait_gone(mark)


# -- signals, timeouts, detached -------------------------------------------------------------


def test_tstp_stops_the_processes_and_cont_continues_them(cluster: Cluster) -> None:
    mark = marker()
    client = _start(cluster, "sh", "-c", "echo ready; exec sleep $0", mark)
    _ready(client, 8)
    sleeps = marked(mark, client.pid)
    assert len(sleeps) == 8
    client.send_signal(signal.SIGTSTP)
    wait_until(lambda: all(_state(pid) == "T" for pid in [*sleeps, client.pid]), "not all are stopped")
    client.send_signal(signal.SIGCONT)
    wait_until(lambda: all(_state(pid) == "S" for pid in [*sleeps, client.pid]), "not all go on")
    client.send_signal(signal.SIGTERM)
    end(client)
    assert client.returncode == 143
    wait_gone(mark)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("name", ["USR1", "USR2", "WINCH", "CONT"])
def test_signals_that_end_nothing_reach_traps(cluster: Cluster, name: str) -> None:
    script = f"trap 'echo got' {name}; trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    client = _start(cluster, "-n", 4, "sh", "-c", script)
    _ready(client, 4)
    assert client.stdout is not None
    for _ in range(2):
        client.send_signal(getattr(signal, f"SIG{name}"))
        assert sorted(client.stdout.readline() for _ in range(4)) == [b"%d got\n" % rank for rank in range(4)]
    client.send_signal(signal.SIGTERM)
    end(client)
    assert client.returncode == 3


def test_a_timeout_ends_only_what_runs_longer(cluster: Cluster) -> None:
    mark = marker()
    script = f"[ $GEXEC_MY_VNN -lt 6 ] && exit 5; trap '' TERM HUP; {UNTIDY} sleep $0; sleep $0"
    ended = cluster.gexec("--timeout=1", "sh", "-c", script, mark)
    assert ended.returncode == 124
    assert ended.stderr.decode().splitlines() == [
        "gexec: 6 of 8 nodes exited 5: node[001-006]",
        "gexec: 2 of 8 nodes timed out: ran longer than 1 s: node007 node008",
    ]
    wait_gone(mark)


def test_a_detached_process_lives_on_after_its_daemons_job_is_over(cluster: Cluster, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    mark = marker()
    script = "echo lost output; echo $GEXEC_MY_VNN >$1/started.$GEXEC_MY_VNN; exec sleep $0"
    ended = cluster.gexec("-d", "--keep=0", "sh", "-c", script, mark, tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    try:
        wait_until(lambda: len(list(tmp_path.glob("started.*"))) == 8, "not all were started")
        wait_until(lambda: len(marked(mark)) == 8, "detached processes ended with the client")
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGTERM)
    wait_gone(mark)


def test_a_detached_program_that_cannot_start_is_told(cluster: Cluster) -> None:
    ended = cluster.gexec("-d", "-n2", "/no/such/program")
    assert ended.returncode == 127
    assert ended.stderr.startswith(b"gexec: 2 of 2 nodes not started: ")
