"""What a walk finds, in which order, and what an Opener opens later."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from descriptors import open_now
from gexec.files.patterns import Rules
from gexec.files.reading import unreadable
from gexec.files.roots import NO_MATCH, SourceRoot, roots_of
from gexec.files.temporary import temporary_name
from gexec.files.walking import DIRECTORY, FILE, SKIPPED, SYMLINK, Found, Opener, walk


def found_below(*paths: Path) -> list[Found]:
    return list(walk(roots_of(map(os.fspath, paths), "base")))


def content(opener: Opener, found: Found) -> bytes:
    descriptor = opener.open(found)
    try:
        return os.read(descriptor, 1000)
    finally:
        os.close(descriptor)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree whose order is another one if paths are compared as strings."""
    tree = tmp_path / "t"
    (tree / "a/b").mkdir(parents=True)
    (tree / "empty").mkdir()
    for name in ("a/b/f", "a/b-", "a-", "a/c", "z"):
        (tree / name).write_bytes(name.encode())
    (tree / "link").symlink_to("a")
    os.mkfifo(tree / "pipe")
    return tree


def test_everything_in_the_order_of_its_components(tree: Path) -> None:
    found = found_below(tree)
    assert [(entry.name, entry.kind) for entry in found] == [
        (b"t", DIRECTORY),
        (b"t/a", DIRECTORY),
        (b"t/a/b", DIRECTORY),
        (b"t/a/b/f", FILE),
        (b"t/a/b-", FILE),
        (b"t/a/c", FILE),
        (b"t/a-", FILE),
        (b"t/empty", DIRECTORY),
        (b"t/link", SYMLINK),
        (b"t/pipe", SKIPPED),
        (b"t/z", FILE),
    ]
    by_name = {entry.name: entry for entry in found}
    assert by_name[b"t/link"].target == b"a"
    assert by_name[b"t/a/b/f"].path == os.fsencode(tree / "a/b/f")
    for entry in found:
        assert entry.status == os.lstat(entry.path)
    pipe = by_name[b"t/pipe"]
    assert (pipe.reason, pipe.problem) == ("", f"{tree}/pipe: a named pipe is not copied")


