"""Contents of one file become those of another one, with holes, by the system or by reading and writing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from filesystems import KINDS, empty_place
from gexec.files.contents import copy_contents
from gexec.files.reading import ShrunkError

MIB = 1024 * 1024


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with empty_place(request.param, tmp_path) as made:
        yield made


@contextmanager
def opened(source: Path, target: Path) -> Iterator[tuple[int, int]]:
    with open(source, "rb") as first, open(target, "wb") as second:
        yield first.fileno(), second.fileno()


def sparse(path: Path) -> int:
    """Make a file: a hole, 3 MiB of data, a hole of 64 MiB, a little data, a hole at the end."""
    with open(path, "wb") as file:
        file.seek(MIB)
        file.write(os.urandom(3 * MIB))
        file.seek(68 * MIB)
        file.write(b"little")
        file.truncate(70 * MIB + 7)
    return 70 * MIB + 7


# From a file system to itself, and to another one.
@pytest.mark.parametrize("to", ["itself", "another"])
def test_contents_arrive_with_their_holes(place: Path, tmp_path: Path, to: str) -> None:
    target = (place if to == "itself" else tmp_path) / "target"
    size = sparse(place / "source")
    steps: list[int] = []
    with opened(place / "source", target) as (source, written):
        copy_contents(source, written, size, on_step=lambda: steps.append(1))
    assert target.read_bytes() == (place / "source").read_bytes()
    assert target.stat().st_blocks * 512 < 8 * MIB
    assert steps


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_a_part_is_copied(place: Path, size: int) -> None:
    (place / "source").write_bytes(b"0123456789" * 500)
    with opened(place / "source", place / "target") as (source, target):
        copy_contents(source, target, size)
    assert (place / "target").read_bytes() == (b"0123456789" * 500)[:size]


def test_a_file_that_is_only_a_hole(place: Path) -> None:
    with open(place / "source", "wb") as file:
        file.truncate(MIB)
    with opened(place / "source", place / "target") as (source, target):
        copy_contents(source, target, MIB)
    assert (place / "target").read_bytes() == bytes(MIB)
    assert (place / "target").stat().st_blocks == 0


@pytest.mark.parametrize("contents", [b"", b"short"])
def test_a_file_that_is_shorter_is_an_error(place: Path, contents: bytes) -> None:
    (place / "source").write_bytes(contents)
    with opened(place / "source", place / "target") as (source, target), pytest.raises(ShrunkError):
        copy_contents(source, target, 10)


def test_what_has_no_size_is_an_error_and_not_a_file_of_zeros(tmp_path: Path) -> None:
    status = Path("/proc/self/status")
    with opened(status, tmp_path / "target") as (source, target), pytest.raises(ShrunkError):
        copy_contents(source, target, 1_000_000)


def test_a_full_file_system_is_an_error(tmp_path: Path) -> None:
    with empty_place("ext4", tmp_path) as place:
        with open(tmp_path / "source", "wb") as file:
            for _ in range(20):
                file.write(os.urandom(MIB))
        full = pytest.raises(OSError, match="No space left")
        with opened(tmp_path / "source", place / "target") as (source, target), full:
            copy_contents(source, target, 20 * MIB)
