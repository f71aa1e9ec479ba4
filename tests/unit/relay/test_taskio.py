"""A process's pipes: what is read and written in which order, when it stops, and that nothing stays open."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from descriptors import only, open_now
from gexec import limits
from gexec.core import events
from gexec.relay import taskio
from gexec.relay.loop import run
from gexec.relay.taskio import TaskIO
from gexec.wire.frames import STDERR, STDOUT

DEADLINE_S = 30.0
#: More than a pipe holds.
MUCH = bytes(range(256)) * 4096


class Pipes:
    """A process's ends of its pipes, and what the relay was told of them."""

    def __init__(self, with_stdin: bool = True, with_output: bool = True) -> None:
        self.told: list[events.Event] = []
        self.io = TaskIO(self.told.append, with_stdin, with_output)
        # As the spawner: it has copies, and the relay closes its own.
        self.stdin, self.stdout, self.stderr = (os.dup(fd) for fd in self.io.child_fds)
        self.io.close_child_ends()

    def process_ends(self) -> None:
        for fd in (self.stdin, self.stdout, self.stderr):
            os.close(fd)

    @property
    def output(self) -> dict[int, bytes]:
        """What was told of each stream."""
        found = {STDOUT: b"", STDERR: b""}
        for event in self.told:
            if isinstance(event, events.OutputRead):
                found[event.stream] += event.data
        return found

    @property
    def closed(self) -> list[int]:
        """Which streams were told to be at their end."""
        return [event.stream for event in self.told if isinstance(event, events.OutputClosed)]

    @property
    def written(self) -> int:
        """How much of stdin was told to be taken."""
        return sum(event.count for event in self.told if isinstance(event, events.StdinWritten))


async def until(what: Callable[[], object]) -> None:
    """Return when this is true."""
    end_s = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < end_s, "it does not happen"
        await asyncio.sleep(0.001)


