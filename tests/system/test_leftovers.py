"""What commands leave behind, with a real spawner and real helpers: left alone, or ended."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gexec.security.policy import Policy
from gexec.wire.messages import ProcessEnded, ProcessLeft
from gexec.wire.outcome import EXITED, KILLED, Outcome
from system.conftest import wait_until
from system.groups import own_group
from system.rig import DEADLINE_S, NOBODY, Rig, Task, gone, rig, rigs

__all__ = ["rig"]

QUIET = ">/dev/null 2>&1 </dev/null"
#: Ways in which services come up; each prints the pid of what it leaves.
DAEMONS = {
    "nohup": f"nohup setsid sleep 1000 {QUIET} & echo $!",
    "background": f"sleep 1000 {QUIET} & echo $!",
    "double-fork": f"(setsid sh -c 'echo $$; exec sleep 1000 {QUIET}' &)",
    "wiped": f"env -i /usr/bin/setsid /bin/sh -c 'echo $$; exec sleep 1000 {QUIET}' &",
    "wiped-double-fork": f"(env -i /usr/bin/setsid /bin/sh -c 'echo $$; exec sleep 1000 {QUIET}' &) & wait",
    "start-stop-daemon": "start-stop-daemon --start --background --make-pidfile --pidfile PIDFILE "
    "--exec /bin/sleep -- 1000; while ! test -s PIDFILE; do sleep 0.02; done; cat PIDFILE",
}
#: The user who runs the task: the spawner's own (None), or another through a helper.
USERS = [None, pytest.param(NOBODY.pw_uid, marks=pytest.mark.root)]


@pytest.fixture(params=["by subreaper", pytest.param("in cells", marks=pytest.mark.root)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Rigs of a test, without and with control groups."""
    with ExitStack() as stack:
        group = {"group": stack.enter_context(own_group())} if request.param == "in cells" else {}
        yield stack.enter_context(rigs(tmp_path, **group))


@pytest.fixture
def left() -> Iterator[list[int]]:
    """Pids of what is left behind on purpose; ended after the test."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def audited(rig: Rig, task: Task) -> dict[str, Any]:
    """Wait for the audit log's line about what a task left behind."""
    until_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < until_s:
        for line in rig.audit():
            if line["event"] == "left" and line["task"] == task.number:
                return line
        time.sleep(0.01)
    raise AssertionError(rig.audit())


def ended(rig: Rig, task: Task) -> ProcessEnded:
    event: ProcessEnded = rig.wait(task.number, ProcessEnded)
    return event


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("way", DAEMONS)
def test_service_lives_after_its_command_other_jobs_and_gexecd(
    rig: Rig, left: list[int], way: str, user: int | None, tmp_path: Path
) -> None:
    if way == "start-stop-daemon" and shutil.which("start-stop-daemon", path="/usr/sbin:/sbin") is None:
        pytest.skip("needs start-stop-daemon")
    pidfile = f"/tmp/gexec-test-{os.getpid()}-{user}.pid"
    early = rig.sh("trap '' TERM HUP; echo up; while :; do sleep 0.1; done", user=user)
    assert early.line() == b"up"
    task = rig.sh(
        f"PATH=$PATH:/usr/sbin:/sbin; {DAEMONS[way]}\necho end".replace("PIDFILE", pidfile), user=user
    )
    words = task.output().split()
    left += [int(word) for word in words if word != b"end"]
    (pid,) = left
    Path(pidfile).unlink(missing_ok=True)
    end = ended(rig, task)
    assert (end.outcome, end.ending) == (Outcome(EXITED, 0), False)
    line = audited(rig, task)
    assert (line["action"], line["processes"], line["holders"]) == ("left alone", 1, 0)
    assert line["names"] == [f"{pid} sleep"]
    # Jobs that ran at the same time and later are ended: nothing of theirs is this.
    late = rig.sh("echo up; exec sleep 1000", user=user)
    assert late.line() == b"up"
    for other in (early, late):
        rig.relay.kill(other.number, True)
        assert other.outcome().kind == KILLED
    assert rig.sh("true", user=user).outcome().ok
    assert lives(pid)
    rig.close()
    assert lives(pid)


