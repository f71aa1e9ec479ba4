"""The engine behind ensh with a real sshd: what ssh runs comes back as it was, byte for byte."""

from __future__ import annotations

import fcntl
import os
import pwd
import resource
import shutil
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from gexec import limits
from gexec.errors import DaemonError, UsageError
from gexec.posix.descendants import children_of
from gexec.ssh.job import SshOptions, prepare
from gexec.ssh.script import JobLines
from gexec.wire import outcome as outcomes
from gexec.wire.jobspec import STRICT
from gexec.wire.outcome import exited, killed

from .conftest import DEADLINE_S, program, wait_until
from .ssh_jobs import EIGHT, Run, engine_of, port_of_nobody, run, start
from .sshd import NETWORK, Sshd

# -- what comes back ----------------------------------------------------------------------------


def test_eight_nodes_at_once_with_both_streams_and_each_status(sshd: Sshd) -> None:
    done = run(
        sshd, EIGHT, "sh", "-c", 'echo "out $GEXEC_NODE"; echo "err $GEXEC_MY_VNN" >&2; exit $GEXEC_MY_VNN'
    )
    assert done.outcomes == [exited(rank) for rank in range(8)]
    for rank, name in enumerate(EIGHT):
        assert done.stdout(rank) == f"out {name}\n".encode()
        assert done.stderr(rank) == f"err {rank}\n".encode()
    assert sorted(rank for kind, rank in done.events if kind == "started") == list(range(8))


def test_every_byte_arrives_as_it_was_on_both_streams(sshd: Sshd, tmp_path: Path) -> None:
    data = os.urandom(1024 * 1024) + b"\1\1" + bytes(range(256)) * 16 + b"\377\0no newline\1"
    path = tmp_path / "data"
    path.write_bytes(data)
    done = run(sshd, ["node1", "node2"], "sh", "-c", 'cat "$1"; cat "$1" >&2', "sh", str(path))
    assert done.outcomes == [exited(0)] * 2
    for rank in range(2):
        assert done.stdout(rank) == data
        assert done.stderr(rank) == data


@pytest.mark.parametrize("status", [1, 126, 127, 128, 254, 255])
def test_every_status_is_the_commands_own(sshd: Sshd, status: int) -> None:
    assert run(sshd, ["node1"], "sh", "-c", f"exit {status}").outcomes == [exited(status)]


def test_a_signal_that_ended_the_command_is_told(sshd: Sshd) -> None:
    done = run(sshd, ["node1"], "sh", "-c", "kill -SEGV $$")
    assert done.outcomes == [killed(signal.SIGSEGV)]
    assert done.stderr() == b""  # no shell says anything about it


def test_a_program_that_is_not_there_is_127_with_the_nodes_words(sshd: Sshd) -> None:
    done = run(sshd, ["node1"], "no-such-program-anywhere")
    assert done.outcomes == [exited(127)]
    assert b"no-such-program-anywhere" in done.stderr()


def test_builtins_of_the_shell_are_no_programs(sshd: Sshd) -> None:
    assert run(sshd, ["node1"], "exit", "3").outcomes == [exited(127)]


def test_words_arrive_to_the_byte(sshd: Sshd) -> None:
    words: list[str | bytes] = [
        "", " ", "a'b", '"', "$HOME", "`id`", "$(id)", "\\", "\\n", "\n", "a\n\n", "!", "!!", "*", "~", "%s",
        "-n", "--", "a;b&c|d>e<f", "é", b"\xff\xfe", bytes(range(1, 256)), "#", "\t", "{a,b}", "x" * 50_000,
    ]  # fmt: skip
    done = run(sshd, ["node1"], "printf", "%s\\001", *words)
    assert done.outcomes == [exited(0)]
    assert done.stdout() == b"".join(os.fsencode(word) + b"\1" for word in words)


LOGIN_SHELLS = [
    ["dash"],
    ["bash"],
    ["zsh"],
    ["ksh"],
    ["mksh"],
    ["csh"],
    ["tcsh"],
    ["fish"],
    ["busybox", "sh"],
]


@pytest.mark.parametrize("shell", LOGIN_SHELLS, ids=lambda shell: str(shell[0]))
def test_words_survive_every_login_shell(shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"needs {shell[0]}")
    nasty = bytes(range(1, 256)) + b"!a!!\\!\n'\\''"
    job = prepare([("node", 0)], [b"printf", b"%s", nasty], stdin=True)
    done = subprocess.run(
        [os.fsencode(word) for word in shell] + [b"-c", JobLines(job, b"mark", b"").of(0)],
        input=b"go\n",
        capture_output=True,
        timeout=DEADLINE_S,
        start_new_session=True,
    )
    begin, _, rest = done.stdout.partition(b"\n")
    assert begin.startswith(b"\1mark ")
    assert rest.endswith(b"\1mark 0\n")
    assert rest.removesuffix(b"\1mark 0\n") == nasty


