"""The spawner as a real process with real helpers, seen from its relay's end of the channel.

The attacks are those of a relay that was taken over, and of jobs that try to get away.
"""

from __future__ import annotations

import os
import pwd
import resource
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from gexec.errors import CredentialError, ProtocolError
from gexec.security.policy import Policy
from gexec.security.replay import ReplayCache
from gexec.security.signers import Signer
from gexec.spawner.accounts import account_of
from gexec.spawner.admission import Admission
from gexec.wire import jobspec, launches, messages
from gexec.wire.messages import ProcessEnded, ProcessReady, ProcessRefused
from gexec.wire.outcome import DENIED, EXITED, KILLED, LOST, NOT_STARTED, Outcome

from .conftest import wait_until
from .frozen import frozen_at
from .rig import DEADLINE_S, KEY, NOBODY, Rig, gone, job, make, rig, signed

__all__ = ["make", "rig"]


# -- tasks ------------------------------------------------------------------------------------


def test_task_runs_with_its_environment_directory_and_streams(rig: Rig, tmp_path: Path) -> None:
    spec = job(
        ["/bin/sh", "-c", "cat; pwd; env; umask; echo err >&2; exit 7"],
        cwd=os.fsencode(tmp_path),
        env=[b"PATH=/usr/bin:/bin", b"A=1=2", b"GEXEC_NODE=liar", b"GEXEC_NPROCS=2"],
        names=(b"node1", b"node2"),
        umask=0o027,
    )
    task = rig.run(*signed(spec))
    os.write(task.stdin, b"hello\n")
    rig.fds.remove(task.stdin)
    os.close(task.stdin)
    assert task.started() > 0
    lines = task.output().decode().splitlines()
    assert os.read(task.stderr, 100) == b"err\n"
    assert task.outcome() == Outcome(EXITED, 7)
    assert lines[:2] == ["hello", str(tmp_path)]
    assert {"A=1=2", "GEXEC_MY_VNN=0", "GEXEC_NODE=node1", "GEXEC_SVRS=node1 node2", "GEXEC_NPROCS=2"} <= set(
        lines
    )
    assert lines[-1].endswith("027")
    rig.close()
    assert [entry["event"] for entry in rig.audit()] == ["accept", "exec", "exit"]


def test_large_job_travels_in_a_sealed_memfd(rig: Rig) -> None:
    big = "x" * 100_000
    task = rig.sh('echo "${#BIG}"', env=[f"BIG={big}".encode()])
    assert task.output() == b"100000\n"


@pytest.mark.parametrize(
    ("argv", "options", "status", "words"),
    [
        (["/no/such"], {}, 127, "program /no/such: No such file or directory on this node (--remote-path"),
        (["/bin/ls /tmp"], {}, 127, "on this node (a whole command line is for enexec, or gexec sh -c)"),
        (["/etc/passwd/no"], {}, 127, "program /etc/passwd/no: Not a directory"),
        (["/etc/passwd"], {}, 126, "program /etc/passwd: Permission denied"),
        (["/"], {}, 126, "program /: Permission denied"),
        (["/bin/true"], {"cwd": b"/no/dir"}, 255, "working directory /no/dir: No such file or directory"),
        (["/bin/true"], {"cwd": b"/etc/passwd"}, 255, "working directory /etc/passwd: Not a directory"),
        (["nosuch"], {"flags": jobspec.REMOTE_PATH}, 127, "program nosuch: not found in the job's PATH"),
    ],
)
def test_what_cannot_start_says_why(
    rig: Rig, argv: list[str], options: dict[str, Any], status: int, words: str
) -> None:
    raw, blob = signed(job(argv, **options))
    outcome = rig.run(raw, blob).outcome()
    assert (outcome.kind, outcome.exit_status) == (NOT_STARTED, status)
    assert words in outcome.text
    assert outcome.value > 0
    raw, blob = signed(job(argv, **options))
    rig.relay.check(500, 0, raw, blob)
    assert words in rig.wait(500, ProcessRefused).outcome.text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("#!/no/such/interpreter", "the interpreter that it names does not exist"),
        ("no script", "neither a program for this machine nor a script"),
    ],
)
def test_a_script_that_cannot_be_executed_says_why(rig: Rig, tmp_path: Path, line: str, words: str) -> None:
    script = tmp_path / "script"
    script.write_text(f"{line}\n")
    script.chmod(0o755)
    outcome = rig.run(*signed(job([str(script)]))).outcome()
    assert (outcome.kind, outcome.exit_status) == (NOT_STARTED, 126)
    assert words in outcome.text


