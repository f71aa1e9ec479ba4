"""Any tree to three directories with any older state of it: all become equal to it, and nothing is sent that
all of them had.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from file_streams import MTIME_NS, Copying, names_of_one_file, paths_with_contents
from gexec.files.digest import BLOCK_BYTES
from gexec.files.options import CopyOptions

#: Contents, some of one size.
CONTENTS = (b"", b"one", b"two", b"longer", bytes(BLOCK_BYTES), bytes(BLOCK_BYTES) + b"end", b"x" * 70_000)
MODES = (0o644, 0o600, 0o755, 0o444)
#: Directories that others may not write to, so that files are changed in place.
DIRECTORY_MODES = (0o755, 0o700)
FOLDERS = ("", "a/", "a/deep/", "b.d/")
NAMES = ("f", "g", "h h~")

#: A file (mode, contents, seconds of the mtime), the target of a symbolic link, or, after "=", the path of a
#: file of which this is one more name.
Node = tuple[int, int, int] | str
file_nodes = st.tuples(st.sampled_from(MODES), st.integers(0, len(CONTENTS) - 1), st.integers(1, 2))
nodes = file_nodes | st.sampled_from(["to/nowhere", "f"])
paths = st.builds(str.__add__, st.sampled_from(FOLDERS), st.sampled_from(NAMES))
trees = st.dictionaries(paths, nodes, min_size=4, max_size=10)
#: How a directory differs from the source, by path; a path that is not named is as in the source.
CHANGES = ("missing", "mode", "touched", "other", "sized", "link", "copy of another", "name of another")
changes = st.dictionaries(paths, st.sampled_from(CHANGES), min_size=2, max_size=8)
extras = st.lists(st.builds(str.__add__, paths, st.sampled_from(["", "+", "+/x"])), max_size=3)
#: Of the source's files: some are names of others.
links = st.dictionaries(paths, paths, max_size=3)


def write(path: Path, content: bytes, mode: int, mtime_s: int) -> None:
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, ns=(1, MTIME_NS + mtime_s * 10**9))


def make(top: Path, tree: dict[str, Node]) -> None:
    """Make a tree, directories first."""
    for number, name in enumerate(sorted({name.rpartition("/")[0] for name in tree if "/" in name})):
        (top / name).mkdir(parents=True, exist_ok=True)
        (top / name).chmod(DIRECTORY_MODES[number % 2])
    top.chmod(0o755)
    for name, node in tree.items():
        if isinstance(node, tuple):
            mode, content, mtime_s = node
            write(top / name, CONTENTS[content], mode, mtime_s)
        elif not node.startswith("="):
            (top / name).symlink_to(node)
    for name, node in tree.items():
        if isinstance(node, str) and node.startswith("="):
            os.link(top / node[1:], top / name)
    for folder, _, _ in os.walk(top):
        os.utime(folder, ns=(1, MTIME_NS + 7))


def linked(tree: dict[str, Node], pairs: dict[str, str]) -> dict[str, Node]:
    """Return the tree with some files as names of others."""
    made = dict(tree)
    for name, first in pairs.items():
        is_first = isinstance(made.get(first), tuple) and f"={name}" not in made.values()
        if name != first and is_first and (name not in tree or isinstance(tree[name], tuple)):
            made[name] = "=" + first
    return made


def older(
    tree: dict[str, Node], changed: dict[str, str], more: list[str], *, hidden: bool
) -> dict[str, Node]:
    """Return an older state of a tree.

    Args:
        hidden: contents may differ where size and mtime do not.
    """
    made: dict[str, Node] = {}
    for name, node in tree.items():
        change = changed.get(name)
        if change == "missing":
            continue
        if isinstance(node, str):
            made[name] = (0o644, 1, 1) if change == "other" else "elsewhere" if change == "link" else node
            continue
        mode, content, mtime_s = node
        if change == "mode":
            mode ^= 0o022
        elif change == "touched":
            mtime_s += 5
        elif change == "sized":
            content = (content + 3) % len(CONTENTS)
            mtime_s += 5 * (len(CONTENTS[content]) == len(CONTENTS[node[1]]))
        elif change == "other":
            content = {1: 2, 2: 1}.get(content, content)
            mtime_s += 0 if hidden else 5
        made[name] = "to/a/link" if change == "link" else (mode, content, mtime_s)
    files = [name for name, node in made.items() if isinstance(node, tuple)]
    for name, change in changed.items():
        others = [other for other in files if other != name]
        if change == "name of another" and name in files and others:
            made[name] = "=" + others[0]
            files.remove(name)
    # What another name was made of may have become one itself.
    for name, node in list(made.items()):
        if isinstance(node, str) and node.startswith("=") and not isinstance(made.get(node[1:]), tuple):
            del made[name]
    for name in more:
        parents = name.split("/")
        above = {"/".join(parents[:end]) for end in range(1, len(parents))}
        below = {path for path in (*made, *tree) if path.startswith(name + "/")}
        if name not in made and name not in tree and not above & {*made, *tree} and not below:
            made[name] = (0o644, 1, 1)
    return made


def state(top: Path) -> dict[str, Any]:
    """Return all that must be equal; files with several names by their names. Times of links do not count."""
    found: dict[str, Any] = {}
    inodes: dict[int, str] = {}
    for folder, folders, files in os.walk(top):
        for name in sorted(folders + files):
            path = Path(folder, name)
            status = path.lstat()
            key = str(path.relative_to(top))
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                found[key] = "link", os.readlink(path)
            elif stat.S_ISDIR(status.st_mode):
                found[key] = "directory", mode, status.st_mtime_ns
            else:
                inodes.setdefault(status.st_ino, key)
                found[key] = "file", mode, status.st_mtime_ns, path.read_bytes()
    return found


@pytest.mark.parametrize("how", ["plain", "checksum-compare", "delete", "backup"])
@settings(max_examples=15)
@given(trees, links, st.lists(st.tuples(changes, extras), min_size=3, max_size=3))
def test_three_directories_become_equal_to_the_source(
    tmp_path_factory: pytest.TempPathFactory,
    how: str,
    tree: dict[str, Node],
    pairs: dict[str, str],
    states: list[tuple[dict[str, str], list[str]]],
) -> None:
    place = tmp_path_factory.mktemp("agree")
    source = place / "from" / "t"
    source.mkdir(parents=True)
    whole = linked(tree, pairs)
    make(source, whole)
    wanted = state(source)
    tops = []
    for number, (changed, more) in enumerate(states):
        top = place / f"to{number}" / "t"
        top.mkdir(parents=True)
        make(top, older(whole, changed, more, hidden=how == "checksum-compare"))
        tops.append(top)
    before = [state(top) for top in tops]
    inodes = [
        {name: (top / name).lstat() for name, found in was.items() if found[0] == "file"}
        for top, was in zip(tops, before, strict=True)
    ]
    options = CopyOptions(
        delete=how == "delete", backup=how == "backup", compare_content=how == "checksum-compare"
    )
    copying = Copying([source], [top.parent for top in tops], options).run()
    assert copying.problems == []
    for top, was, known, received in zip(tops, before, inodes, copying.received, strict=True):
        assert (received.said, received.error, received.report.failed) == ([], "", 0)
        found = state(top)
        assert {name: found.get(name) for name in wanted} == wanted
        if how == "delete":
            assert found.keys() == wanted.keys()
        else:
            assert was.keys() <= found.keys()
        for names in names_of_one_file(source):
            assert len({(top / name).lstat().st_ino for name in names}) == 1
        single = {name for name in known if known[name].st_nlink == 1 and (source / name).exists()}
        for name in single:
            if wanted.get(name, ("", 0))[0] != "file" or (source / name).lstat().st_nlink > 1:
                continue
            if was[name][3] == wanted[name][3]:
                assert (top / name).lstat().st_ino == known[name].st_ino, name
    for path in map(os.fsdecode, paths_with_contents(copying.stream)):
        name = path.partition("/")[2]
        content = wanted[name][3]
        assert any(was.get(name, ("",))[0] != "file" or was[name][3] != content for was in before), name
    again = Copying([source], [top.parent for top in tops], options).run()
    assert paths_with_contents(again.stream) == []
    for received in again.received:
        assert (received.report.files, received.report.links, received.report.deleted) == (0, 0, 0)