def test_gexecs_variables_are_set_and_the_callers_stay_at_home(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOT_FOR_OTHERS", "1")
    done = run(sshd, ["node1", "node2"], "env")
    names = dict(line.split(b"=", 1) for line in done.stdout(1).splitlines() if b"=" in line)
    assert names[b"GEXEC_MY_VNN"] == b"1"
    assert names[b"GEXEC_NPROCS"] == b"2"
    assert names[b"GEXEC_NODE"] == b"node2"
    assert names[b"GEXEC_SVRS"] == b"node1 node2"
    assert names[b"GEXEC_GPID"]
    assert b"NOT_FOR_OTHERS" not in names


def test_the_command_runs_at_home_or_where_it_is_told_to(sshd: Sshd, tmp_path: Path) -> None:
    home = run(sshd, ["node1"], "sh", "-c", '[ "$PWD" -ef ~ ] || [ "$PWD" = "$HOME" ]')
    assert home.outcomes == [exited(0)]
    place = tmp_path / "it's a $place"
    place.mkdir()
    with start(sshd, ["node1"], "pwd", options=SshOptions(command=sshd.ssh, chdir=str(place))) as job:
        assert job.finish().stdout() == os.fsencode(place) + b"\n"
    nowhere = SshOptions(command=sshd.ssh, chdir="/nonexistent")
    with start(sshd, ["node1"], "pwd", options=nowhere) as job:
        [outcome] = job.finish().outcomes
    assert outcome.kind == outcomes.NOT_STARTED
    assert "/nonexistent" in outcome.text


def test_what_the_login_prints_is_not_the_commands_output(sshd: Sshd) -> None:
    done = run(sshd, ["noisy"], "sh", "-c", "echo out; echo err >&2; exit 3")
    assert done.outcomes == [exited(3)]
    assert done.stdout() == b"out\n"
    assert done.stderr() == b"err\n"


# -- names and ways -----------------------------------------------------------------------------


def test_a_user_and_a_port_can_be_named(sshd: Sshd) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    job = prepare([(f"{user}@node1", sshd.port)], ["id", "-un"], stdin=False)
    with Run(job, SshOptions(command=sshd.ssh)) as done:
        assert done.finish().stdout() == user.encode() + b"\n"
    job = prepare([("node1", port_of_nobody())], ["true"], stdin=False)
    with Run(job, SshOptions(command=sshd.ssh)) as done:
        [outcome] = done.finish().outcomes
    assert "refused" in outcome.text


def test_gexec_ssh_names_the_ssh_and_its_options(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEXEC_SSH", " ".join(sshd.ssh))
    with start(sshd, ["node1"], "echo", "here", options=SshOptions()) as job:
        assert job.finish().stdout() == b"here\n"
    with start(sshd, ["node1"], "true", options=SshOptions(arguments=["-p", str(port_of_nobody())])) as job:
        assert "refused" in job.finish().outcomes[0].text


def test_an_ssh_that_is_not_there_is_an_error_before_anything_starts(sshd: Sshd) -> None:
    with pytest.raises(UsageError, match="not found in PATH"):
        start(sshd, ["node1"], "true", options=SshOptions(command=["no-such-ssh"]))


def test_a_command_that_is_too_long_is_an_error_before_anything_starts(sshd: Sshd) -> None:
    with pytest.raises(UsageError, match="at most"):
        start(sshd, ["node1"], "echo", "x" * 100_000, "y" * 100_000)


def test_a_strict_job_is_refused_in_words(sshd: Sshd) -> None:
    job = prepare([("node1", 0)], ["true"])
    job.flags |= STRICT
    with Run(job, SshOptions(command=sshd.ssh)) as refused, pytest.raises(DaemonError, match="strict"):
        refused.finish()


# -- order, stdin, flow -------------------------------------------------------------------------


def test_a_fanout_of_one_is_one_node_after_the_other(sshd: Sshd) -> None:
    done = run(sshd, EIGHT[:4], "echo", "here", fanout=1)
    assert done.outcomes == [exited(0)] * 4
    assert done.events == [(kind, rank) for rank in range(4) for kind in ("started", "ended")]


@pytest.mark.parametrize("fanout", [64, 2, 1])
def test_stdin_goes_to_all_whether_they_run_at_once_or_not(sshd: Sshd, fanout: int) -> None:
    data = os.urandom(5 * 1024 * 1024)
    done = run(sshd, EIGHT[:4], "cat", stdin=data, fanout=fanout)
    assert done.outcomes == [exited(0)] * 4
    assert all(done.stdout(rank) == data for rank in range(4))


def test_a_byte_held_back_from_one_read_does_not_make_the_next_too_long(sshd: Sshd, tmp_path: Path) -> None:
    # A read that ends with \1 waits with it for the next one: it could begin the mark of the end. What is
    # more than the window waits in full pipes, of which a read gets all it may: not a multiple of 3.
    size, written = 2 * 1024 * 1024, tmp_path / "written"
    script = f"yes \"$(printf '\\1')x\" | head -c {size}; : >'{written}'"
    with start(sshd, ["node1"], "sh", "-c", script) as job:
        wait_until(written.exists, "the command waits for its reader")
        job.finish()
    assert (job.outcomes, job.stdout()) == ([exited(0)], (b"\1x\n" * size)[:size])


def test_a_reader_that_stops_reading_holds_nobody_up(sshd: Sshd) -> None:
    data = bytes(8 * 1024 * 1024)
    done = run(sshd, ["node1", "node2"], "sh", "-c", "[ $GEXEC_MY_VNN = 0 ] || exec wc -c", stdin=data)
    assert done.outcomes == [exited(0)] * 2
    assert int(done.stdout(1)) == len(data)


def test_stdin_with_nobody_to_read_it_is_not_waited_for(sshd: Sshd) -> None:
    names = ["stranger", f"{NETWORK}.99"]
    done = run(sshd, names, "cat", stdin=bytes(8 * 1024 * 1024))
    assert [outcome.exit_status for outcome in done.outcomes] == [255, 255]


_NO_ROOM = """
import sys, tests.system.ssh_jobs as here
class Server: ssh = sys.argv[1:]
command = ["sh", "-c", "cat >/dev/null; sleep 1000"]
done = here.run(Server, ["node1", "node2"], *command, stdin=bytes(5000000), fanout=1)
print(done.outcomes)
"""


def test_a_disk_without_room_for_stdin_ends_the_job_and_is_told(sshd: Sshd) -> None:
    done = subprocess.run(
        [*program(_NO_ROOM), *sshd.ssh],
        cwd=Path(__file__).resolve().parents[2],
        timeout=DEADLINE_S,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),
    )
    assert "killed by signal" in done.stdout, done.stderr
    assert "not started: cannot keep stdin on disk: File too large" in done.stdout


def test_no_stdin_is_the_end_of_file(sshd: Sshd) -> None:
    assert run(sshd, ["node1"], "cat").outcomes == [exited(0)]
    assert run(sshd, ["node1"], "cat", stdin=b"").outcomes == [exited(0)]


def test_a_client_that_reads_nothing_stops_everything_in_bounded_memory(sshd: Sshd) -> None:
    with start(sshd, EIGHT[:4], "yes") as job:
        job.until(lambda: job.session.started == ((0, 4),))
        engine = engine_of()

        def read_bytes() -> int:
            return int(Path(f"/proc/{engine}/io").read_text().split()[1])

        def stands_still() -> bool:
            # It sleeps while there is something to read from each ssh, and reads none of it.
            before = read_bytes()
            return _full_pipes(engine) >= 4 and _state(engine) == "S" and read_bytes() == before

        first = read_bytes()
        wait_until(stands_still, "the engine goes on reading")
        last = read_bytes()
        [peak] = [line for line in Path(f"/proc/{engine}/status").read_text().splitlines() if "VmHWM" in line]
        assert int(peak.split()[1]) < 48 * 1024  # KiB; an interpreter with its modules has half of that
        assert last - first <= 4 * limits.WINDOW_MAX_BYTES + 4 * limits.READ_CHUNK_BYTES
        job.session.kill(now=True)
        job.connection.send()
        wait_until(lambda: not _commands(sshd.process.pid), "the commands are not killed")
        # A reader that is slow is not a node that is silent: the engine looks (CONFIRM_S), and lets ssh be.
        looked = _wakeups(engine)
        wait_until(lambda: _wakeups(engine) > looked, "the engine does not look")
        assert job.finish().outcomes == [killed(signal.SIGKILL)] * 4


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _full_pipes(pid: int) -> int:
    """Return how many pipes of a process hold data that was not read."""
    count = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        if not os.readlink(path).startswith("pipe:"):
            continue
        try:
            pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except PermissionError:
            continue  # inherited: of another user, who has started the tests
        count += bytes(4) != fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
        os.close(pipe)
    return count


def _commands(sshd: int) -> list[int]:
    """Return the processes behind a server that are `yes`."""
    found, waiting = [], children_of(sshd)
    while waiting:
        pid = waiting.pop()
        waiting += children_of(pid)
        try:
            if Path(f"/proc/{pid}/comm").read_text() == "yes\n":
                found.append(pid)
        except OSError:
            pass
    return found


def _wakeups(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
