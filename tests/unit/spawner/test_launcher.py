"""Facts from /proc, and signals that reach only whom they are meant for."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gexec import native
from gexec.posix import clock, descendants
from gexec.posix.descendants import Children
from gexec.spawner import launcher
from gexec.spawner.task import TaskProcess, mark_of


def test_children_and_stat_are_found() -> None:
    children = Children()
    with subprocess.Popen(["/bin/sh", "-c", "echo up; read x"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.pid in children.pids()
        assert process.pid in descendants.children_of(os.getpid())
        stat = descendants.stat_of(process.pid)
        assert stat is not None
        assert stat.parent == os.getpid()
        assert stat.group == os.getpgrp()
        assert descendants.uid_of(process.pid) == os.geteuid()
        process.communicate(b"\n")
    assert process.pid not in children.pids()
    assert descendants.stat_of(process.pid) is None
    assert descendants.children_of(process.pid) == []
    assert descendants.environ_of(process.pid) == []
    children.close()


def test_scan_of_proc_finds_the_same_children() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=-1) as process:
        assert process.pid in descendants._children_by_scan(os.getpid())
        process.communicate()


def test_name_with_parentheses_does_not_confuse(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 1 ("
    program.write_bytes(Path("/bin/cat").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program], stdin=-1, stdout=-1) as process:
        stat = descendants.stat_of(process.pid)
        assert stat is not None
        assert stat.parent == os.getpid()
        process.communicate()


def test_attack_84_signal_goes_only_to_a_child_of_the_named_parent() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=-1, stdout=-1) as process:
        assert not descendants.send(process.pid, signal.SIGKILL, parent=1)
        assert process.poll() is None
        assert descendants.send(process.pid, signal.SIGKILL, parent=os.getpid())
        assert process.wait() == -signal.SIGKILL
    assert not descendants.send(process.pid, signal.SIGKILL, parent=os.getpid())


def test_attack_85_kill_tree_reaches_other_sessions() -> None:
    script = "for i in 1 2 3; do setsid sh -c 'sleep 1000 & echo $$ $!; wait' & done; wait"
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=-1, start_new_session=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for _ in range(3) for pid in process.stdout.readline().split()]
        assert descendants.kill_tree([process.pid]) == 1 + len(pids)
        assert process.stdout.read() == b""
    deadline_s = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}/cwd") for pid in pids):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_start_name_and_pipes_of_a_process_are_found() -> None:
    before = clock.ticks()
    with subprocess.Popen(["/bin/cat"], stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdin.write(b"x") == 1
        process.stdin.flush()
        process.stdout.read(1)
        stat = descendants.stat_of(process.pid)
        assert stat is not None
        assert stat.name == "cat"
        assert before - 1 <= stat.born <= clock.ticks()
        fds = [process.stdin.fileno(), process.stdout.fileno()]
        inodes = descendants.pipe_inodes(fds)
        assert len(inodes) == 2
        assert inodes <= descendants.pipes_of(process.pid)
        process.communicate()
    assert descendants.pipes_of(process.pid) == set()


def test_mark_tells_ranks_of_one_job_apart() -> None:
    assert mark_of(bytes(16), 1) != mark_of(bytes(16), 11)


@pytest.mark.skipif(native.in_use(), reason="compiled code takes no stand-in for the call that kills")
def test_a_task_that_does_not_end_is_killed_less_often_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its storage hangs, perhaps for days."""
    told: list[object] = []
    tasks = launcher.Launcher(told.append)
    killed: list[float] = []
    now_s = clock.now_s()
    monkeypatch.setattr(clock, "now_s", lambda: now_s)
    with subprocess.Popen(["/bin/cat"], stdin=-1, start_new_session=True) as process:
        task = TaskProcess(1, process.pid, mark_of(b"j", 0), uid=os.geteuid(), since=0, kill_grace_s=1.0)
        tasks._tasks[1] = tasks._by_pid[process.pid] = task
        monkeypatch.setattr(tasks, "_kill_hard", lambda task: killed.append(now_s))  # without effect
        tasks.kill(1, True)
        for _ in range(10_000):
            due_s = tasks.next_deadline_s()
            assert due_s is not None
            if due_s > killed[0] + 60.0:
                break
            now_s = max(now_s, due_s)
            tasks.tick()
        assert killed[100] - killed[0] < 5.0  # whoever forks meanwhile must not escape
        assert len([at_s for at_s in killed if at_s > killed[0] + 10.0]) <= 10
        process.communicate()
    tasks.close()
