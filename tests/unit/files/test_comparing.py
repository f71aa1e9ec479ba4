"""Comparing an entry with what is here: each difference has its word, nothing is written, all is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from file_contents import digest
from gexec.files.comparing import Comparer, FileComparison
from gexec.files.directories import Place, RefusedError
from gexec.files.options import DRY_RUN, VERIFY, CopyOptions
from gexec.files.records import Directory, File, Meta, Symlink
from gexec.files.report import Report

MTIME_NS = 10**18


def meta(mode: int = 0o644, mtime_ns: int = MTIME_NS, uid: int | None = None) -> Meta:
    return Meta(mode, os.geteuid() if uid is None else uid, os.getegid(), mtime_ns, b"", b"")


class Here:
    """A directory, and a comparer for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.above = Place(b"", os.open(path, os.O_RDONLY | os.O_DIRECTORY), above=None)
        self.told: list[tuple[str, bytes, str]] = []
        self.report = Report()

    def comparer(self, task: int, **options: bool) -> Comparer:
        options.setdefault("keep_owner", True)
        return Comparer(
            CopyOptions(task=task, numeric_ids=True, **options),
            self.report,
            lambda *words: self.told.append(words),
        )

    def write(self, name: str, content: bytes = b"12345", mode: int = 0o644) -> None:
        (self.path / name).write_bytes(content)
        (self.path / name).chmod(mode)
        os.utime(self.path / name, ns=(MTIME_NS, MTIME_NS))

    def file(self, comparer: Comparer, event: File, content: bytes) -> None:
        """Compare a file as a receiver does."""
        comparison = comparer.file(self.above, event.path, event)
        if comparison is not None:
            assert isinstance(comparison, FileComparison)
            comparison.write(0, memoryview(content))
            comparison.finish(digest(content))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    here = Here(tmp_path)
    yield here
    os.close(here.above.descriptor)


def counted(report: Report) -> tuple[int, int, int, int, int]:
    return report.files, report.bytes, report.directories, report.links, report.unchanged


@pytest.mark.parametrize(
    ("content", "mode", "mtime_ns", "verify", "dry_run"),
    [
        (b"12345", 0o644, MTIME_NS, "", ""),
        (b"12345", 0o600, MTIME_NS, "mode", "mode"),
        (b"54321", 0o644, MTIME_NS, "content", ""),  # same size, same time: taken for the same
        (b"123456", 0o600, MTIME_NS, "content, mode", "content, mode"),
        (b"12345", 0o644, MTIME_NS + 1, "", "mtime"),  # its contents are the same
        (b"54321", 0o600, MTIME_NS + 1, "content, mode", "mtime, mode"),
    ],
)
@pytest.mark.parametrize("task", [VERIFY, DRY_RUN])
def test_differences_of_a_file(
    here: Here, task: int, content: bytes, mode: int, mtime_ns: int, verify: str, dry_run: str
) -> None:
    here.write("file")
    event = File(b"file", meta(mode, mtime_ns), len(content))
    here.file(here.comparer(task), event, content)
    expected = verify if task == VERIFY else dry_run
    word = "differs" if task == VERIFY else "update"
    assert here.told == ([(word, b"file", expected)] if expected else [])
    assert counted(here.report) == ((1, len(content), 0, 0, 0) if expected else (0, 0, 0, 0, 1))
    assert (here.path / "file").read_bytes() == b"12345"


@pytest.mark.parametrize(("content", "told"), [(b"12345", []), (b"54321", [("update", b"file", "content")])])
def test_contents_decide_if_they_are_to_be_compared(here: Here, content: bytes, told: list[object]) -> None:
    here.write("file")
    event = File(b"file", meta(mtime_ns=MTIME_NS + 1), len(content))
    here.file(here.comparer(DRY_RUN, compare_content=True), event, content)
    assert here.told == told