def test_script_without_interpreter_line_is_told(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text("echo no\n")
    path.chmod(0o755)
    assert "Exec format error" in rig.run(*signed(job([str(path)]))).outcome().text
    path.write_text("#!/no/interpreter\n")
    assert "interpreter" in rig.run(*signed(job([str(path)]))).outcome().text


def test_remote_path_finds_the_program(rig: Rig) -> None:
    task = rig.run(*signed(job(["echo", "found"], flags=jobspec.REMOTE_PATH)))
    assert task.output() == b"found\n"


def test_strict_check_then_run(rig: Rig) -> None:
    raw, blob = signed(job(["/bin/echo", "go"]))
    rig.relay.check(9, 0, raw, blob)
    rig.wait(9, ProcessReady)
    task = rig.run(raw, blob, number=9)
    assert task.output() == b"go\n"
    assert task.outcome() == Outcome(EXITED, 0)
    assert rig.run(raw, blob).outcome().kind == DENIED


def test_signals_reach_the_group(rig: Rig) -> None:
    task = rig.sh("trap 'echo usr1; exit 3' USR1; echo up; while :; do sleep 0.05; done")
    assert task.line() == b"up"
    rig.relay.signal(task.number, signal.SIGUSR1)
    assert task.line() == b"usr1"
    assert task.outcome() == Outcome(EXITED, 3)


def test_stop_and_continue_work(rig: Rig) -> None:
    task = rig.sh("echo up; exec sleep 1000")
    pid = task.started()
    assert task.line() == b"up"
    for signum, states in ((signal.SIGTSTP, "T"), (signal.SIGCONT, "SR")):
        rig.relay.signal(task.number, signum)
        until_s = time.monotonic() + DEADLINE_S
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in states:
            assert time.monotonic() < until_s
            time.sleep(0.01)
    rig.relay.kill(task.number, True)
    assert task.outcome() == Outcome(KILLED, signal.SIGKILL)


def test_signals_are_default_and_unblocked_in_the_task(rig: Rig) -> None:
    task = rig.run(*signed(job(["/bin/grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"])))
    reserved = 0b11 << 31  # 32 and 33 are the C library's own; nobody can set them
    assert [int(line.split()[1], 16) & ~reserved for line in task.output().splitlines()] == [0, 0]


def test_kill_is_gentle_then_hard(rig: Rig) -> None:
    task = rig.sh("trap '' TERM HUP; echo up; while :; do sleep 0.05; done")
    assert task.line() == b"up"
    rig.relay.kill(task.number, False)
    assert task.outcome() == Outcome(KILLED, signal.SIGKILL)
    rig.close()
    assert "kill" in [entry["event"] for entry in rig.audit()]


def test_end_of_relay_ends_the_tasks(rig: Rig) -> None:
    tasks = [rig.sh("echo $$; trap '' TERM HUP; sleep 1000 & wait; sleep 1000") for _ in range(3)]
    pids = [int(task.line()) for task in tasks]
    assert rig.close() == 0
    assert all(gone(pid) for pid in pids)


def test_forgotten_task_outlives_its_relay(rig: Rig) -> None:
    task = rig.sh("echo $$; exec sleep 1000")
    pid = int(task.line())
    task.started()
    rig.relay.forget(task.number)
    try:
        assert rig.close() == 0
        os.kill(pid, 0)
    finally:
        os.kill(pid, signal.SIGKILL)


# -- attacks: binding -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("15_argv", {"argv": [b"/bin/echo", b"other"]}),
        ("16_env", {"env": [b"PATH=/evil"]}),
        ("17_cwd", {"cwd": b"/tmp"}),
        ("18_targets", {"names": [b"node2"]}),
        ("19_options", {"umask": 0}),
    ],
)
def test_attack_15_to_19_swapped_part_of_the_job(rig: Rig, name: str, change: dict[str, Any]) -> None:
    spec = job(["/bin/echo", "hello"])
    raw, _ = signed(spec)
    for attribute, value in change.items():
        setattr(spec, attribute, value)
    outcome = rig.run(raw, spec.encode()).outcome()
    assert outcome.kind == DENIED
    assert "not the one that the credential was signed for" in outcome.text


