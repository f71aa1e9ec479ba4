"""ensync loses nothing: neither at the source, nor of what a file is besides its contents, nor backups."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from .commands import Shell
from .conftest import Cluster
from .test_ensync import root_only, to_each, told


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(cluster.env, tmp_path)


def folders(cluster: Cluster, place: Path) -> list[Path]:
    return [place / "to" / name for name in cluster.names]


def inode(path: Path) -> int:
    return path.lstat().st_ino


# -- the source ------------------------------------------------------------------------------------


def test_who_appends_to_the_source_loses_no_line(shell: Shell, place: Path) -> None:
    log = place / "log"
    log.write_bytes(b"")
    before = inode(log)
    with log.open("ab", buffering=0) as writer:
        for number in range(5):
            writer.write(b"%d\n" % number)
            assert told(shell.run("ensync", log)) == (0, b"", b"")
    assert inode(log) == before
    assert log.read_bytes() == b"0\n1\n2\n3\n4\n"


def test_what_is_the_source_is_right_already(shell: Shell, place: Path) -> None:
    tree = place / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "file").write_bytes(b"x")
    (tree / "below" / "file").write_bytes(b"y")
    os.link(tree / "file", tree / "name")
    before = {path: (inode(path), path.lstat().st_ctime_ns) for path in [tree, *tree.rglob("*")]}
    done = shell.run("ensync", "-v", "--backup", "--delete", tree)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"0 files written on 8 of 8 nodes, 24 were right already" in done.stderr
    after = {path: (inode(path), path.lstat().st_ctime_ns) for path in [tree, *tree.rglob("*")]}
    assert after == before


def test_a_hard_link_to_the_source_is_the_source(shell: Shell, place: Path) -> None:
    (place / "file").write_bytes(b"x")
    os.link(place / "file", place / "to" / "file")
    assert told(shell.run("ensync", "--dest", f"{place}/to/", place / "file")) == (0, b"", b"")
    assert (place / "file").lstat().st_nlink == 2


def test_delete_does_not_remove_the_source_below_an_extra_directory(shell: Shell, place: Path) -> None:
    (place / "to" / "www").mkdir()
    source = place / "to" / "www" / "old" / "www"
    source.mkdir(parents=True)
    (source / "file").write_bytes(b"x")
    (place / "to" / "www" / "extra").write_bytes(b"")
    done = shell.run("ensync", "-n", "node001", "--delete", "--dest", f"{place}/to/", source)
    assert done.returncode == 0
    assert b"source itself" in done.stderr
    assert (source / "file").read_bytes() == b"x"
    assert not (place / "to" / "www" / "extra").exists()


def test_remove_leaves_this_hosts_own_file(shell: Shell, place: Path) -> None:
    (place / "file").write_bytes(b"x")
    done = shell.run("ensync", "--remove", place / "file")
    assert done.returncode == 0
    assert b"this host's own file" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert (place / "file").exists()


def test_remove_of_what_is_not_here_removes_it_there(shell: Shell, place: Path) -> None:
    gone = place / "gone"
    assert told(shell.run("ensync", "--remove", gone)) == (0, b"", b"")
    hidden = place / "hidden"
    hidden.mkdir()
    done = shell.run("ensync", "--remove", hidden)
    assert (done.returncode, hidden.exists()) == (0, True)
    assert b"this host's own" in done.stderr


# -- backups and deletion ---------------------------------------------------------------------------


def test_delete_keeps_the_backups_of_this_run_and_of_earlier_ones(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    tree = place / "tree"
    tree.mkdir()
    (tree / "a").write_bytes(b"1")
    assert shell.run("ensync", *to_each(place), tree).returncode == 0
    for folder in folders(cluster, place):
        (folder / "tree" / "extra").write_bytes(b"e")
        (folder / "tree" / "more").mkdir()
        (folder / "tree" / "more" / "inner").write_bytes(b"i")
    for content in (b"22", b"333"):
        (tree / "a").write_bytes(content)
        done = shell.run("ensync", "--backup", "--delete", *to_each(place), tree)
        assert told(done) == (0, b"", b"")
    for folder in folders(cluster, place):
        found = {
            str(path.relative_to(folder / "tree")): path.read_bytes()
            for path in (folder / "tree").rglob("*")
            if path.is_file()
        }
        assert found == {"a": b"333", "a~": b"22", "extra~": b"e", "more/inner~": b"i"}
    assert shell.run("ensync", "--delete", *to_each(place), tree).returncode == 0
    for folder in folders(cluster, place):
        assert [path.name for path in (folder / "tree").iterdir()] == ["a"]


def test_max_delete_deletes_nothing_where_it_would_be_more(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    (place / "tree").mkdir()
    first, second, *_ = folders(cluster, place)
    words = ["-n", "node[001-002]", *to_each(place), place / "tree"]
    assert shell.run("ensync", *words).returncode == 0
    for number in range(3):
        (first / "tree" / f"{number}").write_bytes(b"")
    (second / "tree" / "0").write_bytes(b"")
    done = shell.run("ensync", "--delete", "--max-delete=2", *words)
    assert done.returncode == 1
    assert b"node001" in done.stderr
    assert b"--max-delete" in done.stderr
    assert len(list((first / "tree").iterdir())) == 3
    assert list((second / "tree").iterdir()) == []


# -- what a file is besides its contents -----------------------------------------------------------


def test_a_touch_or_another_mode_is_set_where_the_file_is(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    file = place / "file"
    file.write_bytes(os.urandom(100_000))
    assert shell.run("ensync", *to_each(place), file).returncode == 0
    there = [folder / "file" for folder in folders(cluster, place)]
    before = [inode(path) for path in there]
    for words in ([], ["--checksum-compare"]):
        os.utime(file, ns=(1, 1_000_000_000 + len(words)))
        file.chmod(0o600 + len(words))
        done = shell.run("ensync", "-v", *words, *to_each(place), file)
        assert done.returncode == 0
        assert b"8 files written on 8 of 8 nodes" in done.stderr
        for path in there:
            status = path.lstat()
            assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (
                1_000_000_000 + len(words),
                0o600 + len(words),
            )
    assert [inode(path) for path in there] == before


def test_a_directory_keeps_its_set_gid_bit_and_files_are_told_in_one_line(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    tree = place / "tree"
    (tree / "shared").mkdir(parents=True)
    (tree / "shared").chmod(0o2775)
    for name in ("a", "b", "c"):
        (tree / name).write_bytes(b"")
        (tree / name).chmod(0o4755)
    done = shell.run("ensync", *to_each(place), tree)
    assert done.returncode == 0
    assert done.stderr.count(b"\n") == 1
    assert b"bits of 3 files are left out (--setuid keeps them)" in done.stderr
    assert b"%h/tree/a and 2 more" in done.stderr
    for folder in folders(cluster, place):
        assert stat.S_IMODE((folder / "tree" / "shared").lstat().st_mode) == 0o2775
        assert stat.S_IMODE((folder / "tree" / "a").lstat().st_mode) == 0o755


def test_hard_links_stay_hard_links(cluster: Cluster, shell: Shell, place: Path) -> None:
    tree = place / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "a").write_bytes(b"1")
    os.link(tree / "a", tree / "deep" / "er" / "b")
    os.link(tree / "a", tree / "z")
    for content in (b"1", b"22"):
        with (tree / "a").open("r+b") as file:
            file.write(content)
        assert told(shell.run("ensync", *to_each(place), tree)) == (0, b"", b"")
        for folder in folders(cluster, place):
            names = [folder / "tree" / name for name in ("a", "deep/er/b", "z")]
            assert {inode(path) for path in names} == {inode(names[0])}
            assert names[1].read_bytes() == content
            assert names[0].lstat().st_nlink == 3
    done = shell.run("ensync", "-v", *to_each(place), tree)
    assert b"0 files written on 8 of 8 nodes, 24 were right already" in done.stderr


@root_only
def test_capabilities_acls_and_attributes_are_kept_by_root(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    for tool in ("setcap", "getcap", "setfacl", "getfacl", "setfattr", "getfattr"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    tree = place / "tree"
    tree.mkdir()
    file = tree / "program"
    file.write_bytes(b"x")
    commands: tuple[list[str | Path], ...] = (
        ["setfacl", "-m", "u:daemon:r,g:bin:rw", file],
        ["setfacl", "-d", "-m", "u:daemon:rwx", tree],
        ["setfattr", "-n", "user.note", "-v", "kept", file],
        ["setcap", "cap_net_raw+ep", file],
    )
    for command in commands:
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"this file system does not support {command[0]}")

    def seen(path: Path) -> list[bytes]:
        found = []
        for command in (["getfacl", "-cp"], ["getfattr", "-n", "user.note", "--only-values"], ["getcap"]):
            done = subprocess.run([*command, path], capture_output=True)
            found.append(done.stdout.replace(os.fsencode(path), b"PATH"))
        return found

    assert told(shell.run("ensync", *to_each(place), tree)) == (0, b"", b"")
    for folder in folders(cluster, place):
        assert seen(folder / "tree" / "program") == seen(file)
        assert seen(folder / "tree") == seen(tree)
    done = shell.run("ensync", "-v", *to_each(place), tree)
    assert b"0 files written on 8 of 8 nodes, 8 were right already" in done.stderr
    subprocess.run(["setfattr", "-x", "user.note", file], check=True)
    before = inode(place / "to" / "node001" / "tree" / "program")
    assert told(shell.run("ensync", *to_each(place), tree)) == (0, b"", b"")
    assert inode(place / "to" / "node001" / "tree" / "program") == before
    assert seen(place / "to" / "node001" / "tree" / "program") == seen(file)
    done = shell.run("ensync", "--no-xattrs", "--dest", f"{place}/to/", tree)
    assert told(done) == (0, b"", b"")
    assert seen(place / "to" / "tree" / "program")[2] == b""


# -- names ------------------------------------------------------------------------------------------


def test_one_file_may_get_another_name(cluster: Cluster, shell: Shell, place: Path) -> None:
    (place / "one").write_bytes(b"x")
    (place / "to" / "sub").mkdir()
    assert told(shell.run("ensync", "--dest", place / "to" / "two", place / "one")) == (0, b"", b"")
    assert (place / "to" / "two").read_bytes() == b"x"
    assert told(shell.run("ensync", "--dest", place / "to" / "sub", place / "one")) == (0, b"", b"")
    assert (place / "to" / "sub" / "one").read_bytes() == b"x"
    done = shell.run("ensync", "--parents", "--dest", f"{place}/to/%h/new", place / "one")
    assert told(done) == (0, b"", b"")
    assert all((folder / "new").is_file() for folder in folders(cluster, place))
    done = shell.run("ensync", "--parents", "--dest", f"{place}/to/%h/dir/", place / "one")
    assert told(done) == (0, b"", b"")
    assert all((folder / "dir" / "one").is_file() for folder in folders(cluster, place))


def test_a_directory_gets_another_name_by_t(shell: Shell, place: Path) -> None:
    (place / "tree" / "a").mkdir(parents=True)
    (place / "tree" / "a" / "f").write_bytes(b"x")
    os.link(place / "tree" / "a" / "f", place / "tree" / "g")
    done = shell.run("ensync", "-n", "node001", "-T", "--dest", place / "to" / "new", place / "tree")
    assert told(done) == (0, b"", b"")
    assert (place / "to" / "new" / "a" / "f").read_bytes() == b"x"
    assert inode(place / "to" / "new" / "g") == inode(place / "to" / "new" / "a" / "f")
    assert not (place / "to" / "new" / "tree").exists()


def test_a_destination_that_is_a_directory_only_on_some_nodes_is_an_error(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    (place / "one").write_bytes(b"x")
    for folder in folders(cluster, place):
        folder.mkdir()
    (place / "to" / "node003" / "x").mkdir()
    done = shell.run("ensync", "--dest", f"{place}/to/%h/x", place / "one")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"is a directory on node003, and not on node[001-002,004-008]: nothing was copied" in done.stderr
    assert not any((folder / "x").is_file() for folder in folders(cluster, place))
    assert list((place / "to" / "node003" / "x").iterdir()) == []
    done = shell.run("ensync", "-T", "--dest", f"{place}/to/%h/x", place / "one")
    assert done.returncode == 1
    assert b"it is a directory here: remove it first" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-T", "one"], b"needs --dest"),
        (["-T", "--dest", "/x/", "one"], b"slash"),
        (["-T", "--dest", "/x", "one", "two"], b"only one"),
        (["--max-delete=3", "one"], b"needs --delete"),
        (["--xattrs", "--no-xattrs", "one"], b"opposite"),
    ],
)
def test_names_and_options_that_make_no_sense(shell: Shell, words: list[str], sentence: bytes) -> None:
    done = shell.run("ensync", *words)
    assert (done.returncode, done.stdout) == (2, b"")
    assert sentence in done.stderr
