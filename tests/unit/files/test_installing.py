"""Writing entries: what is the same is not written again, what fails leaves the entry as it was."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from descriptors import open_now
from file_contents import digest
from gexec.files.directories import Place, RefusedError
from gexec.files.installing import Installer, digest_below
from gexec.files.options import CopyOptions
from gexec.files.records import Directory, File, Meta, Symlink
from gexec.files.report import Report

MTIME_NS = 10**18
LEFT_OUT = "set-uid and set-gid bits are left out (--setuid keeps them)"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def meta(mode: int = 0o644, mtime_ns: int = MTIME_NS, owner: bytes = b"") -> Meta:
    return Meta(mode, os.geteuid(), os.getegid(), mtime_ns, owner, b"")


class Here:
    """A directory that entries are written into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.above = Place(b"", os.open(path, os.O_RDONLY | os.O_DIRECTORY), above=None)
        self.notes: list[tuple[bytes, str]] = []
        self.report = Report()

    def installer(self, **options: bool) -> Installer:
        return Installer(CopyOptions(**options), self.report, lambda *note: self.notes.append(note))

    def file(self, installer: Installer, content: bytes, entry: Meta, name: bytes = b"file") -> bool:
        """Write a file as a receiver does; tell whether its contents were asked for."""
        incoming = installer.file(self.above, name, File(name, entry, len(content)))
        if incoming is None:
            return False
        incoming.write(0, memoryview(content))
        incoming.finish(digest(content))
        return True

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
    os.close(here.above.descriptor)
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
    [(b"longer content", meta()), (b"content", meta(0o600)), (b"content", meta(mtime_ns=MTIME_NS + 1))],
    ids=["size", "mode", "mtime"],
)
def test_a_file_that_differs_is_written_again(here: Here, content: bytes, entry: Meta) -> None:
    installer = here.installer()
    here.file(installer, b"content", meta())
    assert here.file(installer, content, entry)
    assert (here.path / "file").read_bytes() == content
    assert here.is_as("file", entry.mode, entry.mtime_ns)
    assert here.counted == (2, 7 + len(content), 0, 0, 0)


@pytest.mark.parametrize(("content", "written"), [(b"content", 0), (b"CONTENT", 1)])
def test_contents_decide_if_they_are_to_be_compared(here: Here, content: bytes, written: int) -> None:
    here.file(here.installer(), b"content", meta())
    installer = here.installer(compare_content=True)
    before = (here.path / "file").stat().st_ino
    assert here.file(installer, content, meta(mtime_ns=5))  # they are needed to be compared
    assert here.counted[0] == 1 + written
    assert ((here.path / "file").stat().st_ino != before) == bool(written)
    assert here.is_as("file", 0o644, 5 if written else MTIME_NS)
    assert os.listdir(here.path) == ["file"]


def test_a_file_that_is_given_up_leaves_the_old_one(here: Here) -> None:
    installer = here.installer(backup=True)
    here.file(installer, b"old", meta())
    incoming = installer.file(here.above, b"file", File(b"file", meta(), 6))
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


@pytest.mark.parametrize(
    ("keep_set_id", "mode", "notes"), [(False, 0o755, [(b"file", LEFT_OUT)]), (True, 0o4755, [])]
)
def test_set_id_bits_are_for_those_who_ask(
    here: Here, keep_set_id: bool, mode: int, notes: list[tuple[bytes, str]]
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


@root_only
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


@root_only
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


@pytest.mark.parametrize(
    ("keep_set_id", "mode", "notes"), [(False, 0o755, [(b"dir", LEFT_OUT)]), (True, 0o2755, [])]
)
def test_set_id_bits_of_a_directory(here: Here, keep_set_id: bool, mode: int, notes: list[object]) -> None:
    installer = here.installer(keep_set_id=keep_set_id)
    place = installer.directory(here.above, b"dir", Directory(b"dir", meta(0o2755)))
    installer.leave(place)
    os.close(place.descriptor)
    assert here.is_as("dir", mode)
    assert here.notes == notes


def test_set_id_bits_that_a_directory_has_stay(here: Here) -> None:
    (here.path / "dir").mkdir()
    (here.path / "dir").chmod(0o2700)
    installer = here.installer()
    place = installer.directory(here.above, b"dir", Directory(b"dir", meta(0o2755)))
    installer.leave(place)
    os.close(place.descriptor)
    assert here.is_as("dir", 0o2755)
    assert here.notes == []


# -- digests ------------------------------------------------------------------------------------


def test_a_digest_is_of_a_file_of_that_size_only(here: Here) -> None:
    (here.path / "file").write_bytes(b"content")
    (here.path / "link").symlink_to("file")
    os.mkfifo(here.path / "fifo")
    installer = here.installer()
    assert installer.digest(here.above, b"file", 7) == digest(b"content")
    assert installer.digest(here.above, b"file", 6) == b""
    assert digest_below(here.above, b"fifo", 0, bytearray(1)) == b""  # which nobody waits for
    with pytest.raises(OSError, match="symbolic links"):
        installer.digest(here.above, b"link", 7)
    with pytest.raises(FileNotFoundError):
        installer.digest(here.above, b"nothing", 7)
