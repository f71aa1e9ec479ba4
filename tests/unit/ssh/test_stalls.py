"""The clocks of commands over ssh, with real pipes and processes in ssh's place."""

from __future__ import annotations

import os
import signal
import time

from gexec.posix.loop import PollLoop
from gexec.ssh.process import SshProcess
from gexec.ssh.stalls import Stalls
from gexec.ssh.stdin import KeptStdin
from gexec.wire.frames import STDOUT

_INPUT = b"x" * 1000


def running(rank: int, script: str, loop: PollLoop) -> SshProcess:
    """Start a script whose command has begun, and which got its input."""
    process = SshProcess(rank, [b"/bin/sh", b"-c", script.encode()], dict(os.environb), b"mark")
    process.went = process.feeding = True
    assert process.stdin is not None
    process.fed = os.write(process.stdin, _INPUT)
    for fd in process.outputs.values():
        loop.watch(fd, lambda: None)
    return process


def end(process: SshProcess) -> None:
    process.send_signal(signal.SIGKILL)
    os.waitpid(process.pid, 0)
    process.close_stdin()
    for fd in process.outputs.values():
        os.close(fd)


def test_who_takes_nothing_is_given_up_once_and_others_are_not() -> None:
    loop = PollLoop(lambda signum: None)
    stdin = KeptStdin(spooled=False)
    stdin.append(0, _INPUT, False)
    stopped, reader, paused, unheard = processes = [
        running(rank, script, loop)
        for rank, script in enumerate(("kill -STOP $$", "cat >/dev/null", "kill -STOP $$", "kill -STOP $$"))
    ]
    loop.unwatch(unheard.outputs[STDOUT])  # the client does not read what it writes
    given_up: list[tuple[int, str]] = []

    def give_up(process: SshProcess, why: str) -> None:
        process.stalled = why
        given_up.append((process.rank, why))

    while reader.unread_stdin():
        time.sleep(0.01)
    stalls = Stalls(1.0, stdin, dict(enumerate(processes)), loop, give_up)
    try:
        loop.turn(None)  # the first measurement
        stalls.signalled(paused.rank, signal.SIGTSTP)
        while not given_up:
            loop.turn(None)
        for _ in range(2):
            loop.turn(None)
        assert given_up == [(stopped.rank, "took none of its input for 1 s: given up")]
        assert reader.unread_stdin() == 0
        assert paused.unread_stdin() == len(_INPUT)
        stalls.signalled(paused.rank, signal.SIGCONT)
        while len(given_up) < 2:
            loop.turn(None)
        assert given_up[1][0] == paused.rank
    finally:
        for process in processes:
            end(process)


def test_without_a_stall_time_nothing_is_measured() -> None:
    loop = PollLoop(lambda signum: None)
    Stalls(0.0, KeptStdin(spooled=False), {}, loop, lambda process, why: None)
    Stalls(1.0, None, {}, loop, lambda process, why: None)
    assert not loop._timers
