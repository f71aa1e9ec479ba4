"""Entries of what a walk has found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from filesystems import needs_user_attributes
from gexec.files.entries import Directory, File, HardLink, Removal, Skipped, StreamEntry, Symlink
from gexec.files.identity import NetworkDevices
from gexec.files.lister import Lister
from gexec.files.roots import roots_of
from gexec.files.walking import removals, walk


def entries_of(*paths: Path, keeps_attributes: bool = True) -> tuple[list[StreamEntry], Lister, list[str]]:
    said: list[str] = []
    lister = Lister(keeps_attributes=keeps_attributes, on_problem=said.append)
    found = walk(roots_of([str(path) for path in paths], "base"), inspect=lister.inspect)
    made = [lister.entry(each) for each in found]
    return [entry for entry in made if entry is not None], lister, said


def test_each_kind_has_its_entry(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir(mode=0o750)
    (top / "a").write_bytes(b"content")
    os.utime(top / "a", ns=(1, 12345))
    os.link(top / "a", top / "b")
    (top / "link").symlink_to("a")
    os.mkfifo(top / "pipe")
    found, lister, said = entries_of(top)
    assert [type(entry) for entry in found] == [Directory, File, HardLink, Symlink, Skipped]
    directory, file, name, link, pipe = found
    status = (top / "a").stat()
    assert isinstance(directory, Directory)
    assert isinstance(file, File)
    assert isinstance(name, HardLink)
    assert isinstance(link, Symlink)
    assert isinstance(pipe, Skipped)
    assert (directory.path, directory.is_whole, directory.meta.mode) == (b"top", True, 0o750)
    assert (file.path, file.size, file.is_linked, file.is_unsized) == (b"top/a", 7, True, False)
    assert (file.meta.mtime_ns, file.meta.device, file.meta.inode) == (12345, status.st_dev, status.st_ino)
    assert (file.meta.uid, file.meta.gid) == (os.geteuid(), status.st_gid)
    assert (name.first, name.size) == (b"top/a", 7)
    assert link.target == b"a"
    assert pipe.reason == ""
    assert said == [f"{top}/pipe: a named pipe is not copied"]
    assert lister.problems == 0


def test_what_is_not_there_is_a_problem_and_an_entry(tmp_path: Path) -> None:
    found, lister, said = entries_of(tmp_path / "none")
    [entry] = found
    assert isinstance(entry, Skipped)
    assert entry.reason == "there is no such file"
    assert said == [f"{tmp_path}/none: not sent: there is no such file"]
    assert lister.problems == 1


def test_a_single_file_is_linked_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    [entry] = entries_of(tmp_path / "a")[0]
    assert isinstance(entry, File)
    assert not entry.is_linked


def test_a_file_of_proc_says_that_its_size_is_not_its_contents() -> None:
    [entry] = entries_of(Path("/proc/version"))[0]
    assert isinstance(entry, File)
    assert entry.is_unsized


@pytest.mark.parametrize("keeps", [True, False])
def test_extended_attributes_are_read_if_that_is_wanted(tmp_path: Path, keeps: bool) -> None:
    needs_user_attributes(tmp_path)
    (tmp_path / "a").touch()
    os.setxattr(tmp_path / "a", "user.b", b"1")
    [entry] = entries_of(tmp_path / "a", keeps_attributes=keeps)[0]
    assert entry.meta.attributes == (((b"user.b", b"1"),) if keeps else None)


def test_removals_have_the_device_and_inode_of_this_hosts_entry(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    lister = Lister(keeps_attributes=True, on_problem=pytest.fail)
    found = removals(roots_of([str(tmp_path / "a"), str(tmp_path / "none")], "base"))
    here, gone = [lister.entry(each) for each in found]
    assert isinstance(here, Removal)
    assert isinstance(gone, Removal)
    assert here.meta.inode == (tmp_path / "a").stat().st_ino
    assert (gone.meta.device, gone.meta.inode) == (0, 0)


def test_network_file_systems_are_told_once(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    device = (tmp_path / "a").stat().st_dev
    mounts = tmp_path / "mountinfo"
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(f"36 35 {number} / /srv rw - nfs4 server:/srv rw\n")
    lister = Lister(keeps_attributes=False, on_problem=pytest.fail)
    lister._network = NetworkDevices(str(mounts))
    for each in walk(roots_of([str(tmp_path / "a")], "base")):
        lister.entry(each)
    assert lister.new_network_devices() == [(device, b"nfs", b"server:/srv")]
    assert lister.new_network_devices() == []