@pytest.mark.parametrize(("task", "word"), [(VERIFY, "missing"), (DRY_RUN, "create")])
def test_what_is_not_here(here: Here, task: int, word: str) -> None:
    comparer = here.comparer(task)
    assert comparer.file(here.above, b"file", File(b"file", meta(), 7)) is None
    comparer.symlink(here.above, b"link", Symlink(b"link", meta(), b"target"))
    place = comparer.directory(here.above, b"dir", Directory(b"dir", meta(0o755)))
    assert place.is_missing
    below = comparer.directory(place, b"below", Directory(b"dir/below", meta(0o755)))
    assert below.is_missing
    assert comparer.file(below, b"file", File(b"dir/below/file", meta(), 3)) is None
    paths = [b"file", b"link", b"dir", b"dir/below", b"dir/below/file"]
    assert here.told == [(word, path, "") for path in paths]
    assert counted(here.report) == (2, 10, 2, 1, 0)
    assert os.listdir(here.path) == []


@pytest.mark.parametrize(("task", "word"), [(VERIFY, "differs"), (DRY_RUN, "update")])
def test_what_is_of_another_kind(here: Here, task: int, word: str) -> None:
    here.write("f")
    (here.path / "l").symlink_to("f")
    comparer = here.comparer(task)
    assert comparer.file(here.above, b"l", File(b"l", meta(), 5)) is None  # the link, not what it points to
    comparer.symlink(here.above, b"f", Symlink(b"f", meta(), b"x"))
    assert comparer.directory(here.above, b"f", Directory(b"f", meta())).is_missing
    assert here.told == [(word, b"l", "kind"), (word, b"f", "kind"), (word, b"f", "kind")]


def test_a_directory_where_a_file_is_to_be_is_an_error_only_of_what_would_be_written(here: Here) -> None:
    (here.path / "dir").mkdir()
    event = File(b"dir", meta(), 5)
    with pytest.raises(RefusedError, match=r"^it is a directory here: remove it first$"):
        here.comparer(DRY_RUN).file(here.above, b"dir", event)
    assert here.told == []
    assert here.comparer(VERIFY).file(here.above, b"dir", event) is None
    assert here.told == [("differs", b"dir", "kind")]


def test_directories(here: Here) -> None:
    (here.path / "dir").mkdir(mode=0o700)
    comparer = here.comparer(VERIFY)
    for mode, told in ((0o700, []), (0o755, [("differs", b"dir", "mode")])):
        place = comparer.directory(here.above, b"dir", Directory(b"dir", meta(mode)))
        assert not place.is_missing
        assert os.listdir(place.descriptor) == []
        comparer.leave(place)
        os.close(place.descriptor)
        assert here.told == told


def test_links(here: Here) -> None:
    (here.path / "link").symlink_to("target")
    comparer = here.comparer(VERIFY)
    comparer.symlink(
        here.above, b"link", Symlink(b"link", meta(0o777, 5), b"target")
    )  # its time does not count
    assert here.told == []
    comparer.symlink(here.above, b"link", Symlink(b"link", meta(0o777), b"other"))
    assert here.told == [("differs", b"link", "target")]
    comparer.symlink(here.above, b"link", Symlink(b"link", meta(0o777, uid=54321), b"target"))
    assert here.told[1:] == [("differs", b"link", "owner")]
    assert counted(here.report) == (0, 0, 0, 2, 1)


@pytest.mark.parametrize("keep_owner", [True, False])
def test_owners_count_if_they_are_kept(here: Here, keep_owner: bool) -> None:
    here.write("file")
    event = File(b"file", meta(uid=54321), 5)
    here.file(here.comparer(VERIFY, keep_owner=keep_owner), event, b"12345")
    assert here.told == ([("differs", b"file", "owner")] if keep_owner else [])


@pytest.mark.parametrize("keep_set_id", [True, False])
def test_set_id_bits_count_if_they_are_kept(here: Here, keep_set_id: bool) -> None:
    here.write("file")
    event = File(b"file", meta(0o4644), 5)
    here.file(here.comparer(VERIFY, keep_set_id=keep_set_id), event, b"12345")
    assert here.told == ([("differs", b"file", "mode")] if keep_set_id else [])


def test_a_comparison_that_is_given_up_says_nothing(here: Here) -> None:
    here.write("file")
    comparison = here.comparer(VERIFY).file(here.above, b"file", File(b"file", meta(), 5))
    assert comparison is not None
    comparison.abort()
    assert here.told == []
    assert counted(here.report) == (0, 0, 0, 0, 0)
