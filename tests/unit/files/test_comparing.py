"""Comparing an entry with what is here: each difference has its word, nothing is written, all is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from descriptors import open_now
from file_contents import digest
from file_streams import MTIME_NS, Received, hand_made, meta
from gexec.files.comparing import Comparer, FileComparison
from gexec.files.directories import Place, RefusedError
from gexec.files.entries import Directory, File, HardLink, Symlink
from gexec.files.metadata import Judge
from gexec.files.options import DRY_RUN, VERIFY, CopyOptions
from gexec.files.owners import FileOwners
from gexec.files.report import Report
from gexec.files.survey import FileFinding, Survey


class Here:
    """A directory, and a comparer for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.above = Place(b"", os.open(path, os.O_RDONLY | os.O_DIRECTORY), above=None)
        self.told: list[tuple[str, bytes, str]] = []
        self.report = Report()
        self._survey: Survey | None = None

    def comparer(self, task: int, **options: bool) -> Comparer:
        """Return one; what it finds is what a survey with the same options finds."""
        options.setdefault("keep_owner", True)
        asked = CopyOptions(task=task, numeric_ids=True, **options)
        judge = Judge(asked, FileOwners(keep=asked.keep_owner, numeric=True))
        self.close()
        self._survey = Survey(
            os.open(self.path, os.O_RDONLY | os.O_DIRECTORY),
            asked,
            judge,
            lambda meta, status: False,
            on_step=lambda: None,
        )
        return Comparer(asked, judge, self.report, lambda *words: self.told.append(words))

    def close(self) -> None:
        if self._survey is not None:
            self._survey.close()

    def write(self, name: str, content: bytes = b"12345", mode: int = 0o644) -> None:
        (self.path / name).write_bytes(content)
        (self.path / name).chmod(mode)
        os.utime(self.path / name, ns=(MTIME_NS, MTIME_NS))

    def begin(
        self, comparer: Comparer, entry: File, *, above: Place | None = None, has_contents: bool = True
    ) -> FileComparison | None:
        """Look at a file and begin to compare it, as a receiver does."""
        name = entry.path.rpartition(b"/")[2]
        finding = self.look(entry)
        return comparer.file(above or self.above, name, entry, finding, has_contents=has_contents)

    def look(self, entry: File) -> FileFinding:
        """Look at a file."""
        assert self._survey is not None
        return self._survey.look([entry])[0]

    def file(self, comparer: Comparer, entry: File, content: bytes) -> None:
        """Compare a file as a receiver does."""
        comparison = self.begin(comparer, entry)
        if comparison is not None:
            comparison.write(0, memoryview(content))
            comparison.finish(digest(content))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    before = open_now()
    here = Here(tmp_path)
    yield here
    here.close()
    os.close(here.above.descriptor)
    assert open_now() == before


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
    entry = File(b"file", meta(mode, mtime_ns), len(content))
    here.file(here.comparer(task), entry, content)
    expected = verify if task == VERIFY else dry_run
    word = "differs" if task == VERIFY else "update"
    assert here.told == ([(word, b"file", expected)] if expected else [])
    assert counted(here.report) == ((1, len(content), 0, 0, 0) if expected else (0, 0, 0, 0, 1))
    assert (here.path / "file").read_bytes() == b"12345"


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"12345", [("update", b"file", "mtime")]), (b"54321", [("update", b"file", "content")])],
)
def test_contents_decide_if_they_are_to_be_compared(here: Here, content: bytes, told: list[object]) -> None:
    here.write("file")
    entry = File(b"file", meta(mtime_ns=MTIME_NS + 1), len(content))
    here.file(here.comparer(DRY_RUN, compare_content=True), entry, content)
    assert here.told == told


@pytest.mark.parametrize(("task", "word"), [(VERIFY, "missing"), (DRY_RUN, "create")])
def test_what_is_not_here(here: Here, task: int, word: str) -> None:
    comparer = here.comparer(task)
    assert here.begin(comparer, File(b"file", meta(), 7)) is None
    comparer.symlink(here.above, b"link", Symlink(b"link", meta(), b"target"))
    place = comparer.directory(here.above, b"dir", Directory(b"dir", meta(0o755)))
    assert place.is_missing
    below = comparer.directory(place, b"below", Directory(b"dir/below", meta(0o755)))
    assert below.is_missing
    assert here.begin(comparer, File(b"dir/below/file", meta(), 3), above=below) is None
    paths = [b"file", b"link", b"dir", b"dir/below", b"dir/below/file"]
    assert here.told == [(word, path, "") for path in paths]
    assert counted(here.report) == (2, 10, 2, 1, 0)
    assert os.listdir(here.path) == []


