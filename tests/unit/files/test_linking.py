"""Hard links: found when they are sent, made again where they are received."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from descriptors import directory
from filesystems import mounted
from gexec import limits
from gexec.files.directories import RefusedError
from gexec.files.linking import Linker, LinkFinder, LinkImpossibleError


@pytest.fixture
def above(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "top").mkdir()
    with directory(tmp_path / "top") as descriptor:
        yield descriptor


@pytest.fixture
def top(tmp_path: Path, above: int) -> Path:
    """The destination, with a file in a/b."""
    (tmp_path / "top/a/b").mkdir(parents=True)
    (tmp_path / "top/a/b/file").write_text("contents")
    return tmp_path / "top"


@pytest.fixture
def linker(above: int, top: Path) -> Iterator[Linker]:
    made = Linker(above)
    made.remember(b"a/b/file", (top / "a/b/file").lstat())
    yield made
    made.close()


# -- sending ---------------------------------------------------------------------------------------


def test_the_first_name_of_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "single").touch()
    (tmp_path / "one").touch()
    os.link(tmp_path / "one", tmp_path / "two")
    os.link(tmp_path / "one", tmp_path / "three")
    said: list[str] = []
    finder = LinkFinder(said.append)
    assert finder.first_of((tmp_path / "single").lstat(), b"single") is None
    assert not finder.is_remembered((tmp_path / "single").lstat())
    assert finder.first_of((tmp_path / "one").lstat(), b"one") is None
    assert finder.is_remembered((tmp_path / "one").lstat())
    assert finder.first_of((tmp_path / "two").lstat(), b"two") == b"one"
    finder.forget((tmp_path / "one").lstat())
    assert finder.first_of((tmp_path / "two").lstat(), b"two") is None
    assert finder.first_of((tmp_path / "three").lstat(), b"three") == b"two"
    assert said == []


def test_more_files_than_are_remembered_are_told_once() -> None:
    said: list[str] = []
    finder = LinkFinder(said.append)

    def status(inode: int) -> os.stat_result:
        return os.stat_result((0o100644, inode, 1, 2, 0, 0, 0, 0, 0, 0))

    for inode in range(limits.ARCHIVE_LINKS_MAX + 3):
        assert finder.first_of(status(inode), b"name") is None
    assert said == [
        "more than 262144 files have several names: hard links to further files are copied as separate files"
    ]
    assert finder.first_of(status(7), b"other") == b"name"
    assert not finder.is_remembered(status(limits.ARCHIVE_LINKS_MAX))


# -- receiving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", ["nothing", "file", "link"])
def test_a_name_is_made_in_the_place_of_what_has_it(linker: Linker, top: Path, above: int, old: str) -> None:
    if old == "file":
        (top / "name").write_text("old")
    elif old == "link":
        (top / "name").symlink_to("a/b/file")
    assert linker.link(above, b"name", b"a/b/file", backup=False)
    assert (top / "name").lstat().st_ino == (top / "a/b/file").lstat().st_ino
    assert linker.is_made(b"a/b/file", (top / "name").lstat())
    assert not linker.link(above, b"name", b"a/b/file", backup=False)
    assert linker.link(above, b"second", b"a/b/file", backup=False)
    assert sorted(os.listdir(top)) == ["a", "name", "second"]


def test_what_is_replaced_is_kept_if_that_is_wanted(linker: Linker, top: Path, above: int) -> None:
    (top / "name").write_text("old")
    assert linker.link(above, b"name", b"a/b/file", backup=True)
    assert (top / "name~").read_text() == "old"
    assert (top / "name").read_text() == "contents"
    assert not linker.link(above, b"name", b"a/b/file", backup=True)
    assert sorted(os.listdir(top)) == ["a", "name", "name~"]


def test_a_file_at_the_top_is_linked(top: Path, above: int) -> None:
    linker = Linker(above)
    (top / "file").write_text("x")
    linker.remember(b"file", (top / "file").lstat())
    assert linker.link(above, b"name", b"file", backup=False)
    assert (top / "name").samefile(top / "file")
    linker.close()


def test_a_directory_is_not_replaced(linker: Linker, top: Path, above: int) -> None:
    (top / "name").mkdir()
    with pytest.raises(RefusedError, match=r"^it is a directory here: remove it first$"):
        linker.link(above, b"name", b"a/b/file", backup=True)
    assert os.listdir(top / "name") == []


def test_a_first_name_that_failed_is_named(linker: Linker, above: int) -> None:
    with pytest.raises(RefusedError, match=r"^its other name, a/first, was not written here$"):
        linker.link(above, b"name", b"a/first", backup=False)


@pytest.mark.parametrize("how", ["replaced", "removed", "link", "directory", "file above"])
def test_what_others_put_in_the_place_of_the_first_name_is_not_linked(
    linker: Linker, top: Path, above: int, tmp_path: Path, how: str
) -> None:
    """As root, that could be a file of somebody else."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b/file").write_text("secret")
    if how in ("directory", "file above"):
        os.rename(top / "a/b", top / "moved")
        if how == "directory":
            (top / "a/b").symlink_to(tmp_path / "b")
        else:
            (top / "a/b").touch()
    else:
        os.rename(top / "a/b/file", top / "moved")
        if how == "replaced":
            os.link(tmp_path / "b/file", top / "a/b/file")
        elif how == "link":
            (top / "a/b/file").symlink_to(tmp_path / "b/file")
    expected = {
        "replaced": "its other name, a/b/file, was replaced during the copy; copy again",
        "removed": "its other name, a/b/file, cannot be opened: its directory was removed during the copy; "
        "copy again",
        "link": "its other name, a/b/file, was replaced during the copy; copy again",
        "directory": "its other name, a/b/file, cannot be opened: b is a symbolic link (none is followed) "
        "here, not a directory",
        "file above": "its other name, a/b/file, cannot be opened: b is a file here, not a directory",
    }
    with pytest.raises(RefusedError) as refused:
        linker.link(above, b"name", b"a/b/file", backup=False)
    assert str(refused.value) == expected[how]
    assert not (top / "name").exists()


def test_on_another_mount_it_is_copied(linker: Linker, top: Path) -> None:
    with mounted(top, "tmpfs") as point:
        below = os.open(point, os.O_PATH | os.O_DIRECTORY)
        with pytest.raises(LinkImpossibleError) as impossible:
            linker.link(below, b"name", b"a/b/file", backup=False)
        with open(impossible.value.descriptor) as file:
            assert file.read() == "contents"
        os.close(below)
        assert os.listdir(point) == []


def test_a_stream_of_many_files_does_not_fill_the_memory(linker: Linker, top: Path) -> None:
    status = (top / "a/b/file").lstat()
    for number in range(limits.ARCHIVE_LINKS_MAX + 10):
        linker.remember(b"%d" % number, status)
    assert len(linker._files) == limits.ARCHIVE_LINKS_MAX
