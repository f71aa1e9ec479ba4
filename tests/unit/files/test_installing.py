"""Writing entries: what is the same is not written again, what fails leaves the entry as it was."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from descriptors import open_now
from file_contents import digest
from file_streams import MTIME_NS, meta
from gexec.files.directories import Place, RefusedError
from gexec.files.entries import Directory, File, HardLink, Meta, Symlink
from gexec.files.installing import Incoming, Installer
from gexec.files.linking import Linker
from gexec.files.metadata import Judge
from gexec.files.notes import Notes
from gexec.files.options import CopyOptions
from gexec.files.owners import FileOwners
from gexec.files.report import Report
from gexec.files.survey import ATTRIBUTES, DOUBT, LACKS, OWN, RIGHT, UNKNOWN, FileFinding, Survey

LEFT_OUT = "set-uid and set-gid bits of 1 file are left out (--setuid keeps them): /file"
NOT_SENT = r"^its contents were not sent, because this node's answer was late or lost on the way; copy again$"


class Here:
    """A directory that entries are written into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.chmod(0o755)
        self.above = Place(b"", os.open(path, os.O_RDONLY | os.O_DIRECTORY), above=None)
        self.linker = Linker(self.above.descriptor)
        self.report = Report()
        self._notes = Notes()
        self._surveys: list[Survey] = []

    def installer(self, **options: bool) -> Installer:
        """Return one; ``file`` and ``look`` use its options from now on."""
        asked = CopyOptions(**options)
        judge = Judge(asked, FileOwners(keep=asked.keep_owner, numeric=asked.numeric_ids))
        survey = Survey(
            os.open(self.path, os.O_RDONLY | os.O_DIRECTORY),
            asked,
            judge,
            lambda meta, status: False,
            on_step=lambda: None,
        )
        self._surveys.append(survey)
        return Installer(asked, judge, self.linker, self.report, self._notes, on_step=lambda: None)

    def look(self, entry: File) -> FileFinding:
        """Return what the last installer's survey finds."""
        return self._surveys[-1].look([entry])[0]

    def begin(self, installer: Installer, entry: File, *, has_contents: bool = True) -> Incoming | None:
        return installer.file(self.above, entry.path, entry, self.look(entry), has_contents=has_contents)

    def file(self, installer: Installer, content: bytes, entry: Meta, name: bytes = b"file") -> bool:
        """Write a file as a receiver does; tell whether its contents were taken."""
        incoming = self.begin(installer, File(name, entry, len(content)))
        if incoming is None:
            return False
        try:
            incoming.write(0, memoryview(content))
            incoming.finish(digest(content))
        finally:
            incoming.abort()
        return True

    @property
    def notes(self) -> list[str]:
        return self._notes.sentences(b"")

    def close(self) -> None:
        for survey in self._surveys:
            survey.close()
        self.linker.close()
        os.close(self.above.descriptor)

    @property
    def counted(self) -> tuple[int, int, int, int, int]:
        report = self.report
        return report.files, report.bytes, report.directories, report.links, report.unchanged

    def is_as(self, name: str, mode: int, mtime_ns: int = MTIME_NS) -> bool:
        status = (self.path / name).lstat()
        return (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (mode, mtime_ns)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    """A directory; what was opened for it is closed by those who opened it."""
    before = open_now()
    here = Here(tmp_path)
    yield here
    here.close()
    assert open_now() == before


# -- files --------------------------------------------------------------------------------------


def test_a_file_is_written_once(here: Here) -> None:
    installer = here.installer()
    assert here.file(installer, b"content", meta(0o640))
    assert (here.path / "file").read_bytes() == b"content"
    assert here.is_as("file", 0o640)
    before = (here.path / "file").stat().st_ino
    assert not here.file(installer, b"content", meta(0o640))
    assert (here.path / "file").stat().st_ino == before
    assert here.counted == (1, 7, 0, 0, 1)
    assert here.notes == []


@pytest.mark.parametrize(
    ("content", "entry"),
    [(b"longer content", meta()), (b"content", meta(mtime_ns=MTIME_NS + 1))],
    ids=["size", "mtime"],
)
def test_a_file_that_may_differ_is_written_again(here: Here, content: bytes, entry: Meta) -> None:
    installer = here.installer()
    here.file(installer, b"content", meta())
    assert here.file(installer, content, entry)
    assert (here.path / "file").read_bytes() == content
    assert here.is_as("file", entry.mode, entry.mtime_ns)
    assert here.counted == (2, 7 + len(content), 0, 0, 0)


def test_a_file_with_another_mode_only_keeps_its_inode_and_needs_no_contents(here: Here) -> None:
    installer = here.installer()
    here.file(installer, b"content", meta())
    before = (here.path / "file").stat().st_ino
    entry = File(b"file", meta(0o600), 7)
    assert here.look(entry).state == ATTRIBUTES
    assert here.begin(installer, entry, has_contents=False) is None
    assert (here.path / "file").stat().st_ino == before
    assert here.is_as("file", 0o600)
    assert here.counted == (2, 7, 0, 0, 0)


@pytest.mark.parametrize("case", ["another name", "a directory of all"])
def test_where_others_may_have_put_the_file_a_copy_replaces_it(here: Here, case: str) -> None:
    installer = here.installer(backup=True)
    here.file(installer, b"content", meta())
    if case == "another name":
        os.link(here.path / "file", here.path / "mine")
    else:
        here.path.chmod(0o777)
        os.close(here.above.descriptor)
        here.above = Place(b"", os.open(here.path, os.O_RDONLY | os.O_DIRECTORY), above=None)
    before = (here.path / "file").stat()
    assert here.begin(installer, File(b"file", meta(0o600), 7), has_contents=False) is None
    assert (here.path / "file").stat().st_ino != before.st_ino
    assert (here.path / "file").read_bytes() == b"content"
    assert here.is_as("file", 0o600)
    assert here.is_as("file~", 0o644)
    if case == "another name":
        assert here.is_as("mine", 0o644)
    assert not [name for name in os.listdir(here.path) if name.startswith(".gexec")]


@pytest.mark.parametrize(("content", "written"), [(b"content", 0), (b"CONTENT", 1)])
def test_contents_decide_if_they_are_to_be_compared(here: Here, content: bytes, written: int) -> None:
    here.file(here.installer(), b"content", meta())
    installer = here.installer(compare_content=True)
    before = (here.path / "file").stat().st_ino
    assert here.file(installer, content, meta(mtime_ns=5))  # they are needed to be compared
    assert (here.path / "file").read_bytes() == content
    assert ((here.path / "file").stat().st_ino != before) == bool(written)
    assert here.is_as("file", 0o644, 5)  # whose time alone is set in place
    assert os.listdir(here.path) == ["file"]


@pytest.mark.parametrize(
    ("content", "counted"), [(b"content", (1, 7, 0, 0, 1)), (b"CONTENT", (2, 14, 0, 0, 0))]
)
def test_a_doubt_is_settled_by_the_contents_that_come(
    here: Here, content: bytes, counted: tuple[int, int, int, int, int]
) -> None:
    here.file(here.installer(), b"content", meta())
    installer = here.installer(compare_content=True)
    assert here.look(File(b"file", meta(), 7)).state == DOUBT
    assert here.file(installer, content, meta())
    assert (here.path / "file").read_bytes() == content
    assert here.counted == counted


def test_a_file_whose_contents_do_not_come_is_refused(here: Here) -> None:
    (here.path / "file").write_bytes(b"older")
    installer = here.installer()
    for entry in (File(b"file", meta(), 7), File(b"new", meta(), 7)):
        assert here.look(entry).state == LACKS
        with pytest.raises(RefusedError, match=NOT_SENT):
            here.begin(installer, entry, has_contents=False)
    assert (here.path / "file").read_bytes() == b"older"
    assert os.listdir(here.path) == ["file"]


def test_what_could_not_be_looked_at_is_refused_for_that_reason(here: Here) -> None:
    with pytest.raises(RefusedError, match=r"^the reason$"):
        here.installer().file(
            here.above, b"f", File(b"f", meta(), 1), FileFinding(UNKNOWN, why="the reason"), has_contents=True
        )


@pytest.mark.parametrize("state", [RIGHT, OWN])
def test_contents_of_a_file_that_is_right_or_the_source_are_not_taken(here: Here, state: int) -> None:
    installer = here.installer()
    here.file(installer, b"content", meta())
    status = (here.path / "file").stat()
    entry = File(b"file", meta(), 7, is_linked=True)
    found = FileFinding(state, status)
    assert installer.file(here.above, b"file", entry, found, has_contents=True) is None
    assert here.counted == (1, 7, 0, 0, 1)
    assert here.linker.is_made(b"file", status)


def test_a_file_that_was_replaced_since_it_was_looked_at_is_not_changed(here: Here) -> None:
    installer = here.installer()
    here.file(installer, b"content", meta())
    entry = File(b"file", meta(0o600), 7)
    found = here.look(entry)
    (here.path / "file").unlink()
    (here.path / "file").write_bytes(b"another")
    (here.path / "file").chmod(0o644)
    with pytest.raises(RefusedError, match="changed during the copy; copy again"):
        installer.file(here.above, b"file", entry, found, has_contents=False)
    assert (here.path / "file").read_bytes() == b"another"
    assert stat.S_IMODE((here.path / "file").stat().st_mode) == 0o644
    assert os.listdir(here.path) == ["file"]


def test_a_file_that_is_given_up_leaves_the_old_one(here: Here) -> None:
    installer = here.installer(backup=True)
    here.file(installer, b"old", meta())
    incoming = here.begin(installer, File(b"file", meta(), 6))
    assert incoming is not None
    incoming.write(0, memoryview(b"new"))
    incoming.abort()
    assert (here.path / "file").read_bytes() == b"old"
    assert os.listdir(here.path) == ["file"]
    assert here.counted == (1, 3, 0, 0, 0)


def test_with_backup_the_old_file_is_kept_and_a_new_one_has_none(here: Here) -> None:
    installer = here.installer(backup=True, sync=True)
    here.file(installer, b"old", meta())
    assert not (here.path / "file~").exists()
    here.file(installer, b"newer", meta())
    assert (here.path / "file~").read_bytes() == b"old"
    assert (here.path / "file").read_bytes() == b"newer"


def test_a_directory_or_link_where_the_file_is_to_be(here: Here) -> None:
    (here.path / "file").mkdir()
    installer = here.installer()
    with pytest.raises(RefusedError, match=r"^it is a directory here: remove it first$"):
        here.file(installer, b"x", meta())
    (here.path / "target").write_text("target")
    (here.path / "link").symlink_to("target")
    here.file(installer, b"x", meta(), name=b"link")
    assert not (here.path / "link").is_symlink()
    assert (here.path / "target").read_text() == "target"


@pytest.mark.parametrize(("keep_set_id", "mode", "notes"), [(False, 0o755, [LEFT_OUT]), (True, 0o4755, [])])
def test_set_id_bits_are_for_those_who_ask(
    here: Here, keep_set_id: bool, mode: int, notes: list[str]
) -> None:
    installer = here.installer(keep_set_id=keep_set_id)
    assert here.file(installer, b"x", meta(0o4755))
    assert here.is_as("file", mode)
    assert here.notes == notes
    assert not here.file(installer, b"x", meta(0o4755))  # which is no difference for ever


def test_a_file_that_already_has_its_set_id_bits_is_not_written_again(here: Here) -> None:
    here.file(here.installer(keep_set_id=True), b"x", meta(0o2755))
    assert not here.file(here.installer(), b"x", meta(0o2755))
    assert here.is_as("file", 0o2755)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_an_owner_who_is_somebody_else_here_is_refused_before_anything_is_written(
    here: Here, kind: str
) -> None:
    installer = here.installer(keep_owner=True)
    entry = Meta(0o755, 1, 0, MTIME_NS, b"no such user", b"")
    write: dict[str, Callable[[], object]] = {
        "file": lambda: here.file(installer, b"x", entry),
        "directory": lambda: installer.directory(here.above, b"new", Directory(b"new", entry)),
        "link": lambda: installer.symlink(here.above, b"new", Symlink(b"new", entry, b"target")),
    }
    with pytest.raises(RefusedError, match="its owner no such user"):
        write[kind]()
    assert os.listdir(here.path) == []


@pytest.mark.root
def test_a_directory_that_others_could_exchange_is_not_given_away_and_not_kept_open(
    tmp_path: Path, here: Here
) -> None:
    (tmp_path / "dir").mkdir()
    tmp_path.chmod(0o777)
    above = Place(b"", os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), above=None)
    event = Directory(b"dir", Meta(0o755, 54321, 0, MTIME_NS, b"", b""))
    with pytest.raises(RefusedError, match="it belongs to uid 0 here and would get another owner"):
        here.installer(keep_owner=True, numeric_ids=True).directory(above, b"dir", event)
    os.close(above.descriptor)
    assert (tmp_path / "dir").stat().st_uid == 0