def test_attack_20_replay_on_the_same_host(rig: Rig) -> None:
    raw, blob = signed(job(["/bin/true"]))
    assert rig.run(raw, blob).outcome().ok
    outcome = rig.run(raw, blob).outcome()
    assert outcome.kind == DENIED
    assert "it runs once" in outcome.text


def test_attack_21_22_replay_after_a_restart(make: Callable[..., Rig]) -> None:
    raw, blob = signed(job(["/bin/true"]))
    assert make().run(raw, blob).outcome().ok
    again = make(started_s=time.time())
    assert "before this node's gexecd started" in again.run(raw, blob).outcome().text
    assert again.run(*signed(job(["/bin/true"]))).outcome().ok


@pytest.mark.parametrize("name", [b"node2", b"10.0.0.2", b"localhost", b"127.0.0.1", b"::1", b"node1.evil"])
def test_attack_23_24_66_job_for_another_node(rig: Rig, name: bytes) -> None:
    outcome = rig.run(*signed(job(["/bin/true"], names=(name,)))).outcome()
    assert outcome.kind == DENIED
    assert "none of this node's names" in outcome.text


@pytest.mark.parametrize("name", [b"NODE1", b"node1.", b"10.0.0.1"])
def test_node_is_known_by_its_names_and_addresses(rig: Rig, name: bytes) -> None:
    assert rig.run(*signed(job(["/bin/true"], names=(name,)))).outcome().ok


@pytest.mark.parametrize("raw", [b"", b"x", b"GXC\x01" + bytes(200)])
def test_attack_25_65_no_credential(rig: Rig, raw: bytes) -> None:
    assert rig.run(raw, job(["/bin/true"]).encode()).outcome().kind == DENIED


def test_attack_26_27_identity_that_the_node_does_not_know(rig: Rig) -> None:
    own = os.geteuid()
    for changes in ({"user": "somebody"}, {"gid": 4_000_000}):
        outcome = rig.run(*signed(job(["/bin/true"]), uid=own, **changes)).outcome()
        assert outcome.kind == DENIED
        assert "on this node" in outcome.text
    assert rig.run(*signed(job(["/bin/true"]), uid=own)).outcome().ok


def test_rank_out_of_range_is_refused(rig: Rig) -> None:
    assert "so none is number 5" in rig.run(*signed(job(["/bin/true"])), rank=5).outcome().text


# -- attacks: resources -----------------------------------------------------------------------


def test_attack_61_fork_bomb_is_ended(rig: Rig) -> None:
    script = "f() { n=$1; while [ $n -gt 0 ]; do (f $((n-1))) & n=$((n-1)); done; sleep 1000; }; f 5; wait"
    task = rig.sh(f"echo up; {script}")
    assert task.line() == b"up"
    rig.relay.kill(task.number, True)
    assert task.outcome() == Outcome(KILLED, signal.SIGKILL)
    assert task.output() == b""  # its end comes only when no process holds the pipe any more


def test_attack_62_environment_of_10_mb(rig: Rig) -> None:
    with pytest.raises(ValueError, match="over the limit"):
        rig.relay.run(1, 0, b"", bytes(10 * 1024 * 1024), (0, 1, 2))


def test_attack_63_replay_cache_is_filled(make: Callable[..., Rig]) -> None:
    rig = make(replay=ReplayCache(4, superuser=1))
    assert rig.sh("true").outcome().ok
    assert rig.sh("true").outcome().ok
    outcome = rig.sh("true").outcome()
    assert outcome.kind == DENIED
    assert "can remember no more" in outcome.text


# -- what runs out, and defects: one task's matter --------------------------------------------


def _fds_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_an_unexpected_error_about_one_task_refuses_that_task_and_keeps_nothing(
    make: Callable[..., Rig],
) -> None:
    def defective(uid: int) -> Any:
        raise KeyError("a defect")

    rig = make(account_of=defective)
    refused = rig.sh("true").outcome()
    assert refused.kind == NOT_STARTED
    assert "gexecd on this node failed on this process: KeyError" in refused.text
    before = _fds_of(rig.pid)
    for _ in range(20):
        assert rig.sh("true").outcome().kind == NOT_STARTED
    assert _fds_of(rig.pid) == before