@pytest.mark.parametrize(("task", "word"), [(VERIFY, "differs"), (DRY_RUN, "update")])
def test_what_is_of_another_kind(here: Here, task: int, word: str) -> None:
    here.write("f")
    (here.path / "l").symlink_to("f")
    comparer = here.comparer(task)
    assert here.begin(comparer, File(b"l", meta(), 5)) is None  # the link, not what it points to
    comparer.symlink(here.above, b"f", Symlink(b"f", meta(), b"x"))
    assert comparer.directory(here.above, b"f", Directory(b"f", meta())).is_missing
    assert here.told == [(word, b"l", "kind"), (word, b"f", "kind"), (word, b"f", "kind")]


def test_a_directory_where_a_file_is_to_be_is_an_error_only_of_what_would_be_written(here: Here) -> None:
    (here.path / "dir").mkdir()
    entry = File(b"dir", meta(), 5)
    with pytest.raises(RefusedError, match=r"^it is a directory here: remove it first$"):
        here.begin(here.comparer(DRY_RUN), entry)
    assert here.told == []
    assert here.begin(here.comparer(VERIFY), entry) is None
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
    entry = File(b"file", meta(uid=54321), 5)
    here.file(here.comparer(VERIFY, keep_owner=keep_owner), entry, b"12345")
    assert here.told == ([("differs", b"file", "owner")] if keep_owner else [])


@pytest.mark.parametrize("keep_set_id", [True, False])
def test_set_id_bits_count_if_they_are_kept(here: Here, keep_set_id: bool) -> None:
    here.write("file")
    entry = File(b"file", meta(0o4644), 5)
    here.file(here.comparer(VERIFY, keep_set_id=keep_set_id), entry, b"12345")
    assert here.told == ([("differs", b"file", "mode")] if keep_set_id else [])


def test_a_comparison_that_is_given_up_says_nothing(here: Here) -> None:
    here.write("file")
    comparison = here.begin(here.comparer(VERIFY), File(b"file", meta(), 5))
    assert comparison is not None
    comparison.abort()
    assert here.told == []
    assert counted(here.report) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("is_unreadable", [False, True])
def test_without_digest_or_contents_a_doubt_is_refused_unless_the_sender_has_reported_it(
    here: Here, is_unreadable: bool
) -> None:
    here.write("file")
    entry = File(b"file", meta(), 5)
    comparer = here.comparer(VERIFY)
    finding = here.look(entry)
    if is_unreadable:
        finding.is_unreadable = True
        assert comparer.file(here.above, b"file", entry, finding, has_contents=False) is None
    else:
        with pytest.raises(RefusedError, match="its digest was not sent"):
            comparer.file(here.above, b"file", entry, finding, has_contents=False)
    assert here.told == []
    assert counted(here.report) == (0, 0, 0, 0, 0)


def test_what_cannot_be_looked_at_is_refused(here: Here) -> None:
    (here.path / "d").symlink_to(".")
    for task in (VERIFY, DRY_RUN):
        with pytest.raises(RefusedError, match="d is a symbolic link"):
            here.begin(here.comparer(task), File(b"d/file", meta(), 5))
    assert here.told == []


@pytest.mark.parametrize(
    ("task", "words"), [(VERIFY, ("missing", "differs")), (DRY_RUN, ("create", "update"))]
)
def test_more_names_of_a_file(here: Here, task: int, words: tuple[str, str]) -> None:
    missing, differs = words
    for name in ("file", "other"):
        here.write(name)
    os.link(here.path / "file", here.path / "right")
    (here.path / "link").symlink_to("file")
    comparer = here.comparer(task)
    here.file(comparer, File(b"file", meta(), 5, is_linked=True), b"12345")
    for other in (b"right", b"other", b"link", b"none"):
        comparer.hard_link(here.above, other, HardLink(other, meta(), 5, b"file"))
    assert here.told == [(differs, b"other", "link"), (differs, b"link", "kind"), (missing, b"none", "")]
    assert counted(here.report) == (3, 0, 0, 0, 2)


def test_names_of_a_file_that_is_not_here_are_missing_or_differ(here: Here) -> None:
    here.write("other")
    comparer = here.comparer(VERIFY)
    here.begin(comparer, File(b"file", meta(), 5, is_linked=True))
    comparer.hard_link(here.above, b"other", HardLink(b"other", meta(), 5, b"file"))
    assert here.told == [("missing", b"file", ""), ("differs", b"other", "link")]


@pytest.mark.parametrize(("task", "word"), [(VERIFY, "extra"), (DRY_RUN, "delete")])
def test_entries_that_the_source_lacks_are_told(tmp_path: Path, task: int, word: str) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "extra").write_text("x")
    (tmp_path / "d" / "sub" / "deep").write_text("x")
    stream = hand_made(Directory(b"d", meta(0o755)))
    done = Received(stream, tmp_path, CopyOptions(task=task, delete=True))
    assert done.told == [f"{word} d/extra", f"{word} d/sub"]
    partial = hand_made(Directory(b"d", meta(0o755), is_whole=False))
    assert Received(partial, tmp_path, CopyOptions(task=task, delete=True)).told == []
    assert (tmp_path / "d" / "sub" / "deep").exists()
