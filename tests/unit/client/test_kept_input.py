"""stdin for several jobs after each other: each gets all of it, and never more is kept than the bound."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from descriptors import new_pipe
from gexec import limits
from gexec.client.kept import TOO_LONG, KeptInput
from gexec.errors import UsageError


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    with new_pipe() as ends:
        yield ends


def _all(kept: KeptInput) -> bytes:
    data = b""
    while piece := kept.read(3):
        data += piece
    return data


def test_each_job_reads_all_of_it(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.write(writing, b"0123456789")
    os.close(writing)
    kept = KeptInput(reading)
    for _ in range(3):
        kept.rewind()
        assert _all(kept) == b"0123456789"
        assert kept.read(3) == b""
    assert kept.why == ""
    kept.close()


def test_a_job_that_left_early_leaves_the_rest_to_the_next(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    kept = KeptInput(reading)
    assert kept.fd == reading
    os.write(writing, b"abcdef")
    assert kept.read(4) == b"abcd"
    assert kept.fd == reading  # nothing kept is ahead
    kept.rewind()
    assert kept.fd != reading
    assert kept.read(100) == b"abcd"
    assert kept.fd == reading
    os.close(writing)
    assert _all(kept) == b"ef"
    kept.close()


def test_a_job_that_has_room_for_nothing_does_not_end_it_for_the_next(pipe: tuple[int, int]) -> None:
    """Its processes ceased to read after the descriptor was found ready, and before it was read."""
    reading, writing = pipe
    kept = KeptInput(reading)
    os.write(writing, b"abcdef")
    assert kept.read(4) == b"abcd"
    assert kept.read(0) is None
    kept.rewind()
    assert kept.read(0) is None
    assert kept.read(100) == b"abcd"
    os.close(writing)
    assert _all(kept) == b"ef"
    kept.close()


def test_no_input_is_no_input_for_all(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(writing)
    kept = KeptInput(reading)
    assert kept.read(10) == b""
    kept.rewind()
    assert kept.read(10) == b""
    kept.close()


def test_what_is_too_long_goes_to_the_first_job_only(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STDIN_KEPT_MAX_BYTES", 8)
    reading, writing = pipe
    os.write(writing, b"0123456789")
    os.close(writing)
    kept = KeptInput(reading)
    assert _all(kept) == b"0123456789"
    assert kept.why == TOO_LONG
    kept.close()


def test_a_copy_that_cannot_be_written_is_said(
    pipe: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    reading, writing = pipe
    os.write(writing, b"x")
    os.close(writing)
    kept = KeptInput(reading)
    assert _all(kept) == b"x"
    assert "No such file or directory" in kept.why
    assert "TMPDIR" in kept.why
    kept.close()


def test_a_file_over_the_bound_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(limits.STDIN_KEPT_MAX_BYTES + 10)
    with path.open("rb") as file:
        with pytest.raises(UsageError, match="it may have at most"):
            KeptInput(file.fileno())
        file.seek(10)
        KeptInput(file.fileno()).close()
