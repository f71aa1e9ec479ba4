"""The engine behind ensh with a real sshd: failures, signals and ends, and nothing is left behind."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
from functools import partial
from pathlib import Path

import pytest

from gexec.client.session import JobSession
from gexec.ssh.job import SshOptions, prepare
from gexec.wire import outcome as outcomes
from gexec.wire.outcome import exited, held_by, killed, output_cut

from .conftest import DEADLINE_S, program, wait_until
from .ssh_jobs import EIGHT, Run, engine_of, gone, is_zombie, run, start
from .sshd import NETWORK, Sshd

# -- failures -----------------------------------------------------------------------------------


def test_nodes_that_cannot_be_used_are_told_apart_and_hold_nobody_up(sshd: Sshd) -> None:
    names = ["node1", "stranger", "unknown", f"{NETWORK}.99", "nologin", "node2"]
    done = run(sshd, names, "echo", "here")
    ok, stranger, unknown, refused, nologin, also_ok = done.outcomes
    assert (ok, also_ok) == (exited(0), exited(0))
    assert done.stdout(0) == done.stdout(5) == b"here\n"
    assert stranger.kind == outcomes.DENIED
    assert "Permission denied" in stranger.text
    assert unknown.kind == outcomes.NOT_STARTED
    assert "Host key verification failed" in unknown.text
    assert refused.kind == outcomes.NOT_STARTED
    assert "Connection refused" in refused.text
    assert nologin.kind == outcomes.NOT_STARTED
    assert "not available" in nologin.text
    assert [done.stderr(rank) for rank in range(6)] == [b""] * 6


def test_a_node_that_never_answers_is_given_up_after_the_connect_timeout(sshd: Sshd) -> None:
    with socket.socket() as hole:
        hole.bind((f"{NETWORK}.77", 0))
        hole.listen(0)
        port = hole.getsockname()[1]
        fillers = []
        for _ in range(3):  # more than the queue holds: whoever comes now gets no answer
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((f"{NETWORK}.77", port))
            fillers.append(filler)
        job = prepare([(f"{NETWORK}.77", port), ("node1", 0)], ["true"], stdin=False, connect_timeout_s=1)
        with Run(job, SshOptions(command=sshd.ssh)) as done:
            silent, ok = done.finish().outcomes
        for filler in fillers:
            filler.close()
    assert ok == exited(0)
    assert silent.kind == outcomes.NOT_STARTED
    assert "timed out" in silent.text


def test_a_server_that_accepts_and_says_nothing_is_given_up_too(sshd: Sshd) -> None:
    with socket.socket() as mute:
        mute.bind((f"{NETWORK}.78", 0))
        mute.listen(5)
        job = prepare([(f"{NETWORK}.78", mute.getsockname()[1])], ["true"], stdin=False, connect_timeout_s=1)
        with Run(job, SshOptions(command=sshd.ssh)) as done:
            [outcome] = done.finish().outcomes
    assert outcome.kind == outcomes.NOT_STARTED
    assert outcome.text


def test_a_connection_that_is_lost_is_lost_and_not_failed(sshd: Sshd) -> None:
    # The command's session leader is a child of sshd's session, which is killed here.
    with start(sshd, ["node1", "node2"], "sh", "-c", "echo $PPID; exec sleep 100") as job:
        job.until(lambda: job.stdout(0).endswith(b"\n") and job.stdout(1).endswith(b"\n"))
        script = int(job.stdout(0))
        session = int(Path(f"/proc/{script}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(session, signal.SIGKILL)
        job.until(lambda: job.session.outcomes[0] is not None)
        job.session.signal(signal.SIGTERM)
        lost, other = job.finish().outcomes
    assert lost.kind == outcomes.LOST
    assert other == killed(signal.SIGTERM)
    gone(script)


def test_few_descriptors_make_it_slower_and_nothing_worse(sshd: Sshd) -> None:
    script = (
        "import sys, tests.system.ssh_jobs as here\n"
        "class Server: ssh = sys.argv[1:]\n"
        "done = here.run(Server, here.EIGHT, 'echo', 'here')\n"
        "assert [str(outcome.describe()) for outcome in done.outcomes] == ['exited 0'] * 8, done.outcomes\n"
        "assert all(done.stdout(rank) == b'here\\n' for rank in range(8))\n"
    )
    done = subprocess.run(
        [*program(script), *sshd.ssh],
        cwd=Path(__file__).resolve().parents[2],
        timeout=DEADLINE_S,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)),
    )
    assert done.returncode == 0, done.stderr.decode()


# -- signals and ends ---------------------------------------------------------------------------

TELL = """
trap 'echo INT' INT; trap 'echo USR1' USR1; trap 'echo TERM; exit 5' TERM
echo up; while :; do sleep 0.05; done
"""


def _both_said(job: Run, said: bytes) -> bool:
    return job.stdout(0) == job.stdout(1) == said


@pytest.mark.parametrize("stdin", [None, b"", b"more\n"], ids=["no stdin", "empty stdin", "stdin"])
def test_signals_reach_the_command(sshd: Sshd, stdin: bytes | None) -> None:
    with start(sshd, ["node1", "node2"], "sh", "-c", TELL, stdin=stdin) as job:
        said = b"up\n"
        for word in ("USR1", "INT", "TERM"):
            job.until(partial(_both_said, job, said))
            job.session.signal(signal.Signals[f"SIG{word}"])
            said += f"{word}\n".encode()
        assert job.finish().outcomes == [exited(5)] * 2
        assert job.stdout(0) == job.stdout(1) == said


@pytest.mark.parametrize("stdin", [None, b"x"], ids=["no stdin", "stdin"])
def test_a_command_that_hears_no_signal_is_killed_with_its_children(sshd: Sshd, stdin: bytes | None) -> None:
    stubborn = "trap '' HUP INT TERM; sleep 1000 & echo $! $$; while :; do wait; done"
    with start(sshd, ["node1"], "sh", "-c", stubborn, stdin=stdin) as job:
        job.until(lambda: job.stdout().endswith(b"\n"))
        job.session.kill(now=True)
        assert job.finish().outcomes == [killed(signal.SIGKILL)]
        for pid in job.stdout().split():
            gone(pid)


def test_a_command_over_its_time_is_ended(sshd: Sshd) -> None:
    done = run(sshd, ["node1", "node2"], "sh", "-c", "[ $GEXEC_MY_VNN = 0 ] || exec sleep 1000", timeout_s=1)
    assert done.outcomes[0] == exited(0)
    assert done.outcomes[1].kind == outcomes.TIMED_OUT
    assert done.outcomes[1].text == "ran longer than 1 s"


def test_what_waits_for_its_turn_is_not_started_after_an_interrupt(sshd: Sshd) -> None:
    with start(sshd, EIGHT[:3], "sh", "-c", "echo up; exec sleep 1000", fanout=1) as job:
        job.until(job.stdout)
        job.session.signal(signal.SIGINT)
        first, *others = job.finish().outcomes
    assert first == killed(signal.SIGINT)
    assert {outcome.kind for outcome in others} == {outcomes.NOT_STARTED}
    assert "SIGINT" in others[0].text


def test_what_a_command_leaves_behind_is_not_waited_for(sshd: Sshd) -> None:
    done = run(sshd, ["node1"], "sh", "-c", "sleep 1000 & echo $!; exit 4")
    assert done.outcomes == [output_cut(exited(4), held_by(0))]
    os.kill(int(done.stdout()), signal.SIGKILL)  # as after any ssh it is still there


_CLIENT = """
import sys, time
from gexec.ssh.job import SshOptions, prepare
from tests.system.ssh_jobs import Run
nodes = [(f"node{number}", 0) for number in range(1, 5)]
job = prepare(nodes, ["sh", "-c", "echo $$; exec sleep 1000"], stdin=sys.argv[1] == "stdin")
with Run(job, SshOptions(command=sys.argv[2:])) as run:
    run._feed = lambda: None  # its stdin stays open
    run.until(lambda: all(run.stdout(rank).endswith(b"\\n") for rank in range(4)))
    print(b" ".join(run.stdout(rank).strip() for rank in range(4)).decode(), flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("stdin", ["none", "stdin"])
def test_a_client_that_is_killed_leaves_nothing_behind(sshd: Sshd, stdin: str) -> None:
    client = subprocess.Popen(
        [*program(_CLIENT), stdin, *sshd.ssh],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
    )
    try:
        assert client.stdout is not None
        pids = client.stdout.readline().split()
        assert len(pids) == 4
        client.kill()
        client.wait(DEADLINE_S)
        client.stdout.close()
        for pid in pids:
            gone(pid)
        sshd.check_idle()
    finally:
        client.kill()
        client.wait(DEADLINE_S)


def test_a_client_that_ends_before_the_engine_has_begun_leaves_nothing_behind(sshd: Sshd) -> None:
    with start(sshd, ["node1"], "sleep", "1000"):
        engine = engine_of()  # it is Python, and takes its time
    wait_until(lambda: is_zombie(engine), "the engine is left")


def test_an_engine_that_is_killed_ends_the_commands_too(sshd: Sshd) -> None:
    with start(sshd, ["node1", "node2"], "sh", "-c", "echo $$; exec sleep 1000") as job:
        job.until(lambda: job.stdout(0).endswith(b"\n") and job.stdout(1).endswith(b"\n"))
        engine = engine_of()
        os.kill(engine, signal.SIGKILL)
        os.waitpid(engine, 0)
        for rank in range(2):
            pid = job.stdout(rank).strip()
            gone(pid)


def test_a_caller_that_lives_on_keeps_no_zombies(sshd: Sshd) -> None:
    children: list[int] = []
    for _ in range(3):
        with start(sshd, ["node1"], "true") as job:
            job.finish()
            children.append(engine_of())
        wait_until(lambda: is_zombie(children[-1]), "the engine does not end")
    assert [is_zombie(pid) for pid in children] == [False, False, True]


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_descriptors_are_no_hindrance(sshd: Sshd, closed: tuple[int, ...]) -> None:
    text = (
        "import os, sys; from tests.system.ssh_jobs import SshOptions, Run, prepare\n"
        f"for fd in {closed}: os.close(fd)\n"
        "with Run(prepare([('node1', 0)], ['sh', '-c', 'cat; exit 7']), SshOptions(command=sys.argv[1:]),"
        " b'x') as run: run.finish()\n"
        "os._exit(run.outcomes[0].value if run.stdout() == b'x' else 1)"
    )
    done = subprocess.run(
        [*program(text), *sshd.ssh],
        cwd=Path(__file__).resolve().parents[2],
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 7


def test_a_session_class_is_the_clients_own(sshd: Sshd) -> None:
    with start(sshd, ["node1"], "true") as job:
        assert isinstance(job.session, JobSession)
        assert not os.get_blocking(job.connection.fileno())
        job.finish()