# -- links --------------------------------------------------------------------------------------


def test_a_link_is_made_once_and_replaced_if_it_differs(here: Here) -> None:
    installer = here.installer(backup=True)
    for target in (b"one", b"one", b"two"):
        installer.symlink(here.above, b"link", Symlink(b"link", meta(0o777), target))
    assert os.readlink(here.path / "link") == "two"
    assert os.readlink(here.path / "link~") == "one"
    assert here.counted == (0, 0, 0, 2, 1)
    (here.path / "dir").mkdir()
    with pytest.raises(RefusedError, match=r"^it is a directory here: remove it first$"):
        installer.symlink(here.above, b"dir", Symlink(b"dir", meta(), b"one"))


# -- directories --------------------------------------------------------------------------------


def test_a_directory_is_closed_to_others_until_it_is_left(here: Here) -> None:
    installer = here.installer(sync=True)
    place = installer.directory(here.above, b"dir", Directory(b"dir", meta(0o755)))
    assert stat.S_IMODE((here.path / "dir").stat().st_mode) == 0o700
    os.mkdir(b"below", dir_fd=place.descriptor)
    installer.leave(place)
    os.close(place.descriptor)
    assert here.is_as("dir", 0o755)
    assert here.counted == (0, 0, 1, 0, 0)
    assert here.notes == []


