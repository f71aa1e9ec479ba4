"""Programs that the spawner runs: their answer comes whole, and nothing of them is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gexec.posix.loop import PollLoop
from gexec.spawner.asking import ask


def asked(argv: list[str], fd: int = -1) -> bytes:
    """Run a program to the end of its answer."""
    loop = PollLoop(lambda signum: None)
    answers: list[bytes] = []
    pid = ask(loop, argv, answers.append, fd)
    while not answers:
        loop.turn(None)
    os.waitpid(pid, 0)
    return answers[0]


def test_a_long_answer_comes_whole_and_no_descriptor_is_left() -> None:
    asked(["/bin/true"])
    before = os.listdir("/proc/self/fd")
    assert asked(["/bin/sh", "-c", "head -c 300000 /dev/zero"]) == bytes(300_000)
    assert len(os.listdir("/proc/self/fd")) - len(before) == 2  # of the loop's own pipe
    assert asked(["/bin/false"]) == b""


def test_it_gets_one_descriptor_under_another_number() -> None:
    kept = os.memfd_create("kept")
    assert (
        asked(["/bin/sh", "-c", f"echo given >&3; test -e /proc/self/fd/{kept} || echo closed"], kept)
        == b"closed\n"
    )
    assert os.pread(kept, 100, 0) == b"given\n"
    os.close(kept)


def test_signals_that_are_blocked_here_are_not_blocked_there() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        told = asked(["/bin/sh", "-c", "grep SigBlk /proc/self/status"])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    assert int(told.split()[1], 16) == 0


def test_what_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    loop = PollLoop(lambda signum: None)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        ask(loop, [str(tmp_path / "nothing")], lambda answer: None)
    assert os.listdir("/proc/self/fd") == before
