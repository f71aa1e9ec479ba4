"""Which tasks outlive their relay, and whose descriptors are kept for that."""

from __future__ import annotations

import os
from typing import Any, cast

import pytest

from gexec import limits, native
from gexec.security.policy import Account
from gexec.spawner import surviving
from gexec.spawner.launching import LaunchedTask
from gexec.spawner.surviving import Surviving
from gexec.wire.launches import LaunchSpec
from gexec.wire.messages import KeepOutput, ReleaseOutput

pytestmark = pytest.mark.skipif(native.in_use(), reason="compiled code takes no stand-in for a Helper")


def task(rank: int = 3) -> LaunchedTask:
    launch = LaunchSpec(b"", [], [], b"", 0, False, 1.0, b"j" * 16, rank, True)
    return LaunchedTask(Account("somebody", 4242, 4242), launch, cast(Any, None), b"d" * 32)


def ends() -> tuple[int, int]:
    """Return the ends of two pipes that a relay reads."""
    found = []
    for _ in range(2):
        reading, writing = os.pipe()
        os.close(writing)
        found.append(reading)
    return found[0], found[1]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def kept(tasks: dict[int, LaunchedTask]) -> Surviving:
    made = Surviving(tasks)
    made.is_possible = True
    return made


def test_a_kept_task_survives_and_the_others_end() -> None:
    tasks = {7: task(3), 8: task(4)}
    made, fds = kept(tasks), ends()
    made.handle(KeepOutput(7, fds))
    survivors, others = made.split()
    (survivor,) = survivors
    assert (survivor.task, survivor.rank, survivor.life) == (7, 3, 1)
    assert (survivor.job_id, survivor.digest) == (b"j" * 16, b"d" * 32)
    assert others == [8]
    assert [os.fstat(fd).st_ino for fd in survivor.fds] == [os.fstat(fd).st_ino for fd in fds]
    for fd in survivor.fds:
        os.close(fd)
    made.handle(ReleaseOutput(7))
    assert not any(map(is_open, fds))
    assert made.split() == ([], [7, 8])


def test_nobody_outlives_more_relays_than_there_are_lives() -> None:
    tasks = {7: task()}
    made = kept(tasks)
    made.handle(KeepOutput(7, ends()))
    tasks[7].life = limits.LIVES_MAX
    assert made.split() == ([], [7])
    tasks[7].keep(())


@pytest.mark.parametrize("why", ["no such task", "again", "not possible", "no pipe", "no room"])
def test_what_is_not_kept_is_closed(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {7: task()}
    made, fds = kept(tasks), ends()
    if why == "again":
        made.handle(KeepOutput(7, ends()))
    elif why == "not possible":
        made.is_possible = False
    elif why == "no pipe":
        os.close(fds[1])
        file = os.open(__file__, os.O_RDONLY)  # gets the lowest number that is free
        assert os.dup2(file, fds[1]) == fds[1]
        if file != fds[1]:
            os.close(file)
    elif why == "no room":
        monkeypatch.setattr(surviving, "_SHARE", 10**9)
    before = tasks[7].kept
    made.handle(KeepOutput(9 if why == "no such task" else 7, fds))
    assert not any(map(is_open, fds))
    assert tasks[7].kept == before
    tasks[7].keep(())