def test_a_directory_that_is_there_is_taken(here: Here) -> None:
    (here.path / "dir").mkdir(mode=0o700)
    (here.path / "dir/kept").touch()
    installer = here.installer()
    place = installer.directory(here.above, b"dir", Directory(b"dir", meta(0o750)))
    installer.leave(place)
    os.close(place.descriptor)
    assert here.is_as("dir", 0o750)
    assert os.listdir(here.path / "dir") == ["kept"]
    assert here.counted == (0, 0, 0, 0, 0)


def test_what_is_only_passed_through_is_left_as_it_is(here: Here) -> None:
    (here.path / "dir").mkdir(mode=0o711)
    before = (here.path / "dir").stat()
    place = Place(b"dir", os.open(here.path / "dir", os.O_PATH | os.O_DIRECTORY), above=here.above)
    here.installer().leave(place)
    os.close(place.descriptor)
    assert (here.path / "dir").stat() == before


def test_no_directory_is_made_where_something_else_is(here: Here) -> None:
    (here.path / "file").touch()
    (here.path / "link").symlink_to(".")
    for name, kind in ((b"file", "a file"), (b"link", "a symbolic link")):
        with pytest.raises(RefusedError, match=f"{name.decode()} is {kind}"):
            here.installer().directory(here.above, name, Directory(name, meta()))


