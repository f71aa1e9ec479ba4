"""Reading files: all bytes in ascending pieces, no block of zeros, and a file that shrinks is an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gexec import limits
from gexec.files.digest import BLOCK_BYTES, ContentHash
from gexec.files.reading import ShrunkError, content_digest, pieces

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