def test_turns_that_fail_end_nothing(make: Callable[..., Rig]) -> None:
    rig = make(faults=20)
    task = rig.sh("echo up; read x; exit 3")
    assert task.line() == b"up"
    os.write(task.stdin, b"\n")
    assert task.outcome() == Outcome(EXITED, 3)
    assert "unexpected KeyError: 'a defect'" in rig.log_path.read_text()


def test_a_loop_that_only_fails_ends_its_tasks_with_a_status_of_its_own(tmp_path: Path) -> None:
    rig = Rig(tmp_path, faults=60_000)
    task = rig.sh("echo $$; exec sleep 1000")
    pid = int(task.line())
    _, status = os.waitpid(rig.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert gone(pid)
    assert "turns in succession have failed: ending 1 tasks" in rig.log_path.read_text()
    rig.relay.close()
    for fd in rig.fds:
        os.close(fd)


@pytest.mark.root
def test_a_user_without_a_process_left_is_told_so(make: Callable[..., Rig]) -> None:
    rig = make(task_limits={resource.RLIMIT_NPROC: (1, 1)})
    refused = rig.sh("true", user=NOBODY.pw_uid).outcome()
    assert refused.kind == NOT_STARTED
    assert "this node has no room for one more process of this user" in refused.text
    assert rig.sh("true").outcome().ok


@pytest.mark.root
def test_no_descriptor_for_a_helper_refuses_its_user_alone(make: Callable[..., Rig]) -> None:
    rig = make()
    assert rig.sh("true").outcome().ok
    used = {int(name) for name in os.listdir(f"/proc/{rig.pid}/fd")}
    most = sorted(set(range(100)) - used)[2] + 1  # a task's three fit, and no more
    resource.prlimit(rig.pid, resource.RLIMIT_NOFILE, (most, most))
    refused = rig.sh("true", user=NOBODY.pw_uid).outcome()
    assert refused.kind == NOT_STARTED
    assert "out of resources" in refused.text
    assert "Too many open files" in refused.text
    assert rig.sh("true").outcome().ok


@pytest.mark.root
def test_another_users_task_has_the_descriptors_that_were_configured(make: Callable[..., Rig]) -> None:
    rig = make(
        task_limits={resource.RLIMIT_NOFILE: (300, 2000)}, limits={resource.RLIMIT_NOFILE: (2000, 2000)}
    )
    for user in (None, NOBODY.pw_uid):
        assert rig.sh("ulimit -Sn; ulimit -Hn", user=user).output() == b"300\n2000\n"


# -- attacks: privilege -----------------------------------------------------------------------


def test_attack_67_fd_confusion(rig: Rig, tmp_path: Path) -> None:
    raw, blob = signed(job(["/bin/true"]))
    victim = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    rig.relay.run(1, 0, raw, blob, (victim, victim, victim))
    assert "neither a pipe nor /dev/null" in rig.wait(1, ProcessRefused).outcome.text
    os.close(victim)
    assert rig.sh("true").outcome().ok


@pytest.mark.parametrize(
    "datagram",
    [b"x", b"\xff" * 10, messages.HEAD.pack(messages.RUN, 0, 1, 0), messages.HEAD.pack(99, 0, 1, 0),
     messages.HEAD.pack(3, 0, 1, 65), messages.HEAD.pack(messages.RUN, 1, 1, 0),
     messages.HEAD.pack(launches.LAUNCH, 0, 1, 0) + b"\0" * 60, messages.HEAD.pack(9, 0, 1, 9)],
)  # fmt: skip
def test_attack_45_53_malformed_message_ends_the_channel_and_the_tasks(rig: Rig, datagram: bytes) -> None:
    task = rig.sh("echo $$; exec sleep 1000")
    pid = int(task.line())
    task.started()
    rig._sock.send(datagram)
    with pytest.raises((ConnectionError, ProtocolError)):
        rig.wait(999, ProcessEnded)
    assert gone(pid)


def test_unsealed_memfd_is_refused(rig: Rig) -> None:
    memfd = os.memfd_create("loose")
    os.write(memfd, bytes(100))
    socket.send_fds(rig._sock, [messages.HEAD.pack(messages.CHECK, messages.FLAG_MEMFD, 1, 0)], [memfd])
    os.close(memfd)
    with pytest.raises((ConnectionError, ProtocolError)):
        rig.wait(999, ProcessEnded)


def test_attack_69_no_descriptor_but_stdio(rig: Rig) -> None:
    # ls itself opens one more, for the directory.
    task = rig.run(*signed(job(["/bin/ls", "/proc/self/fd"])))
    assert task.output().split() == [b"0", b"1", b"2", b"3"]


def test_attack_85_escape_during_kill(rig: Rig) -> None:
    script = "for i in 1 2 3; do env -i /usr/bin/setsid /bin/sh -c 'echo $$; exec sleep 1000' & done; wait"
    task = rig.sh(script)
    pids = [int(task.line()) for _ in range(3)]
    rig.relay.kill(task.number, True)
    assert task.outcome() == Outcome(KILLED, signal.SIGKILL)
    assert all(gone(pid) for pid in pids)


# -- other users ------------------------------------------------------------------------------


@pytest.mark.root
def test_attack_28_68_task_of_another_user_has_that_identity_only(rig: Rig) -> None:
    task = rig.sh(
        "id -u; id -g; id -G; grep -E '^(Uid|Gid|Groups|CapEff|CapPrm)' /proc/self/status", user=NOBODY.pw_uid
    )
    lines = task.output().decode().splitlines()
    assert task.outcome() == Outcome(EXITED, 0)
    uid, gid = str(NOBODY.pw_uid), str(NOBODY.pw_gid)
    assert lines[:2] == [uid, gid]
    assert {int(word) for word in lines[2].split()} == set(os.getgrouplist("nobody", NOBODY.pw_gid))
    facts = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines[3:]}
    assert facts["Uid"] == [uid] * 4
    assert facts["Gid"] == [gid] * 4
    assert facts["CapEff"] == facts["CapPrm"] == ["0" * 16]


