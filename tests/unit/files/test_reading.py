"""Reading files: all bytes in ascending pieces, no block of zeros, and a file that shrinks is an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gexec import limits
from gexec.files.digest import BLOCK_BYTES, ContentHash
from gexec.files.reading import (
    CHANGED,
    ContentsError,
    ShrunkError,
    changed,
    content_digest,
    is_unsized,
    may_be_unsized,
    parts,
    pieces,
    read_small,
    read_unsized,
    unreadable,
)

PIECE_BYTES = limits.ARCHIVE_DATA_MAX_BYTES


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read(path: Path, size: int | None = None) -> list[tuple[int, bytes]]:
    with opened(path) as descriptor:
        wanted = path.stat().st_size if size is None else size
        return [(offset, bytes(data)) for offset, data in pieces(descriptor, wanted, bytearray(PIECE_BYTES))]


def joined(found: list[tuple[int, bytes]], size: int) -> bytes:
    content = bytearray(size)
    end = 0
    for offset, data in found:
        assert offset >= end
        assert data
        assert len(data) <= PIECE_BYTES
        content[offset : offset + len(data)] = data
        end = offset + len(data)
    return bytes(content)


ONES, ZEROS = b"1" * BLOCK_BYTES, bytes(BLOCK_BYTES)


@pytest.mark.parametrize(
    ("content", "offsets"),
    [
        (b"", []),
        (b"x", [0]),
        (bytes(5), [0]),  # the shorter last block is always read
        (ZEROS, []),
        (ONES + ZEROS + ONES, [0, 2 * BLOCK_BYTES]),
        (ZEROS + b"end", [BLOCK_BYTES]),
        (ONES + ZEROS + bytes(7), [0, 2 * BLOCK_BYTES]),
        (b"1" * (PIECE_BYTES + 1), [0, PIECE_BYTES]),
    ],
    ids=["empty", "one byte", "five zeros", "a block", "between", "at the start", "at the end", "two pieces"],
)
@pytest.mark.parametrize("is_sparse", [False, True])
def test_all_but_blocks_of_zeros(tmp_path: Path, content: bytes, offsets: list[int], is_sparse: bool) -> None:
    path = tmp_path / "file"
    with open(path, "wb") as file:
        for at in range(0, len(content), BLOCK_BYTES):
            block = content[at : at + BLOCK_BYTES]
            if is_sparse and not any(block):
                file.seek(len(block), os.SEEK_CUR)
            else:
                file.write(block)
        file.truncate(len(content))
    found = read(path)
    assert [offset for offset, _ in found] == offsets
    assert joined(found, len(content)) == content


def test_a_huge_hole_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    size = 2**40 + 3
    with open(path, "wb") as file:
        file.seek(2**39)
        file.write(b"x")
        file.truncate(size)
    found = read(path)
    assert b"".join(data for _, data in found).strip(b"\0") == b"x"
    assert sum(len(data) for _, data in found) < 2 * PIECE_BYTES
    assert found[-1] == (2**40, bytes(3))


def test_only_so_much_is_read_as_the_file_had(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read(path, 4) == [(0, b"0123")]


@pytest.mark.parametrize("size", [11, PIECE_BYTES + 1])
def test_a_file_that_is_shorter_is_an_error(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with pytest.raises(ShrunkError):
        read(path, size)


def test_the_digest_is_of_the_contents_wherever_the_holes_are(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(ONES + ZEROS + b"end")
    expected = ContentHash()
    expected.update(0, ONES)
    expected.update(2 * BLOCK_BYTES, b"end")
    size = path.stat().st_size
    with opened(path) as descriptor:
        os.lseek(descriptor, 5, os.SEEK_SET)  # its position does not count
        found = content_digest(descriptor, size, bytearray(PIECE_BYTES))
    assert found == expected.finish(size)


def test_contents_in_memory_are_split_as_those_of_files(tmp_path: Path) -> None:
    content = ONES + ZEROS + b"1" * PIECE_BYTES + bytes(PIECE_BYTES) + b"end"
    (tmp_path / "file").write_bytes(content)
    found = [(offset, bytes(data)) for offset, data in parts(content)]
    assert found == read(tmp_path / "file")
    assert list(parts(b"")) == []


# -- files that change ----------------------------------------------------------------------------


def status_before(path: Path, content: bytes, change: Callable[[Path], None]) -> os.stat_result:
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    status = path.stat()
    change(path)
    return status


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _rewrite(path: Path) -> None:
    path.write_bytes(b"9876543210")


def _shorten(path: Path) -> None:
    os.truncate(path, 3)


@pytest.mark.parametrize(
    ("change", "reason", "content"),
    [
        (lambda path: None, "", b"0123456789"),
        (_append, "", b"0123456789"),  # a log: what it had
        (_rewrite, CHANGED, b"9876543210"),
        (_shorten, CHANGED, b"012"),
    ],
    ids=["not at all", "it grew", "other contents", "it shrank"],
)
def test_a_small_file_that_changed_is_read_again_unless_it_only_grew(
    tmp_path: Path, change: Callable[[Path], None], reason: str, content: bytes
) -> None:
    path = tmp_path / "file"
    before = status_before(path, b"0123456789", change)
    assert changed(before, path.stat()) == reason
    with opened(path) as descriptor:
        found, status = read_small(descriptor, before, 100)
    assert found == content
    assert status == (path.stat() if reason else before)


def test_a_small_file_that_has_become_a_large_one_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = status_before(path, b"0123456789", _shorten)
    with opened(path) as descriptor, pytest.raises(ContentsError) as caught:
        read_small(descriptor, before, 2)
    assert "its size is not that of its contents" in unreadable(caught.value)


# -- files without a size ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/proc/version", "/proc/self/maps", "/sys/class/net/lo/mtu"])
def test_a_file_of_proc_and_sys_is_read_to_its_end(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert is_unsized(os.fstat(descriptor), descriptor)
        found = read_unsized(descriptor)
    finally:
        os.close(descriptor)
    if "self" not in path:
        assert found == Path(path).read_bytes()
    assert found.endswith(b"\n")


def test_empty_files_and_holes_in_memory_report_their_size() -> None:
    descriptor = os.memfd_create("test")
    try:
        for size in (0, 4096):
            os.truncate(descriptor, size)
            assert may_be_unsized(os.fstat(descriptor))
            assert not is_unsized(os.fstat(descriptor), descriptor)
        os.pwrite(descriptor, b"x", 0)
        assert not may_be_unsized(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def test_what_never_ends_or_would_wait_is_refused(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    zeros = os.open("/dev/zero", os.O_RDONLY)
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        with pytest.raises(ContentsError, match="would wait until something happens"):
            read_unsized(reading)
        os.write(writing, b"event")
        with pytest.raises(ContentsError, match="a stream of events without an end"):
            read_unsized(reading)
        assert os.read(reading, 10) == b"event"
        with pytest.raises(ContentsError, match="more than 64 MiB, or no end"):
            read_unsized(zeros)
        assert is_unsized(os.fstat(memory), memory)
        with pytest.raises(ContentsError, match="cannot be read: Input/output error"):
            read_unsized(memory)
    finally:
        for descriptor in (reading, writing, zeros, memory):
            os.close(descriptor)


def test_the_logs_messages_are_not_taken_from_it() -> None:
    try:
        descriptor = os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        pytest.skip(f"/proc/kmsg: {error.strerror}")
    try:
        if not may_be_unsized(os.fstat(descriptor)):
            pytest.skip("/proc/kmsg is covered by something else")
        assert is_unsized(os.fstat(descriptor), descriptor)
        with pytest.raises(ContentsError, match="a stream of events without an end"):
            read_unsized(descriptor)
    finally:
        os.close(descriptor)
