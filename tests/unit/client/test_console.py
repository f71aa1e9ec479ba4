"""The real gexec command against a scripted gexecd: bytes, stdin, signals, readers that go away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from client_peers import DEADLINE_S, Peer, command, daemons, gexec, hello_script
from gexec.wire.frames import (
    OFFSET_ALL,
    STDERR,
    STDOUT,
    Ack,
    Ended,
    Kill,
    Output,
    RanksStarted,
    Refused,
    Signal,
    Stdin,
    StdinTaken,
)
from gexec.wire.jobspec import DETACHED, NO_STDIN, REMOTE_PATH, STRICT, JobSpec
from gexec.wire.outcome import exited, killed, not_started

ALL = ((0, 3),)


def wait_started(client: subprocess.Popen[bytes]) -> None:
    """Return when a client with -v has said that everything has started."""
    assert client.stderr is not None
    said = b""
    while b" started after " not in said:
        line = client.stderr.readline()
        assert line, f"the client ended: {said!r}"
        said += line


def test_lines_of_all_nodes_with_their_rank(tmp_path: Path) -> None:
    with daemons(tmp_path, hello_script) as running:
        ended = gexec(running.env, "hostname")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"0 hello\n1 hello\n2 hello\n", b"")
        assert gexec(running.env, "-p", "ip", "-n2", "true").stdout == b"127.0.0.1 hello\n127.0.0.2 hello\n"
        assert gexec(running.env, "-pH", "-w", "127.0.0.9:5", "true").stdout == b"127.0.0.9 hello\n"
        assert gexec(running.env, "-p", "none", "true").stdout == b"hello\n" * 3
        assert gexec(running.env, "-x", "127.0.0.1", "true").stdout == b"0 hello\n1 hello\n"


def test_verbose_says_who_chose_what_started_and_how_long(tmp_path: Path) -> None:
    with daemons(tmp_path, hello_script) as running:
        lines = gexec(running.env, "-v", "true").stderr.decode().splitlines()
    assert lines[0].startswith("gexec: 3 nodes from GEXEC_SVRS: /")
    assert lines[1].startswith("gexec: 3 of 3 started after ")
    assert lines[2].startswith("gexec: done after ")


def test_failures_give_the_status_and_a_summary(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.say(Output(((0, 2),), STDERR, 0, b"oops"))
        peer.say(Ended(((0, 2),), exited(7), 0, 4), Ended(((2, 3),), not_started("refused"), 0, 0))
        peer.finish(0)

    with daemons(tmp_path, script) as running:
        ended = gexec(running.env, "false")
    assert ended.returncode == 255
    lines = ended.stderr.decode().splitlines()
    assert lines[:2] == ["0 oops", "1 oops"]
    assert lines[2:] == [
        "gexec: 127.0.0.3: not started: refused",
        "gexec: 2 of 3 nodes exited 7: 127.0.0.1 127.0.0.2",
    ]


def test_what_the_job_says(tmp_path: Path) -> None:
    jobs: list[JobSpec] = []

    def script(peer: Peer) -> None:
        job = peer.accept()
        jobs.append(job)
        peer.finish(job.ranks)

    with daemons(tmp_path, script) as running:
        env = running.env | {"GEXEC_MY_VNN": "9", "GEXEC_JOB": "x", "ODD": "\udcff"}
        gexec(env, "-f", "3", "--timeout=2.5", "--connect-timeout", "1", "true", "a b", "\udcfe")
        options = ("--strict", "--remote-path", "--chdir=/nowhere", "-P", "99")
        gexec(env, *options, "prog", stdin=None)
        gexec(env, "-d", "./x")
    first, second, third = jobs
    assert first.names == [b"127.0.0.1", b"127.0.0.2", b"127.0.0.3"]
    assert first.addresses == [b"127.0.0.1:2875", b"127.0.0.2:77", b"127.0.0.3:2875"]
    assert first.argv == [b"true", b"a b", b"\xfe"]
    assert first.program.endswith(b"/true")
    assert (first.fanout, first.timeout_s, first.connect_timeout_s, first.flags) == (3, 2.5, 1.0, 0)
    assert first.cwd == os.getcwdb()
    entries = dict(entry.split(b"=", 1) for entry in first.env)
    assert entries[b"ODD"] == b"\xff"
    assert entries[b"GEXEC_NPROCS"] == b"3"
    assert entries[b"GEXEC_GPID"].split(b":")[0] == b"7f000001"
    assert not {b"GEXEC_MY_VNN", b"GEXEC_JOB", b"GEXEC_SVRS"} & set(entries)
    assert second.flags == STRICT | REMOTE_PATH | NO_STDIN
    assert (second.program, second.cwd, second.addresses[0]) == (b"prog", b"/nowhere", b"127.0.0.1:99")
    assert third.flags == DETACHED | NO_STDIN
    assert third.program == os.path.join(os.getcwdb(), b"x")
    assert first.salt != second.salt


def test_large_output_and_stdin_pass_unchanged_within_their_windows(tmp_path: Path) -> None:
    payload = os.urandom(5 << 20)
    taken = bytearray()

    def script(peer: Peer) -> None:
        job = peer.accept()
        peer.say(RanksStarted(((0, 1),)))
        offset = acked = 0
        stdin_over = False
        while not stdin_over or offset < len(payload):
            while offset < len(payload) and offset - acked + 65536 <= job.window:
                chunk = payload[offset : offset + 65536]
                peer.say(Output(((0, 1),), STDOUT, offset, chunk))
                offset += len(chunk)
            frame = peer.next()
            if isinstance(frame, Ack):
                [(_, _, acked)] = frame.entries
                assert acked <= offset
            elif isinstance(frame, Stdin):
                assert frame.offset == len(taken)
                taken.extend(frame.data)
                peer.say(StdinTaken(len(taken)))
                stdin_over = frame.eof
        peer.finish(1, lengths=(offset, 0))

    with daemons(tmp_path, script) as running:
        ended = gexec(running.env, "-n1", "-pnone", "cat", stdin=payload)
    assert ended.returncode == 0
    assert ended.stdout == payload
    assert bytes(taken) == payload


def test_a_line_longer_than_the_window_is_one_line(tmp_path: Path) -> None:
    long = b"x" * (8 << 20)

    def script(peer: Peer) -> None:
        job = peer.accept()
        offset = acked = 0
        while offset < len(long):
            while offset < len(long) and offset - acked + 65536 <= job.window:
                peer.say(Output(((1, 2),), STDOUT, offset, long[offset : offset + 65536]))
                offset += 65536
            if offset < len(long):
                ack = peer.until(Ack)
                assert isinstance(ack, Ack)
                [(_, _, acked)] = ack.entries
        peer.say(Output(((0, 1),), STDOUT, 0, b"short\n"))
        peer.say(Ended(((1, 2),), exited(0), offset, 0), Ended(((0, 1),), exited(0), 6, 0))
        peer.say(Ended(((2, 3),), exited(0), 0, 0))
        peer.finish(0)

    with daemons(tmp_path, script) as running:
        ended = gexec(running.env, "true")
    assert ended.stdout == b"0 short\n1 " + long


def test_nobody_wants_stdin_so_it_is_not_read_on(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.say(StdinTaken(OFFSET_ALL))
        peer.finish(3)

    with daemons(tmp_path, script) as running:
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb"):
            ended = subprocess.run(
                command("true"), env=running.env, stdin=reader, capture_output=True, timeout=DEADLINE_S
            )
        os.close(reader)
    assert ended.returncode == 0


def test_a_reader_that_goes_away_ends_the_job_quietly(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        job = peer.accept()
        for offset in range(0, job.window, 65536):
            peer.say(Output(ALL, STDOUT, offset, b"y\n" * 32768))
        assert peer.until(Kill) == Kill(False)
        peer.finish(3, killed(1), (job.window, 0))

    with daemons(tmp_path, script) as running:
        client = subprocess.Popen(
            command("yes"),
            env=running.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert client.stdout is not None
        assert client.stdout.read(4) == b"0 y\n"
        client.stdout.close()
        assert client.stderr is not None
        with client.stderr:
            assert client.stderr.read() == b""
        assert client.wait(DEADLINE_S) == 128 + signal.SIGPIPE


def test_a_reader_that_stops_reading_stops_the_acks_but_not_the_signals(tmp_path: Path) -> None:
    full = threading.Event()

    def script(peer: Peer) -> None:
        job = peer.accept()
        assert job.window == 1 << 20
        for offset in range(0, job.window, 65536):
            peer.say(Output(ALL, STDOUT, offset, b"z" * 65535 + b"\n"))
        full.set()
        assert peer.next() == Signal(signal.SIGUSR1)  # and no Ack before it
        peer.finish(3, killed(10), (job.window, 0))

    with daemons(tmp_path, script) as running:
        client = subprocess.Popen(
            command("--no-stdin", "yes"), env=running.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert full.wait(DEADLINE_S)
        client.send_signal(signal.SIGUSR1)
        out, _ = client.communicate(timeout=DEADLINE_S)
    assert len(out) == 3 * ((1 << 20) + 16 * 2)
    assert client.returncode == 138


@pytest.mark.parametrize("name", ["TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH", "INT", "CONT"])
def test_signals_are_forwarded(tmp_path: Path, name: str) -> None:
    signum = getattr(signal, f"SIG{name}")
    started = threading.Event()

    def script(peer: Peer) -> None:
        peer.accept()
        peer.say(RanksStarted(ALL))
        started.set()
        assert peer.until(Signal) == Signal(signum)
        peer.finish(3, exited(3))

    with daemons(tmp_path, script) as running:
        client = subprocess.Popen(command("-v", "--no-stdin", "x/y"), env=running.env, stderr=subprocess.PIPE)
        wait_started(client)
        client.send_signal(signum)
        client.communicate(timeout=DEADLINE_S)
    assert client.returncode == 3


def test_interrupt_twice_kills_and_says_so(tmp_path: Path) -> None:
    client: list[subprocess.Popen[bytes]] = []
    ready = threading.Event()

    def script(peer: Peer) -> None:
        peer.accept()
        peer.say(RanksStarted(ALL))
        assert ready.wait(DEADLINE_S)
        # Each is sent when the one before has arrived: both within a second, or it is tried again.
        while True:
            client[0].send_signal(signal.SIGINT)
            frame = peer.next()
            assert frame is not None
            if frame == Kill(True):
                break
        peer.finish(3, killed(9))

    with daemons(tmp_path, script) as running:
        client.append(
            subprocess.Popen(command("-v", "--no-stdin", "x/y"), env=running.env, stderr=subprocess.PIPE)
        )
        wait_started(client[0])
        ready.set()
        _, said = client[0].communicate(timeout=DEADLINE_S)
    assert b"gexec: ^C twice within a second: the job is being killed on all nodes\n" in said
    assert client[0].returncode == 137


@pytest.mark.parametrize("form", ["--json", "--gather"])
def test_a_gexecd_that_does_not_confirm_the_kill_is_left(tmp_path: Path, form: str) -> None:
    client: list[subprocess.Popen[bytes]] = []
    ready = threading.Event()

    def script(peer: Peer) -> None:
        peer.accept()
        peer.say(RanksStarted(ALL))
        peer.say(Output(((0, 1),), STDOUT, 0, b"so far\n"))
        assert ready.wait(DEADLINE_S)
        while True:
            client[0].send_signal(signal.SIGINT)
            if peer.next() == Kill(True):
                break
        client[0].send_signal(signal.SIGINT)
        while peer.next() is not None:
            pass

    with daemons(tmp_path, script) as running:
        client.append(
            subprocess.Popen(
                command("-v", form, "--no-stdin", "x/y"),
                env=running.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        wait_started(client[0])
        ready.set()
        out, said = client[0].communicate(timeout=DEADLINE_S)
    assert b"the end of 3 of 3 processes is not confirmed" in said
    assert client[0].returncode == 130
    assert b"so far" in out
    if form == "--json":
        events = [json.loads(line) for line in out.splitlines()]
        assert [event["rank"] for event in events if event["event"] == "lost"] == [0, 1, 2]
        assert (events[-1]["event"], events[-1]["exit_status"]) == ("end", 130)


def test_suspend_is_forwarded_and_stops_the_client_until_it_continues(tmp_path: Path) -> None:
    stopped = threading.Event()

    def script(peer: Peer) -> None:
        peer.accept()
        peer.say(RanksStarted(ALL))
        assert peer.until(Signal) == Signal(signal.SIGTSTP)
        stopped.set()
        assert peer.until(Signal) == Signal(signal.SIGCONT)
        peer.finish(3)

    with daemons(tmp_path, script) as running:
        client = subprocess.Popen(command("-v", "--no-stdin", "x/y"), env=running.env, stderr=subprocess.PIPE)
        wait_started(client)
        client.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(client.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert stopped.wait(DEADLINE_S)
        client.send_signal(signal.SIGCONT)
        client.communicate(timeout=DEADLINE_S)
    assert client.returncode == 0


def test_a_gexecd_that_ends_loses_the_ranks(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.say(Output(ALL, STDOUT, 0, b"part"), Ended(((0, 1),), exited(0), 4, 0))

    with daemons(tmp_path, script) as running:
        ended = gexec(running.env, "true", stdin=None)
    assert ended.returncode == 255
    assert ended.stdout == b"0 part\n1 part\n2 part"
    assert ended.stderr == b"gexec: 2 of 3 nodes lost: the local gexecd ended: 127.0.0.2 127.0.0.3\n"


def test_refusals_and_nonsense_are_one_sentence(tmp_path: Path) -> None:
    def refuse(peer: Peer) -> None:
        peer.accept_hello()
        peer.say(Refused(1, "user x may not run jobs here"))

    def nonsense(peer: Peer) -> None:
        peer.accept()
        peer.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        while peer.next() is not None:
            pass

    def silent(peer: Peer) -> None:
        pass

    for number, (script, sentence) in enumerate(
        (
            (refuse, b"gexec: gexecd refused the job: user x may not run jobs here\n"),
            (nonsense, b"gexec: what gexecd sent is not the protocol: "),
            (silent, b"gexec: gexecd closed the connection before it took the job: see its log\n"),
        )
    ):
        directory = tmp_path / str(number)
        directory.mkdir()
        with daemons(directory, script) as running:
            ended = gexec(running.env, "true", stdin=None)
        assert ended.returncode == 255
        assert ended.stderr.startswith(sentence)
        assert ended.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("words", "change", "status", "sentence"),
    [
        (["hostname"], {"GEXEC_SVRS": ""}, 2, "no nodes: GEXEC_SVRS is set but empty: put names"),
        (
            ["-p", "", "hostname"],
            {},
            2,
            "option -p/--prefix-type: expected one of none, vnn, host, ip, not ''",
        ),
        ([], {}, 2, "no command"),
        (["-n", "x", "hostname"], {}, 2, "option -n/--nprocs: expected a whole number from 0"),
        (["-n", "4", "hostname"], {}, 2, "Not enough hosts available: 4 asked, 3 known (from GEXEC_SVRS)"),
        (["-p", "x", "hostname"], {}, 2, "option -p/--prefix-type: expected one of none, vnn, host, ip"),
        (["hostname"], {"GEXEC_PORT": "x"}, 2, "GEXEC_PORT is 'x'"),
        (["no-such-program"], {}, 127, "no-such-program: not found in PATH on this host"),
        (["ls -l"], {}, 127, "ls -l: not found in PATH on this host; a whole command line is for `enexec`"),
        (["hostname"], {"GEXEC_AUTHD_SOCKET": "/nonexistent/authd.sock"}, 255, "authd does not run here"),
        (["hostname"], {"GEXEC_SOCKET": "/nonexistent/gexecd.sock"}, 255, "gexecd does not run here"),
        (["true", "x" * 130_000], {"BIG": "y" * 100_000}, 0, ""),
    ],
)
def test_wrong_requests_are_one_sentence(
    tmp_path: Path, words: list[str], change: dict[str, str | None], status: int, sentence: str
) -> None:
    with daemons(tmp_path, hello_script) as running:
        env = {name: value for name, value in (running.env | change).items() if value is not None}
        ended = gexec(env, *words, stdin=None)
    assert ended.returncode == status
    assert ended.stderr.decode().startswith(f"gexec: {sentence}" if sentence else "")
    assert ended.stderr.count(b"\n") == bool(sentence)


def test_attack_62_an_environment_over_the_limit_is_refused_here(tmp_path: Path) -> None:
    with daemons(tmp_path, hello_script) as running:
        env = running.env | {f"BIG{number}": "y" * 120_000 for number in range(10)}
        ended = gexec(env, "true", stdin=None)
    assert ended.returncode == 2
    assert b"gexec: arguments and environment have 1" in ended.stderr
    assert b"put large data into a file or into stdin" in ended.stderr


def test_closed_standard_descriptors_do_no_harm(tmp_path: Path) -> None:
    with daemons(tmp_path, hello_script) as running:
        words = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *command("true")]
        ended = subprocess.run(words, env=running.env, stderr=subprocess.PIPE, timeout=DEADLINE_S)
    assert ended.returncode == 255
    assert ended.stderr == b"gexec: cannot write stdout: Bad file descriptor; the job is ended\n"


def test_help_and_version_need_no_daemon() -> None:
    env = {"PATH": os.environ["PATH"]}
    assert gexec(env, "-h").stdout.startswith(b"Usage: gexec [OPTIONS] PROGRAM")
    assert gexec(env, "-V").stdout.startswith(b"gexec 1.")
