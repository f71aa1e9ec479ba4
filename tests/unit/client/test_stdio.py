"""Reading and writing the standard descriptors without waiting."""

from __future__ import annotations

import errno
import os
import pty
from collections.abc import Iterator

import pytest

from descriptors import new_pipe
from gexec.client.kept import KeptInput
from gexec.client.stdio import PIPE_BUF_BYTES, Input, Sink
from gexec.wire.frames import STDOUT

_CREDIT = (STDOUT, ((0, 1),), 3)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    with new_pipe() as ends:
        yield ends


def test_an_input_ends_with_nothing_and_waits_with_none(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    source = Input(reading)
    os.set_blocking(reading, False)
    assert source.read(10) is None
    os.write(writing, b"12345")
    assert source.read(3) == b"123"
    os.close(writing)
    assert source.read(3) == b"45"
    assert source.read(3) == b""


def test_an_input_that_cannot_be_read_says_why(pipe: tuple[int, int]) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        Input(pipe[1]).read(1)


def test_a_terminal_of_others_is_not_read() -> None:
    near, far = pty.openpty()
    try:
        os.write(near, b"for the foreground\n")
        source = Input(far)
        assert source.is_terminal
        assert not source.is_ours
        assert source.read(10) is None
    finally:
        os.close(near)
        os.close(far)


def test_a_kept_input_goes_on_with_its_descriptor(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    kept = KeptInput(reading)
    os.write(writing, b"abc")
    assert kept.read(10) == b"abc"
    assert kept.fd == reading
    kept.rewind()
    assert kept.fd != reading
    assert kept.read(10) == b"abc"
    assert kept.fd == reading
    kept.close()


def test_a_sink_writes_what_a_pipe_takes_and_returns_what_is_taken(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = Sink(writing)
    data = b"x" * PIPE_BUF_BYTES + b"end"
    assert sink.put(data, _CREDIT)
    assert not sink.ends_line
    assert sink.write() == []
    assert sink.pending
    assert sink.write() == [_CREDIT]
    assert not sink.pending
    assert sink.write() == []
    assert os.read(reading, 2 * len(data)) == data


def test_a_sink_without_a_reader_takes_all(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = Sink(writing)
    os.close(reading)
    sink.put(b"one\n", _CREDIT)
    sink.put(b"two\n")
    assert sink.write() == [_CREDIT]
    assert isinstance(sink.error, BrokenPipeError)
    assert not sink.put(b"three\n", _CREDIT)
    assert not sink.pending
