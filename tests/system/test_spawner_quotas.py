"""What one user may have of a spawner, whatever its relay or its jobs ask for."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gexec.security.policy import Policy, Terms
from gexec.security.replay import ReplayCache
from gexec.wire.jobspec import JobSpec
from gexec.wire.messages import ProcessReady, ProcessRefused
from gexec.wire.outcome import DENIED, EXITED, KILLED, NOT_STARTED, Outcome

from .conftest import wait_until
from .rig import NOBODY, Rig, Task, job, make, rig, signed

__all__ = ["make", "rig"]  # fixtures


def _rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


# -- words that no shell would make -----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"argv": [b""]}, "the program's name, is empty"),
        ({"env": [b"=x=y", b"A=1"]}, None),
        ({"env": [b"NAME"]}, "expected NAME=value"),
        ({"env": [b"=x"]}, "expected NAME=value"),
        ({"cwd": b""}, "expected an absolute path"),
        ({"cwd": b"tmp"}, "expected an absolute path"),
        ({"umask": 0o7777}, "umask 7777: expected 0 to 777"),
        ({"kill_grace_s": 4_000_000.0}, "kill grace 4000000.0: expected 0 to 60 seconds"),
        ({"window": 2**31}, "window 2147483648: expected"),
        ({"argv": [b"x" * 131_072]}, "the kernel takes at most 131071"),
    ],
)
def test_odd_jobs_are_refused_one_by_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str | None
) -> None:
    """Signed by the user and sent by hand; the spawner, which was forked before, checks them itself."""
    monkeypatch.setattr(JobSpec, "check", lambda self: None)
    spec = job(["/bin/true"])
    for name, value in change.items():
        setattr(spec, name, value)
    raw, blob = signed(spec)
    outcome = rig.run(raw, blob).outcome()
    if words is None:
        assert outcome.kind == NOT_STARTED
        assert "its arguments or environment cannot be passed on" in outcome.text
    else:
        assert outcome.kind == DENIED
        assert words in outcome.text
    assert rig.sh("true").outcome().ok


def test_odd_jobs_that_can_run_do(rig: Rig) -> None:
    script = 'echo $# "${#2}" "[$1]" "[$EMPTY]" "[$EQUALS]"; umask'
    argv = ["/bin/sh", "-c", script, "sh", "", "y" * 131_071, ""]
    env = [b"PATH=/usr/bin:/bin", b"EMPTY=", b"EQUALS=a=b", b"EMPTY=", b"!=x", b"1\n=2"]
    task = rig.run(*signed(job(argv, env=env, umask=0o777)))
    assert task.output() == b"3 131071 [] [] [a=b]\n0777\n"
    assert task.outcome().ok


# -- shares -----------------------------------------------------------------------------------


def _three_detached(rig: Rig, uid: int) -> list[int]:
    pids = []
    for _ in range(3):
        task = rig.sh("echo $$; exec sleep 1000", user=uid)
        pids.append(int(task.line()))
        task.started()
        rig.relay.forget(task.number)
    return pids


def test_attack_99_detached_jobs_count_until_they_end(make: Callable[..., Rig]) -> None:
    """--detached was no way past jobs_per_user_max; their ends are in the audit log."""
    uid = os.geteuid()
    rig = make(policy=Policy(allow_nologin=True, terms=Terms(jobs_max=3)))
    pids = _three_detached(rig, uid)
    try:
        refused = rig.sh("true").outcome()
        assert refused.kind == DENIED
        assert "has 3 jobs on this node: at most 3 are allowed" in refused.text
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: rig.sh("true").outcome().ok, "their ends are not noticed")
    ends = [line for line in rig.audit() if line["event"] == "exit" and line["pid"] in pids]
    assert {line["outcome"] for line in ends} == {Outcome(KILLED, signal.SIGKILL).describe()}


@pytest.mark.root
def test_attack_99_the_helper_of_detached_jobs_ends_after_them(make: Callable[..., Rig]) -> None:
    rig = make(tasks_max=8)
    pids = _three_detached(rig, NOBODY.pw_uid)
    try:
        running = rig.sh("echo up; read x", user=NOBODY.pw_uid)
        assert running.line() == b"up"
        refused = rig.sh("true", user=NOBODY.pw_uid).outcome()
        assert refused.kind == NOT_STARTED
        assert f"uid {NOBODY.pw_uid} has 4 processes of jobs on this node" in refused.text
        assert rig.sh("true").outcome().ok
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: rig.sh("true", user=NOBODY.pw_uid).outcome().ok, "their places are not given back")
    os.write(running.stdin, b"\n")
    assert running.outcome().kind == EXITED


@pytest.mark.root
def test_attack_97_checks_of_one_user_leave_places_for_others(make: Callable[..., Rig]) -> None:
    """Strict ranks that are checked and never run: they have places, and give them back."""
    rig = make(tasks_max=16)
    checked: list[ProcessReady] = []
    refused: list[ProcessRefused] = []
    for number in range(2000, 2012):
        raw, blob = signed(job(["/bin/true"]), uid=NOBODY.pw_uid)
        rig.relay.check(number, 0, raw, blob)
        answer = rig.wait(number, ProcessReady, ProcessRefused)
        if isinstance(answer, ProcessReady):
            checked.append(answer)
        else:
            refused.append(answer)
    assert len(checked) == 8
    assert all("uid 65534 has 8 processes of jobs" in one.outcome.text for one in refused)
    assert rig.sh("true").outcome().ok
    rig.relay.kill(checked[0].task, True)
    assert rig.sh("true", user=NOBODY.pw_uid).outcome().ok


@pytest.mark.root
def test_attack_63_one_user_fills_its_share_of_the_replay_cache_and_no_more(make: Callable[..., Rig]) -> None:
    rig = make(replay=ReplayCache(8))
    outcomes = [rig.sh("true", user=NOBODY.pw_uid).outcome() for _ in range(6)]
    assert [outcome.ok for outcome in outcomes] == [True] * 4 + [False] * 2
    assert "4 of uid 65534" in outcomes[-1].text
    second = _another_account()
    assert rig.sh("true", user=second).outcome().ok
    assert rig.sh("true").outcome().ok


def _another_account() -> int:
    for entry in pwd.getpwall():
        if entry.pw_uid not in (0, NOBODY.pw_uid):
            return entry.pw_uid
    pytest.skip("this machine has only the accounts root and nobody")


# -- memory -----------------------------------------------------------------------------------


def test_large_environments_of_running_and_ended_tasks_are_not_kept(rig: Rig) -> None:
    assert rig.sh("true").outcome().ok
    env = [b"V%d=" % number + b"x" * 100_000 for number in range(9)]
    before = _rss_mib(rig.pid)
    tasks: list[Task] = []
    for _ in range(48):
        tasks.append(rig.sh("read x", env=env))
        tasks[-1].started()
    for task in tasks[:24]:
        os.write(task.stdin, b"\n")
        task.outcome()
    assert _rss_mib(rig.pid) - before < 24  # each has 0.9 MiB


# -- a fork bomb ------------------------------------------------------------------------------


@pytest.mark.root
def test_attack_61_98_a_fork_bomb_under_its_own_limit_harms_no_other_user(rig: Rig) -> None:
    """While a user has all processes that it may have, others start theirs; and all of them are ended."""
    # dash has another letter for this limit than other shells. All processes of this user count.
    before = len(_of_user(NOBODY.pw_uid))
    most = before + 150
    limit = f"ulimit -u {most} 2>/dev/null || ulimit -p {most} || exit 9"
    bomb = "f() { f & f & exec sleep 1000; }; f 2>/dev/null & echo up; read x"
    task = rig.sh(f"trap '' TERM HUP; {limit}; {bomb}", user=NOBODY.pw_uid)
    assert task.line() == b"up"
    wait_until(lambda: len(_of_user(NOBODY.pw_uid)) > before + 100, "it does not use them up")
    for _ in range(10):
        assert rig.sh("true").outcome().ok
    rig.relay.kill(task.number, True)
    assert task.outcome() == Outcome(KILLED, signal.SIGKILL)
    assert rig.sh("true").outcome().ok
    assert rig.sh("true", user=NOBODY.pw_uid).outcome().ok
    wait_until(lambda: len(_of_user(NOBODY.pw_uid)) < before + 50, "its processes are left")


def _of_user(uid: int) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                found.append(name)
        except OSError:
            continue
    return found
