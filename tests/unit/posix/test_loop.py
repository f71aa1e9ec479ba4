"""The poll loop of processes without asyncio: one handler's trouble is no other's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from gexec.posix import clock
from gexec.posix.loop import PollLoop


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    """Return the readable ends of three pipes with something in each."""
    ends = [os.pipe() for _ in range(3)]
    for _, writing in ends:
        os.write(writing, b"x")
    yield [reading for reading, _ in ends]
    for end in ends:
        for fd in end:
            os.close(fd)


def _fail() -> None:
    raise KeyError("a defect")


def test_a_handler_that_raises_takes_no_turn_from_descriptors_signals_and_timers(pipes: list[int]) -> None:
    told: list[object] = []
    faults: list[Exception] = []

    def on_signal(signum: int) -> None:
        told.append(signum)
        _fail()

    loop = PollLoop(on_signal, faults.append)
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGCHLD, signal.SIGUSR1)}
    try:
        loop.take_signals(tuple(before))
        loop.watch(pipes[0], _fail)
        loop.watch(pipes[1], lambda: told.append("read"))
        loop.call_at(clock.now_s(), _fail)
        loop.call_at(clock.now_s(), lambda: told.append("timer"))
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGCHLD)
        loop.turn(clock.now_s())
    finally:
        signal.set_wakeup_fd(-1)
        for signum, handler in before.items():
            signal.signal(signum, handler)
    assert sorted(map(str, told)) == sorted(
        [str(int(signal.SIGCHLD)), str(int(signal.SIGUSR1)), "read", "timer"]
    )
    assert [type(fault) for fault in faults] == [KeyError] * 4


def test_without_a_place_for_them_faults_are_raised(pipes: list[int]) -> None:
    loop = PollLoop(lambda signum: None)
    loop.watch(pipes[0], _fail)
    with pytest.raises(KeyError, match="a defect"):
        loop.turn(None)