@pytest.mark.parametrize("user", USERS)
def test_holders_of_the_output_are_counted_and_left_alone(
    rig: Rig, left: list[int], user: int | None
) -> None:
    task = rig.sh(
        f"sleep 1000 & echo $!; sleep 1000 2>/dev/null & echo $!; sleep 1000 {QUIET} & echo $!; exit 3",
        user=user,
    )
    left += [int(task.line()) for _ in range(3)]
    end = ended(rig, task)
    assert (end.outcome, end.ending) == (Outcome(EXITED, 3), False)
    assert rig.wait(task.number, ProcessLeft) == ProcessLeft(task.number, 2)
    line = audited(rig, task)
    assert (line["action"], line["processes"], line["holders"]) == ("left alone", 3, 2)
    assert sorted(line["names"]) == sorted(f"{pid} sleep" for pid in left)
    rig.close()
    assert all(lives(pid) for pid in left)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("ask", ["kill", "kill gently", "interrupt"])
def test_what_was_left_goes_when_the_job_is_ended_after_all(rig: Rig, user: int | None, ask: str) -> None:
    task = rig.sh(
        "(trap '' INT; exec sleep 1000) & echo $!; env -i /usr/bin/setsid /bin/sleep 1000 & echo $!; "
        "setsid sh -c 'sleep 1000; :' & echo $!",
        user=user,
    )
    pids = [int(task.line()) for _ in range(3)]
    assert not ended(rig, task).ending
    if ask == "interrupt":
        rig.relay.signal(task.number, signal.SIGINT)
    else:
        rig.relay.kill(task.number, ask == "kill")
    assert all(gone(pid) for pid in pids)
    assert task.output() == b""


@pytest.mark.parametrize("user", USERS)
def test_what_was_left_goes_as_long_as_its_task_is_remembered(rig: Rig, user: int | None) -> None:
    """A slow reader may keep a job open for long after the command has ended."""
    task = rig.sh("sleep 1000 & echo $!", user=user)
    pid = int(task.line())
    rig.wait(task.number, ProcessLeft)
    rig.relay.kill(task.number, False)
    assert gone(pid)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("ask", ["kill", "kill gently", "interrupt", "relay"])
def test_nothing_is_left_of_a_command_that_was_ended(rig: Rig, user: int | None, ask: str) -> None:
    script = "; ".join(f"{DAEMONS[way]}" for way in ("nohup", "double-fork")) + "\n"
    script += f"(trap '' HUP TERM INT; exec sleep 1000 {QUIET}) & echo $!\n{DAEMONS['wiped']}\n"
    task = rig.sh(script + "wait; sleep 1000", user=user)
    task.started()
    pids = [int(task.line()) for _ in range(4)]
    if ask == "relay":
        rig.close()
    elif ask == "interrupt":
        rig.relay.signal(task.number, signal.SIGINT)
        assert ended(rig, task).ending
    else:
        rig.relay.kill(task.number, ask == "kill")
        assert ended(rig, task).ending
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize("user", USERS)
def test_policy_may_end_what_is_left(make: Callable[..., Rig], user: int | None) -> None:
    """Double forks, sessions of their own and a scrubbed environment do not help (attacks 84, 85)."""
    rig = make(policy=Policy(allow_nologin=True, leave_leftovers=False))
    script = (
        "setsid sh -c 'echo $$; trap \"\" TERM HUP; exec sleep 1000' & "
        "(setsid setsid sh -c 'echo $$; exec sleep 1000' &) ; "
        "env -i /usr/bin/setsid /bin/sh -c 'echo $$; trap \"\" TERM HUP; exec sleep 1000' & sleep 0.3; exit 0"
    )
    task = rig.sh(script, user=user)
    pids = [int(task.line()) for _ in range(3)]
    end = ended(rig, task)
    assert (end.outcome, end.ending) == (Outcome(EXITED, 0), False)
    assert task.output() == b""
    assert all(gone(pid) for pid in pids)
    line = audited(rig, task)
    assert (line["action"], line["processes"]) == ("ended", 3)
    assert not [event for event in rig.events if isinstance(event, ProcessLeft)]


@pytest.mark.parametrize("user", USERS)
def test_fork_bomb_that_was_left_is_counted_with_bounds_and_ended_whole(rig: Rig, user: int | None) -> None:
    script = "f() { n=$1; while [ $n -gt 0 ]; do (f $((n-1))) & n=$((n-1)); done; sleep 1000; }; f 6 & exit 0"
    task = rig.sh(script, user=user)
    assert not ended(rig, task).ending
    assert rig.wait(task.number, ProcessLeft).holders > 32
    line = audited(rig, task)
    assert line["processes"] > 32
    assert len(line["names"]) == 32
    rig.relay.kill(task.number, True)
    assert task.output() == b""