def test_what_is_named_must_be_sent(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "s"))
    gone, special = found_below(tmp_path / "none", tmp_path / "s")
    assert gone.problem == f"{tmp_path}/none: not sent: there is no such file"
    assert special.problem == f"{tmp_path}/s: not sent: it is a socket; only contents are copied"
    (missing,) = found_below(tmp_path / "none/f")
    assert (missing.kind, missing.name, missing.reason) == (SKIPPED, b"f", "there is no such file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read_is_skipped(tree: Path) -> None:
    (tree / "a").chmod(0)
    try:
        found = {entry.name: entry for entry in found_below(tree)}
    finally:
        (tree / "a").chmod(0o755)
    assert (found[b"t/a"].kind, found[b"t/a"].reason) == (
        SKIPPED,
        "you may not read it; copy as a user who may",
    )
    assert b"t/a/b" not in found
    assert b"t/z" in found


def test_a_name_that_does_not_fit_is_only_reported(tmp_path: Path) -> None:
    root = SourceRoot(os.fsencode(tmp_path), b"/".join([b"x"] * 256))
    (tmp_path / "f").touch()
    directory, entry = walk([root])
    assert (directory.kind, directory.fits) == (DIRECTORY, True)
    assert (entry.kind, entry.fits) == (SKIPPED, False)
    assert entry.problem == f"{tmp_path}/f: not sent: its path is longer or deeper than can be copied"


def test_a_walk_that_is_given_up_leaves_nothing_open(tree: Path) -> None:
    before = open_now()
    entries = walk(roots_of([os.fspath(tree)], "base"))
    for _ in range(4):
        next(entries)
    assert len(open_now()) == len(before) + 4
    entries.close()  # type: ignore[attr-defined]
    assert open_now() == before


def test_files_are_opened_long_after_the_walk(tree: Path) -> None:
    (tree.parent / "other").write_bytes(b"other")
    before = open_now()
    files = [entry for entry in found_below(tree.parent / "other", tree) if entry.kind == FILE]
    assert open_now() == before
    opener = Opener()
    for entry in [*files, *reversed(files)]:
        assert content(opener, entry) == entry.name.removeprefix(b"t/")
    opener.close()
    assert open_now() == before


def test_a_root_may_have_another_name_than_its_place(tree: Path) -> None:
    root = SourceRoot(b"/shown", b"asked/name", os.fsencode(tree / "a"))
    found = list(walk([root]))
    assert [(entry.name, entry.path) for entry in found] == [
        (b"asked/name", b"/shown"),
        (b"asked/name/b", b"/shown/b"),
        (b"asked/name/b/f", b"/shown/b/f"),
        (b"asked/name/b-", b"/shown/b-"),
        (b"asked/name/c", b"/shown/c"),
    ]
    opener = Opener()
    assert content(opener, found[2]) == b"a/b/f"
    opener.close()


def _another_file(tree: Path) -> None:
    (tree / "new").write_bytes(b"new")
    (tree / "new").rename(tree / "a/c")


def _link(tree: Path) -> None:
    (tree / "a/c").unlink()
    (tree / "a/c").symlink_to("b/f")


def _pipe(tree: Path) -> None:
    (tree / "a/c").unlink()
    os.mkfifo(tree / "a/c")


def _link_above(tree: Path) -> None:
    (tree / "a").rename(tree / "moved")
    (tree / "a").symlink_to("moved")


def _gone(tree: Path) -> None:
    (tree / "a/c").unlink()


@pytest.mark.parametrize(
    ("replace", "number", "reason"),
    [
        (_another_file, errno.ELOOP, "it was replaced during the copy; copy again"),
        (_link, errno.ELOOP, "it was replaced during the copy; copy again"),
        (_pipe, errno.ELOOP, "it was replaced during the copy; copy again"),
        (_link_above, errno.ENOTDIR, "it, or a directory above it, was replaced during the copy; copy again"),
        (_gone, errno.ENOENT, "there is no such file"),
    ],
)
def test_what_was_replaced_since_is_not_opened(tree: Path, replace: object, number: int, reason: str) -> None:
    (entry,) = [entry for entry in found_below(tree) if entry.name == b"t/a/c"]
    assert callable(replace)
    replace(tree)
    before = open_now()
    opener = Opener()
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        opener.open(entry)
    assert (caught.value.errno, unreadable(caught.value)) == (number, reason)
    opener.close()
    assert open_now() == before


def test_links_above_a_root_are_followed(tree: Path) -> None:
    (tree.parent / "way").symlink_to(tree)
    (entry,) = walk([SourceRoot(os.fsencode(tree.parent / "way/z"), b"z")])
    opener = Opener()
    assert content(opener, entry) == b"z"
    opener.close()
    (link,) = walk([SourceRoot(os.fsencode(tree.parent / "way"), b"way")])
    assert (link.kind, link.target) == (SYMLINK, os.fsencode(tree))
    assert link.status is not None
    assert stat.S_ISLNK(link.status.st_mode)


# -- roots below others, and rules --------------------------------------------------------------------


def names_of(found: list[Found]) -> list[str]:
    return [f"{os.fsdecode(entry.name)}{'/' * (entry.kind == DIRECTORY)}" for entry in found]


def test_a_root_below_another_takes_the_place_of_its_entry(tree: Path) -> None:
    top = os.fsencode(tree)
    before = open_now()
    found = list(
        walk(
            [
                SourceRoot(top, b"t"),
                SourceRoot(top + b"/a/b", b"t/a/b", top + b"/empty"),
                SourceRoot(top + b"/link", b"t/link", top + b"/a"),
                SourceRoot(top + b"/link/c", b"t/link/c", top + b"/z"),
                SourceRoot(top + b"/z", b"u"),
            ]
        )
    )
    assert names_of(found) == [
        *("t/", "t/a/", "t/a/b/", "t/a/b/f", "t/a/b-", "t/a/c", "t/a-", "t/empty/"),
        *("t/link/", "t/link/b/", "t/link/b/f", "t/link/b-", "t/link/c", "t/pipe", "t/z", "u"),
    ]
    opener = Opener()
    by_name = {entry.name: entry for entry in found}
    assert content(opener, by_name[b"t/link/b/f"]) == b"a/b/f"
    assert content(opener, by_name[b"t/link/c"]) == b"z"
    opener.close()
    assert open_now() == before


def test_nothing_is_below_a_link(tree: Path) -> None:
    top = os.fsencode(tree)
    names = ("b", "b/f", "c")
    inner = [
        SourceRoot(b"%b/link/%b" % (top, n), b"t/link/%b" % n, b"%b/a/%b" % (top, n))
        for n in map(str.encode, names)
    ]
    roots = [SourceRoot(top, b"t"), *inner]
    found = list(walk(roots))
    assert [entry.problem for entry in found if not entry.fits] == [
        f"{tree}/link/{name}: not sent: {tree}/link is copied, too, and is a symbolic link: "
        "copy one after the other"
        for name in names
    ]
    assert names_of([entry for entry in found if entry.fits]) == names_of(list(walk(roots[:1])))


def test_a_merged_walk_that_is_given_up_leaves_nothing_open(tree: Path) -> None:
    top = os.fsencode(tree)
    before = open_now()
    entries = walk([SourceRoot(top, b"t"), SourceRoot(top + b"/a/b", b"t/a/b")])
    for _ in range(4):
        next(entries)
    entries.close()  # type: ignore[attr-defined]
    assert open_now() == before


def test_only_so_many_levels(tree: Path) -> None:
    top = os.fsencode(tree)
    (alone,) = walk([SourceRoot(top, b"t", depth=0)])
    assert (alone.name, alone.is_whole) == (b"t", False)
    found = list(walk([SourceRoot(top, b"t", depth=1)]))
    assert names_of(found) == ["t/", "t/a/", "t/a-", "t/empty/", "t/link", "t/pipe", "t/z"]
    assert [entry.is_whole for entry in found if entry.kind == DIRECTORY] == [True, False, False]
    assert all(entry.is_whole for entry in found_below(tree) if entry.kind == DIRECTORY)


def test_what_cannot_be_sent_is_found_with_its_reason(tmp_path: Path) -> None:
    gone = SourceRoot(b"/x/*", b"", reason=NO_MATCH)
    link = SourceRoot(b"/x/l", b"x/l", reason="it is a link")
    first, second = walk([gone, link])
    assert (first.fits, first.problem) == (False, "/x/*: no file matches there")
    assert (second.fits, second.problem) == (True, "/x/l: not sent: it is a link")


def test_what_rules_exclude_is_not_found_and_not_entered(tree: Path) -> None:
    (tree / "a/secret").mkdir(mode=0)
    roots = roots_of([os.fspath(tree)], "base")
    excluded = (b"secret/", b"[cz]", b"/t/a/b/**", b"pipe")
    rules = Rules([(False, b"/t/a/c"), *[(True, pattern) for pattern in excluded]])
    assert names_of(list(walk(roots, rules))) == [
        *("t/", "t/a/", "t/a/b/", "t/a/b-", "t/a/c", "t/a-", "t/empty/", "t/link"),
    ]
    assert list(walk(roots, Rules([(True, b"t")]))) == []


def test_temporary_files_of_other_copies_are_not_sent(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / os.fsdecode(temporary_name(b"f"))).write_bytes(b"half")
    (here / ".gexec-mine").write_bytes(b"whole")
    found = {found.name: found for found in walk(roots_of([str(here)], "base"))}
    skipped = found[b"here/" + temporary_name(b"f")]
    assert (skipped.kind, skipped.reason) == (SKIPPED, "")
    assert skipped.problem.endswith(": a temporary file of another copy is not copied")
    assert found[b"here/.gexec-mine"].kind == FILE