@pytest.mark.root
def test_attack_69_task_of_another_user_has_no_other_descriptor(rig: Rig) -> None:
    task = rig.run(*signed(job(["/bin/ls", "/proc/self/fd"]), uid=NOBODY.pw_uid))
    assert task.output().split() == [b"0", b"1", b"2", b"3"]


@pytest.mark.root
def test_attack_67_68_helper_cannot_be_traced_or_read_by_its_user(rig: Rig) -> None:
    script = "p=$PPID; ls /proc/$p/fd 2>&1 | head -1; cat /proc/$p/mem 2>&1 | head -c 100; cat /proc/$p/comm"
    task = rig.sh(script, user=NOBODY.pw_uid)
    text = task.output().decode()
    assert text.count("Permission denied") == 2
    assert text.endswith("gexecd-helper\n")


@pytest.mark.root
def test_one_helper_for_all_tasks_of_a_user(rig: Rig) -> None:
    parents = {rig.sh("echo $PPID", user=NOBODY.pw_uid).output() for _ in range(5)}
    assert len(parents) == 1
    assert len(_children(rig.pid)) == 1


@pytest.mark.root
def test_killed_helper_loses_its_tasks_and_leaves_nothing(rig: Rig) -> None:
    task = rig.sh(
        "echo $PPID $$; trap '' TERM; setsid sleep 1000 & echo $!; exec sleep 1000", user=NOBODY.pw_uid
    )
    helper, pid = map(int, task.line().split())
    other = int(task.line())
    task.started()
    os.kill(helper, signal.SIGKILL)
    assert task.outcome().kind == LOST
    assert gone(pid)
    assert gone(other)
    assert rig.sh("true", user=NOBODY.pw_uid).outcome().ok


@pytest.mark.root
def test_stopped_helper_does_not_stop_the_spawner(rig: Rig) -> None:
    task = rig.sh("kill -STOP $PPID; echo stopped; exec sleep 1000", user=NOBODY.pw_uid)
    assert task.line() == b"stopped"
    assert rig.sh("true").outcome().ok
    rig.relay.kill(task.number, True)
    assert task.outcome() == Outcome(KILLED, signal.SIGKILL)