@pytest.mark.parametrize("keep_set_id", [False, True])
def test_set_id_bits_of_a_directory_give_no_right_and_are_kept(here: Here, keep_set_id: bool) -> None:
    installer = here.installer(keep_set_id=keep_set_id)
    place = installer.directory(here.above, b"dir", Directory(b"dir", meta(0o2755)))
    installer.leave(place)
    os.close(place.descriptor)
    assert here.is_as("dir", 0o2755)
    assert here.notes == []


def test_set_id_bits_that_a_directory_has_stay(here: Here) -> None:
    (here.path / "dir").mkdir()
    (here.path / "dir").chmod(0o2700)
    installer = here.installer()
    place = installer.directory(here.above, b"dir", Directory(b"dir", meta(0o2755)))
    installer.leave(place)
    os.close(place.descriptor)
    assert here.is_as("dir", 0o2755)
    assert here.notes == []


# -- hard links ---------------------------------------------------------------------------------


def test_one_more_name_is_made_once(here: Here) -> None:
    installer = here.installer(backup=True)
    incoming = here.begin(installer, File(b"file", meta(), 7, is_linked=True))
    assert incoming is not None
    incoming.write(0, memoryview(b"content"))
    incoming.finish(digest(b"content"))
    (here.path / "name").write_bytes(b"old")
    for _ in range(2):
        installer.hard_link(here.above, b"name", HardLink(b"name", meta(), 7, b"file"))
    assert os.path.samefile(here.path / "file", here.path / "name")
    assert (here.path / "name~").read_bytes() == b"old"
    assert here.counted == (2, 7, 0, 0, 1)
    assert here.notes == []


def test_a_name_of_a_file_that_was_not_written_is_refused(here: Here) -> None:
    with pytest.raises(RefusedError, match="its other name, file, was not written here"):
        here.installer().hard_link(here.above, b"name", HardLink(b"name", meta(), 7, b"file"))
    assert os.listdir(here.path) == []
