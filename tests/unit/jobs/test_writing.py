"""One stream into files and back: the tail, gaps, and a disk that takes no more."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gexec.jobs.reading import StreamReader
from gexec.jobs.segments import Gap
from gexec.jobs.spool import RankPlace
from gexec.jobs.writing import StreamWriter

JOB = "ab" * 16


@pytest.fixture
def place(tmp_path: Path) -> Iterator[RankPlace]:
    place = RankPlace(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), JOB, 0)
    yield place
    place.close()


def read(reader: StreamReader) -> list[bytes | Gap]:
    found: list[bytes | Gap] = []
    while (piece := reader.next()) is not None:
        if isinstance(piece, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += piece
        else:
            found.append(piece)
    return found


def test_what_is_within_the_budget_comes_back(place: RankPlace) -> None:
    writer, reader = StreamWriter(place.fd, 0, 100), StreamReader(place, 0)
    writer.write(b"x" * 15, 0.0)
    assert read(reader) == [b"x" * 15]
    writer.write(b"y" * 60, 0.0)
    assert read(reader) == [b"y" * 60]
    assert reader.next() is None
    assert read(StreamReader(place, 1)) == []
    writer.close()
    reader.close()


def test_the_middle_of_a_long_stream_is_missing_and_that_is_known(place: RankPlace) -> None:
    data = bytes(range(250)) * 10
    writer = StreamWriter(place.fd, 1, 100)
    writer.write(data, 0.0)
    first, gap, last = read(StreamReader(place, 1))
    assert isinstance(first, bytes)
    assert isinstance(last, bytes)
    assert isinstance(gap, Gap)
    assert first == data[:20]
    assert gap == (20, len(data) - len(last))
    assert last == data[gap.end :]
    assert len(last) >= 60
    writer.close()


def test_a_reader_sees_where_a_segment_went_while_it_read(place: RankPlace) -> None:
    writer, reader = StreamWriter(place.fd, 0, 50), StreamReader(place, 0)
    writer.write(b"a" * 25, 0.0)
    assert reader.next() == b"a" * 10
    writer.write(b"b" * 100, 0.0)
    assert isinstance(reader.next(), Gap)
    assert reader.next() == b"b" * 10
    reader.close()
    writer.close()


@pytest.mark.parametrize(
    ("data", "tail"),
    [
        (b"short\n", b"short\n"),
        (b"one\ntwo\nthree\n", b"three\n"),
        (b"no newline here at all", b" all"),
        (b"ends with one line\n", b"ine\n"),
    ],
)
def test_a_tail_begins_with_a_line_if_it_has_one(place: RankPlace, data: bytes, tail: bytes) -> None:
    writer, reader = StreamWriter(place.fd, 0, 1000), StreamReader(place, 0)
    writer.write(data, 0.0)
    reader.begin_at_tail(8 if b"\nthree" in data or b"short" in data else 4)
    assert read(reader) == [tail]
    writer.close()


@contextmanager
def no_room_behind(count: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_cannot_be_written_is_dropped_and_counted(place: RankPlace) -> None:
    writer = StreamWriter(place.fd, 0, 500)
    with no_room_behind(30):
        writer.write(b"a" * 50, 0.0)
        writer.write(b"b" * 50, 0.5)  # not tried: it has just failed
    assert (writer.row.end, writer.row.dropped, writer.why) == (100, 70, "File too large")
    writer.write(b"c" * 10, 0.9)
    writer.write(b"d" * 10, 1.0)
    assert read(StreamReader(place, 0)) == [b"a" * 30, Gap(30, 110), b"d" * 10]
    assert (writer.row.end, writer.row.dropped) == (120, 80)
    writer.close()


def test_a_disk_that_takes_nothing_leaves_no_empty_files(place: RankPlace, tmp_path: Path) -> None:
    writer = StreamWriter(place.fd, 0, 500)
    with no_room_behind(0):
        for second in range(5):
            writer.write(b"a" * 50, float(second))
    assert os.listdir(tmp_path) == []
    assert writer.row.dropped == 250


def test_files_that_the_user_removes_do_not_stop_it(place: RankPlace, tmp_path: Path) -> None:
    writer = StreamWriter(place.fd, 0, 50)
    writer.write(b"a" * 30, 0.0)
    for path in tmp_path.iterdir():
        path.unlink()
    writer.write(b"b" * 100, 0.0)
    assert writer.row.dropped == 0
    writer.close()