@pytest.mark.root
def test_attack_73_signal_does_not_leave_the_task(rig: Rig) -> None:
    mine = rig.sh("echo up; read x; echo $x")
    theirs = rig.sh("echo up; exec sleep 1000", user=NOBODY.pw_uid)
    assert mine.line() == theirs.line() == b"up"
    rig.relay.signal(theirs.number, signal.SIGTERM)
    rig.relay.signal(12345, signal.SIGTERM)
    assert theirs.outcome() == Outcome(KILLED, signal.SIGTERM)
    os.write(mine.stdin, b"alive\n")
    assert mine.line() == b"alive"


@pytest.mark.root
def test_attack_81_nologin_account(make: Callable[..., Rig]) -> None:
    outcome = make(policy=Policy()).sh("true", user=NOBODY.pw_uid).outcome()
    assert outcome.kind == DENIED
    assert "may not log in" in outcome.text


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_ordinary_user_serves_only_itself(rig: Rig) -> None:
    assert "serves that user only" in rig.sh("true", user=0).outcome().text


@pytest.mark.root
def test_end_of_relay_ends_other_users_tasks_and_helpers(rig: Rig) -> None:
    task = rig.sh("echo $PPID $$; trap '' TERM HUP; while :; do sleep 0.1; done", user=NOBODY.pw_uid)
    pids = [int(word) for word in task.line().split()]
    assert rig.close() == 0
    assert all(gone(pid) for pid in pids)


def test_attack_80_audit_holds_no_control_characters(rig: Rig) -> None:
    rig.run(*signed(job(["/bin/echo", "\x1b[2J\x07\n\x7f\x9b31m"]))).outcome()
    rig.close()
    raw = rig.audit_path.read_bytes()
    assert not any((byte < 32 and byte != 10) or byte >= 127 for byte in raw)
    assert stat.S_IMODE(rig.audit_path.stat().st_mode) == 0o600


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.root
def test_a_task_that_sigkill_does_not_end_costs_its_user_no_other_task(
    make: Callable[..., Rig],
) -> None:
    """Its storage hangs. Their helper has done what it can, and is left alone."""
    rig = make()
    with TemporaryDirectory(prefix="gxf", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        _one_hangs(rig, Path(folder) / "disk")


def _one_hangs(rig: Rig, disk: Path) -> None:
    with frozen_at(disk, NOBODY.pw_uid) as freeze:
        other = rig.sh("echo up; read line; echo $line", user=NOBODY.pw_uid)
        assert other.line() == b"up"
        hung = rig.sh(f"cd {disk} && echo up && read line && echo x >file", user=NOBODY.pw_uid)
        assert hung.line() == b"up"
        pid = hung.started()
        freeze()
        os.write(hung.stdin, b"go\n")
        status = Path(f"/proc/{pid}/stat")
        wait_until(lambda: " D " in status.read_text(), "it does not hang")
        rig.relay.kill(hung.number, True)
        text = f"process {pid} of nobody does not end on SIGKILL: its storage hangs?"
        wait_until(lambda: text in rig.log_path.read_text(), "nobody reports it")
        os.write(other.stdin, b"still here\n")
        assert other.line() == b"still here"
        assert other.outcome() == Outcome(EXITED, 0)
        last = rig.sh("echo new", user=NOBODY.pw_uid)
        assert last.output() == b"new\n"
    assert hung.outcome() == Outcome(KILLED, 9)


def test_attack_120_a_signer_for_a_group_does_not_sign_for_others() -> None:
    """Not for root, who needs no group: so that the check in the spawner is tried whoever runs the tests."""
    entry = pwd.getpwuid(os.geteuid()) if os.geteuid() else pwd.getpwnam("daemon")
    signer = Signer(KEY.public, "head", groups=frozenset({"no-such-group"}))
    admission = Admission(
        signers={KEY.key_id: signer},
        realm="test",
        names=("node1",),
        policy=Policy(allow_nologin=True),
        started_s=time.time() - 1,
        account_of=account_of,
    )
    credential, blob = signed(job(["/bin/true"]), uid=entry)
    with pytest.raises(CredentialError, match="none of the groups of the signer head"):
        admission.admit(credential, blob, 0, now_s=time.time(), jobs_of=lambda uid, command: 0)