async def nothing() -> None:
    """Only have a loop run."""


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario; no descriptor may be open afterwards that was not before."""
    run(nothing())  # the first loop of a process opens what all of them share
    before = open_now()
    run(scenario())
    assert open_now() == before


def pieces(io: TaskIO) -> list[events.Event]:
    """Read all that may be read now."""
    found = []
    while (piece := io.next_piece()) is not None:
        found.append(piece)
    return found


def shown(found: list[events.Event]) -> list[tuple[int, bytes | None]]:
    """Return (stream, data) of what was read; no data for an end."""
    return [
        (event.stream, event.data if isinstance(event, events.OutputRead) else None)
        for event in found
        if isinstance(event, events.OutputRead | events.OutputClosed)
    ]


def is_null(fd: int) -> bool:
    return os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev


# -- what the process gets ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("with_stdin", "with_output", "nulls"),
    [
        (True, True, (False, False, False)),
        (False, True, (True, False, False)),
        (False, False, (True, True, True)),
    ],
)
def test_the_process_gets_pipes_or_nothing(
    with_stdin: bool, with_output: bool, nulls: tuple[bool, bool, bool]
) -> None:
    async def scenario() -> None:
        io = TaskIO(lambda event: None, with_stdin, with_output)
        assert tuple(is_null(fd) for fd in io.child_fds) == nulls
        for fd in io.child_fds:
            assert os.get_blocking(fd)
            assert not os.get_inheritable(fd)
        io.close_child_ends()
        io.close()

    play(scenario)


@pytest.mark.parametrize("with_output", [True, False])
@pytest.mark.parametrize("with_stdin", [True, False])
def test_without_descriptors_it_is_an_error_and_nothing_stays_open(
    with_stdin: bool, with_output: bool
) -> None:
    needed = (2 if with_stdin else 1) + (4 if with_output else 2)

    async def scenario() -> None:
        for free in range(needed):
            before = open_now()
            with only(free), pytest.raises(OSError, match="Too many open files"):
                TaskIO(lambda event: None, with_stdin, with_output)
            assert open_now() == before
        with only(needed):
            io = TaskIO(lambda event: None, with_stdin, with_output)
        io.close_child_ends()
        io.close()

    play(scenario)


# -- output -------------------------------------------------------------------------------------


def test_what_a_short_command_wrote_is_read_to_its_end_at_once() -> None:
    async def scenario() -> None:
        pipes = Pipes()
        os.write(pipes.stdout, b"out")
        os.write(pipes.stderr, b"err")
        pipes.process_ends()
        assert shown(pieces(pipes.io)) == [(STDOUT, b"out"), (STDOUT, None), (STDERR, b"err"), (STDERR, None)]
        assert pipes.io.next_piece() is None
        assert pipes.told == []  # it is told by who asked
        pipes.io.close()

    play(scenario)


def test_nothing_now_is_not_the_end() -> None:
    async def scenario() -> None:
        pipes = Pipes()
        assert pipes.io.next_piece() is None
        os.write(pipes.stdout, b"later")
        assert shown(pieces(pipes.io)) == [(STDOUT, b"later")]
        pipes.process_ends()
        pipes.io.close()

    play(scenario)


def test_a_piece_is_as_large_as_a_read_may_be() -> None:
    async def scenario() -> None:
        pipes = Pipes()
        os.set_blocking(pipes.stdout, False)
        count = os.write(pipes.stdout, MUCH)
        found = shown(pieces(pipes.io))
        assert b"".join(data or b"" for _, data in found) == MUCH[:count]
        assert max(len(data or b"") for _, data in found) <= limits.READ_CHUNK_BYTES
        pipes.process_ends()
        pipes.io.close()

    play(scenario)


def test_a_longer_command_is_watched() -> None:
    async def scenario() -> None:
        pipes = Pipes()
        pipes.io.started()
        pipes.io.started()
        os.write(pipes.stdout, b"one")
        await until(lambda: pipes.output[STDOUT] == b"one")
        os.write(pipes.stderr, b"two")
        await until(lambda: pipes.output[STDERR] == b"two")
        pipes.process_ends()
        await until(lambda: sorted(pipes.closed) == [STDOUT, STDERR])
        pipes.io.close()

    play(scenario)


@pytest.mark.parametrize("when", ["before it is watched", "while it is watched"])
def test_a_stream_that_may_not_be_read_waits_in_its_pipe_until_it_may(when: str) -> None:
    async def scenario() -> None:
        pipes = Pipes()
        if when == "before it is watched":
            pipes.io.read(STDOUT, False)
        pipes.io.started()
        os.write(pipes.stderr, b"x")
        await until(lambda: pipes.output[STDERR] == b"x")  # both would be watched now
        if when == "while it is watched":
            pipes.io.read(STDOUT, False)
        os.write(pipes.stdout, b"kept")
        os.write(pipes.stderr, b"y")
        await until(lambda: pipes.output[STDERR] == b"xy")
        assert pipes.output[STDOUT] == b""
        assert pipes.io.unread() == (4, 0)
        pipes.io.read(STDOUT, True)
        await until(lambda: pipes.output[STDOUT] == b"kept")
        assert pipes.io.unread() == (0, 0)
        pipes.process_ends()
        pipes.io.close()

    play(scenario)


def test_the_end_of_an_empty_stream_is_seen_though_it_may_not_be_read() -> None:
    async def scenario() -> None:
        pipes = Pipes()
        pipes.io.read(STDOUT, False)
        pipes.io.read(STDERR, False)
        os.write(pipes.stdout, b"12345")
        pipes.process_ends()
        assert shown(pieces(pipes.io)) == [(STDERR, None)]
        assert pipes.io.unread() == (5, 0)
        pipes.io.close()

    play(scenario)


def test_what_others_hold_after_the_end_is_watched_at_once() -> None:
    async def scenario() -> None:
        pipes = Pipes()
        pipes.io.started()
        holder = os.dup(pipes.stdout)
        pipes.process_ends()
        pipes.io.watch()
        await until(lambda: pipes.closed == [STDERR])
        os.write(holder, b"late")
        await until(lambda: pipes.output[STDOUT] == b"late")
        os.close(holder)
        await until(lambda: pipes.closed == [STDERR, STDOUT])
        pipes.io.close()

    play(scenario)


def test_output_that_is_given_up_breaks_the_pipe_of_who_writes() -> None:
    async def scenario() -> None:
        pipes = Pipes()
        pipes.io.watch()
        pipes.io.close_output()
        for fd in (pipes.stdout, pipes.stderr):
            with pytest.raises(BrokenPipeError):
                os.write(fd, b"x")
        assert pipes.io.next_piece() is None
        assert pipes.io.unread() == (0, 0)
        pipes.io.read(STDOUT, True)
        assert pipes.told == []
        pipes.process_ends()
        pipes.io.close()

    play(scenario)


# -- stdin --------------------------------------------------------------------------------------


def test_stdin_goes_as_the_process_takes_it_in_order_and_then_ends() -> None:
    async def scenario() -> None:
        pipes = Pipes()
        for start in range(0, len(MUCH), 50_000):
            pipes.io.write(MUCH[start : start + 50_000])
        pipes.io.close_stdin()
        assert 0 < pipes.written < len(MUCH)  # what its pipe holds
        taken = b""
        while data := await asyncio.to_thread(os.read, pipes.stdin, 30_000):
            taken += data
        assert taken == MUCH
        await until(lambda: pipes.written == len(MUCH))
        pipes.process_ends()
        pipes.io.close()

    play(scenario)


def test_stdin_without_anything_ends_at_once() -> None:
    async def scenario() -> None:
        pipes = Pipes()
        pipes.io.close_stdin()
        assert os.read(pipes.stdin, 1) == b""
        pipes.io.write(b"too late")
        assert pipes.told == []
        pipes.process_ends()
        pipes.io.close()

    play(scenario)


def test_what_a_process_has_not_read_is_measured_and_can_be_dropped() -> None:
    async def scenario() -> None:
        pipes = Pipes()
        assert pipes.io.unread_stdin() == 0
        pipes.io.write(b"x" * 1000)
        assert pipes.io.unread_stdin() == 1000
        os.read(pipes.stdin, 300)
        assert pipes.io.unread_stdin() == 700
        pipes.io.write(MUCH)  # more than the pipe takes: the rest waits
        assert pipes.io.unread_stdin() == pipes.written - 300
        pipes.io.drop_stdin()
        assert pipes.io.unread_stdin() == 0
        rest = b""
        while data := os.read(pipes.stdin, 100_000):
            rest += data
        assert len(rest) == pipes.written - 300
        pipes.process_ends()
        pipes.io.close()

    play(scenario)


@pytest.mark.parametrize("when", ["at once", "while some of it waits"])
def test_a_process_that_reads_no_more_is_told_once(when: str) -> None:
    async def scenario() -> None:
        pipes = Pipes()
        if when != "at once":
            pipes.io.write(MUCH)
        pipes.process_ends()
        pipes.io.write(b"nobody")
        await until(lambda: any(isinstance(event, events.StdinBroken) for event in pipes.told))
        pipes.io.write(b"nobody")
        pipes.io.close_stdin()
        assert [type(event) for event in pipes.told].count(events.StdinBroken) == 1
        assert isinstance(pipes.told[-1], events.StdinBroken)
        pipes.io.close()

    play(scenario)


def test_a_process_without_stdin_takes_none() -> None:
    async def scenario() -> None:
        pipes = Pipes(with_stdin=False)
        pipes.io.write(b"nowhere")
        pipes.io.close_stdin()
        assert os.read(pipes.stdin, 1) == b""
        assert pipes.told == []
        pipes.process_ends()
        pipes.io.close()

    play(scenario)


# -- the end ------------------------------------------------------------------------------------


def test_after_the_close_nothing_is_watched_and_nothing_open() -> None:
    async def scenario() -> None:
        watched, waiting = Pipes(), Pipes()
        watched.io.watch()
        watched.io.write(MUCH)  # some of it waits, and its pipe is watched
        waiting.io.started()  # its pipes would be watched later
        for pipes in (watched, waiting):
            pipes.told.clear()
            pipes.io.close()
            with pytest.raises(BrokenPipeError):
                os.write(pipes.stdout, b"x")
            pipes.process_ends()
            pipes.io.close()
        other = Pipes()  # has descriptors of the same numbers
        other.io.started()
        os.write(other.stdout, b"mine")
        await until(lambda: other.output[STDOUT] == b"mine")
        assert watched.told == waiting.told == []
        other.process_ends()
        other.io.close()

    play(scenario)


def test_each_pipe_that_is_closed_is_told_once() -> None:
    async def scenario() -> None:
        freed: list[bool] = []
        io = TaskIO(lambda event: None, True, True, lambda: freed.append(True))
        io.close_child_ends()
        io.drop_stdin()
        assert len(freed) == 1
        while io.next_piece() is not None:
            pass
        assert len(freed) == 3  # nobody writes
        io.close()
        assert len(freed) == 3
        detached = TaskIO(lambda event: None, False, False, lambda: freed.append(True))
        detached.close_child_ends()
        detached.close()
        assert len(freed) == 3

    play(scenario)


# -- a process that lasts -----------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["", "stderr"])
def test_it_is_told_once_when_a_process_lasts_and_has_all_of_its_stdin(
    closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taskio, "KEEP_S", taskio.WATCH_S)

    async def scenario() -> None:
        pipes = Pipes()
        told: list[list[bool]] = []
        pipes.io.when_lasting(lambda fds: told.append([is_null(fd) for fd in fds]))
        if closed:
            os.close(pipes.stderr)
        pipes.io.started()
        await until(lambda: pipes.io._is_old and len(pipes.closed) == bool(closed))
        assert told == []  # it waits for stdin
        pipes.io.close_stdin()
        assert told == [[False, bool(closed)]]
        pipes.io.drop_stdin()
        assert len(told) == 1
        if closed:
            pipes.stderr = os.dup(pipes.stdout)
        pipes.process_ends()
        pipes.io.close()

    play(scenario)


@pytest.mark.parametrize("how", ["it ends", "nobody reads on", "all is closed"])
def test_it_is_not_told_of_a_process_whose_output_is_over(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taskio, "KEEP_S", taskio.WATCH_S)

    async def scenario() -> None:
        pipes = Pipes()
        told: list[object] = []
        pipes.io.when_lasting(told.append)
        pipes.io.started()
        await until(lambda: pipes.io._is_old)
        if how == "it ends":
            pipes.io.watch()
        elif how == "nobody reads on":
            pipes.io.close_output()
        pipes.process_ends()
        pipes.io.close()
        assert told == []

    play(scenario)


def test_the_pipes_of_a_dead_relay_are_read_on() -> None:
    async def scenario() -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.write(writing, b"on")
        os.close(writing)
        told: list[events.Event] = []
        io = TaskIO(told.append, False, False, saved=taskio.orphaned([STDERR]), fds=[reading])
        await until(lambda: len(told) == 2)
        assert shown(told) == [(STDERR, b"on"), (STDERR, None)]
        io.close()

    play(scenario)
