"""The way to an entry: directories are opened through their parents, never through a link, and closed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from descriptors import open_now
from gexec.files.directories import Place, RefusedError, Tree, kind_of, open_below, reason, refused

FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
NO_PARENTS = r"the directory \S+ is missing \(--parents makes it\)"


class Walk:
    """Trees below one destination, and the paths that were left."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.left: list[bytes] = []
        self.trees: list[Tree] = []

    def tree(self, *, make_parents: bool = False, read_only: bool = False) -> Tree:
        tree = Tree(
            os.open(self.place, FLAGS),
            make_parents=make_parents,
            read_only=read_only,
            on_leave=lambda place: self.left.append(place.path),
        )
        self.trees.append(tree)
        return tree


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    """A destination; when its trees are closed, no descriptor of theirs is open."""
    before = open_now()
    walk = Walk(tmp_path)
    yield walk
    for tree in walk.trees:
        tree.close()
    assert open_now() == before


def same(place: Place, path: Path) -> bool:
    status = path.stat()
    return place.identity == (status.st_dev, status.st_ino)


def test_each_directory_is_opened_once_and_left_before_the_next_one(walk: Walk, tmp_path: Path) -> None:
    for name in ("a/b/c", "a/bb", "d"):
        (tmp_path / name).mkdir(parents=True)
    tree = walk.tree()
    deep = tree.enter(b"a/b/c")
    assert same(deep, tmp_path / "a/b/c")
    assert tree.enter(b"a/b/c") is deep
    assert walk.left == []
    assert same(tree.enter(b"a/bb"), tmp_path / "a/bb")  # begins like a/b, and is another one
    assert walk.left == [b"a/b/c", b"a/b"]
    assert same(tree.enter(b""), tmp_path)
    assert walk.left == [b"a/b/c", b"a/b", b"a/bb", b"a"]
    assert same(tree.enter(b"d"), tmp_path / "d")
    tree.leave_all()
    assert walk.left[-1] == b"d"
    assert same(tree.enter(b"a/b"), tmp_path / "a/b")  # the destination may be entered again


def test_what_is_written_lands_in_the_directory_that_was_opened(walk: Walk, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "outside").mkdir()
    tree = walk.tree()
    place = tree.enter(b"a")
    (tmp_path / "a").rename(tmp_path / "moved")
    (tmp_path / "a").symlink_to("outside")
    os.mkdir(b"new", dir_fd=place.descriptor)
    assert (tmp_path / "moved/new").is_dir()
    assert os.listdir(tmp_path / "outside") == []


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.symlink_to("."), r"a symbolic link \(none is followed\)"),
        (lambda path: path.write_text(""), "a file"),
        (lambda path: os.mkfifo(path), "something special"),
    ],
    ids=["link", "file", "fifo"],
)
def test_what_is_no_directory_is_refused_and_what_is_below_it_silently(
    walk: Walk, tmp_path: Path, make: Callable[[Path], None], kind: str
) -> None:
    make(tmp_path / "odd")
    tree = walk.tree(make_parents=True)
    for path in (b"odd", b"odd"):
        with pytest.raises(RefusedError, match=f"^odd is {kind} here, not a directory$"):
            tree.enter(path)
        tree.enter(b"")
    with pytest.raises(RefusedError, match="odd is"):
        tree.enter(b"odd/below")
    with pytest.raises(RefusedError, match=r"^$"):  # it was said once
        tree.enter(b"odd/below/it")


def test_missing_directories_are_made_only_if_that_is_wanted(walk: Walk, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=NO_PARENTS):
        walk.tree().enter(b"a/b")
    assert os.listdir(tmp_path) == []
    place = walk.tree(make_parents=True).enter(b"a/b")
    assert same(place, tmp_path / "a/b")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755 & ~os.umask(os.umask(0o22))


def test_a_run_that_writes_nothing_takes_missing_directories_as_missing(walk: Walk, tmp_path: Path) -> None:
    tree = walk.tree(make_parents=True, read_only=True)
    place = tree.enter(b"a/b/c")
    assert place.is_missing
    assert place.identity == (-1, -1)
    assert os.listdir(tmp_path) == []


def test_a_directory_that_cannot_be_made_says_why(walk: Walk, tmp_path: Path) -> None:
    name = b"n" * 300
    with pytest.raises(RefusedError, match="the name is too long for this file system; shorten it"):
        walk.tree(make_parents=True).enter(name)


def test_below_a_refused_directory_of_the_stream_nothing_is_entered(walk: Walk, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    tree = walk.tree()
    tree.enter(b"")
    tree.push(refused(b"a", "no"))
    with pytest.raises(RefusedError, match=r"^$"):
        tree.enter(b"a")
    tree.enter(b"")
    assert walk.left == []  # it was never open
    assert same(tree.enter(b"a"), tmp_path / "a")


def test_a_fault_when_a_directory_is_left_keeps_nothing_open(walk: Walk, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    before = open_now()

    def fails(place: Place) -> None:
        raise OSError(5, "Input/output error")

    tree = Tree(os.open(tmp_path, FLAGS), make_parents=False, read_only=False, on_leave=fails)
    tree.enter(b"a")
    with pytest.raises(OSError, match="Input/output"):
        tree.leave_all()
    tree.close()
    assert open_now() == before


def test_only_root_and_this_user_can_exchange_what_is_guarded(walk: Walk, tmp_path: Path) -> None:
    for path, mode in (
        ("ours", 0o755),
        ("ours/shared", 0o775),
        ("ours/shared/below", 0o755),
        ("sticky", 0o1777),
    ):
        (tmp_path / path).mkdir()
        (tmp_path / path).chmod(mode)
    tmp_path.chmod(0o755)
    tree = walk.tree()
    guarded = {
        path: tree.enter(path).is_guarded
        for path in (b"ours", b"ours/shared", b"ours/shared/below", b"sticky")
    }
    assert guarded == {b"ours": True, b"ours/shared": False, b"ours/shared/below": False, b"sticky": True}
    entry = (tmp_path / "ours").stat()
    assert tree.enter(b"ours").guards(entry)
    assert not tree.enter(b"ours/shared").guards(entry)
    assert tree.enter(b"sticky").guards(entry)  # ours, which nobody else can rename there
    theirs = os.stat_result((entry[0], entry[1], entry[2], entry[3], 54321, *entry[5:]))
    assert not tree.enter(b"sticky").guards(theirs)


def test_a_directory_is_opened_to_be_read_or_only_passed_through(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    above = os.open(tmp_path, FLAGS)
    try:
        for to_read in (True, False):
            descriptor = open_below(above, b"a", to_read=to_read)
            assert not os.get_inheritable(descriptor)
            if to_read:
                assert os.listdir(descriptor) == []
            else:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.listdir(descriptor)
            os.close(descriptor)
        with pytest.raises(FileNotFoundError):
            open_below(above, b"nothing", to_read=True)
        assert kind_of(above, b"nothing") == "gone"
        assert kind_of(above, b"a") == "a directory"
    finally:
        os.close(above)


def test_reasons_say_what_to_do_or_what_the_system_says() -> None:
    assert reason(OSError(28, "No space left on device")) == "the disk is full; free space there"
    assert reason(OSError(95, "Operation not supported")).startswith("this file system does not support it;")
    assert reason(OSError(71, "Protocol error")) == "the system reports: Protocol error"