def test_daemon_that_hides_is_of_no_job_that_began_after_it(rig: Rig, left: list[int]) -> None:
    task = rig.sh(f"{DAEMONS['wiped']}")
    left.append(int(task.line()))
    assert task.outcome().ok
    parent = rig.sh("echo up; exec sleep 1000")
    assert parent.line() == b"up"
    rig.relay.kill(parent.number, False)
    assert parent.outcome().kind == KILLED
    # Whatever it starts later is its own, too, although it hides and comes up in a survey then.
    assert rig.sh("true").outcome().ok
    assert lives(left[0])


def test_what_a_service_starts_later_is_left_alone_too(rig: Rig, left: list[int], tmp_path: Path) -> None:
    """The service's worker comes up when the service has gone, while a job runs that is then ended."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    worker = 'env -i /bin/sh -c "echo \\$\\$; exec sleep 1000 >/dev/null 2>&1 </dev/null"'
    task = rig.sh(f"setsid sh -c 'read x <{fifo}; {worker} >{fifo} & wait_for_nothing=1' {QUIET} & echo $!")
    service = int(task.line())
    assert task.outcome().ok
    other = rig.sh("echo up; exec sleep 1000")
    assert other.line() == b"up"
    fifo.write_text("go\n")
    left.append(int(fifo.read_text()))
    assert gone(service)
    rig.relay.kill(other.number, True)
    assert other.outcome().kind == KILLED
    assert rig.sh("true").outcome().ok
    assert lives(left[0])


def test_a_service_that_begins_its_session_after_its_job_keeps_its_workers(
    rig: Rig, left: list[int], tmp_path: Path
) -> None:
    """On a loaded node the job is over before its service has called setsid."""
    begin, go = tmp_path / "begin", tmp_path / "go"
    os.mkfifo(begin)
    os.mkfifo(go)
    worker = 'env -i /bin/sh -c "echo \\$\\$; exec sleep 1000 >/dev/null 2>&1 </dev/null"'
    service = f"exec setsid sh -c 'read x <{go}; {worker} >{go} & wait_for_nothing=1'"
    task = rig.sh(f"(read x <{begin}; {service}) {QUIET} & echo $!")
    pid = int(task.line())
    assert task.outcome().ok
    begin.write_text("begin\n")
    wait_until(lambda: os.getsid(pid) == pid, "the service has no session of its own")
    other = rig.sh("echo up; exec sleep 1000")
    assert other.line() == b"up"
    go.write_text("go\n")
    left.append(int(go.read_text()))
    assert gone(pid)
    rig.relay.kill(other.number, True)
    assert other.outcome().kind == KILLED
    assert rig.sh("true").outcome().ok
    assert lives(left[0])


@pytest.mark.root
def test_death_of_a_helper_ends_its_tasks_and_not_what_it_left_alone(rig: Rig, left: list[int]) -> None:
    for way in ("nohup", "wiped", "double-fork"):
        task = rig.sh(f"{DAEMONS[way]}", user=NOBODY.pw_uid)
        left.append(int(task.line()))
        assert task.outcome().ok
        audited(rig, task)
    task = rig.sh(f"echo $PPID; {DAEMONS['nohup']}; exec sleep 1000", user=NOBODY.pw_uid)
    helper, pid = int(task.line()), int(task.line())
    os.kill(helper, signal.SIGKILL)
    task.outcome()
    assert gone(pid)
    assert all(lives(pid) for pid in left)
    assert rig.sh("true", user=NOBODY.pw_uid).outcome().ok
    assert all(lives(pid) for pid in left)


@pytest.mark.root
def test_helper_killed_by_its_user_does_not_save_what_is_being_ended(make: Callable[..., Rig]) -> None:
    rig = make(policy=Policy(allow_nologin=True, leave_leftovers=False))
    task = rig.sh(f"echo $PPID; {DAEMONS['nohup']}", user=NOBODY.pw_uid)
    helper, pid = int(task.line()), int(task.line())
    assert task.outcome().ok
    os.kill(helper, signal.SIGKILL)
    assert gone(pid)


@pytest.mark.root
def test_set_uid_program_that_is_left_is_left_alone(rig: Rig, left: list[int]) -> None:
    program = Path(f"/tmp/gexec-test-{os.getpid()}-suid")
    shutil.copy("/bin/sleep", program)
    try:
        program.chmod(0o4755)
        task = rig.sh(f"{program} 1000 & echo $!; sleep 1000 & echo $!", user=NOBODY.pw_uid)
        left += [int(task.line()), int(task.line())]
        assert task.outcome().ok
        # Of another user's process nobody but root can tell what it holds.
        assert rig.wait(task.number, ProcessLeft).holders in (1, 2)
        assert all(lives(pid) for pid in left)
        assert rig.sh("true", user=NOBODY.pw_uid).outcome().ok
    finally:
        program.unlink()
