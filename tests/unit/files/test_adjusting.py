"""Owner, attributes, mode and mtime of an existing file, in place."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from filesystems import KINDS, empty_place, needs, needs_user_attributes, run
from gexec.files.adjusting import NotInPlaceError, may_be_set, set_in_place
from gexec.files.attributes import read
from gexec.files.directories import Place
from gexec.files.owners import UNCHANGED

IS_ROOT = os.geteuid() == 0
MTIME_NS = 10**18 + 7
USER = next(entry for entry in pwd.getpwall() if entry.pw_uid not in (0, os.geteuid()))


@pytest.fixture(params=KINDS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with empty_place(request.param, tmp_path) as made:
        (made / "file").write_text("contents")
        (made / "file").chmod(0o640)
        yield made / "file"


def place(path: Path) -> Place:
    """Return a place whose directories above are guarded, as those below a destination of root are."""
    made = Place(b"", os.open(path, os.O_PATH | os.O_DIRECTORY), above=None)
    os.close(made.descriptor)
    return made


def put(path: Path, status: os.stat_result | None = None, **more: Any) -> list[bytes]:
    wanted: dict[str, Any] = {"uid": UNCHANGED, "gid": UNCHANGED, "mode": 0o640, "mtime_ns": MTIME_NS} | more
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return set_in_place(
            descriptor, path.lstat() if status is None else status, is_privileged=IS_ROOT, **wanted
        )
    finally:
        os.close(descriptor)


def test_a_file_keeps_its_inode_and_contents(file: Path) -> None:
    before = file.stat()
    assert put(file, mode=0o751) == []
    after = file.stat()
    assert after.st_ino == before.st_ino
    assert (stat.S_IMODE(after.st_mode), after.st_mtime_ns) == (0o751, MTIME_NS)
    assert file.read_text() == "contents"


@pytest.mark.skipif(not IS_ROOT, reason="needs root")
def test_a_new_owner_with_set_id_bits(file: Path) -> None:
    assert put(file, uid=USER.pw_uid, gid=USER.pw_gid, mode=0o6755) == []
    status = file.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (USER.pw_uid, USER.pw_gid, 0o6755)


@pytest.mark.skipif(not IS_ROOT, reason="needs root")
def test_a_new_owner_with_capabilities(file: Path) -> None:
    needs("setcap")
    run("setcap", "cap_net_raw+ep", file)
    attributes = read(os.fsencode(file), is_privileged=True)
    assert len(attributes) == 1
    assert put(file, uid=USER.pw_uid, gid=USER.pw_gid, attributes=attributes) == []
    assert read(os.fsencode(file), is_privileged=True) == attributes


@pytest.mark.parametrize("mode", [0o640, 0o440, 0o400])
def test_attributes_and_an_acl_with_the_mode(file: Path, mode: int) -> None:
    needs("setfacl")
    needs_user_attributes(file.parent)
    other = file.parent / "other"
    other.touch()
    run("setfacl", "-m", f"u:{USER.pw_uid}:rw", other)
    os.setxattr(other, "user.a", b"1")
    other.chmod(mode)
    wanted = read(os.fsencode(other), is_privileged=IS_ROOT)
    file.chmod(0o400)
    assert put(file, mode=mode, attributes=wanted) == []
    assert read(os.fsencode(file), is_privileged=IS_ROOT) == wanted
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert put(file, mode=0o600, attributes=()) == []
    assert read(os.fsencode(file), is_privileged=IS_ROOT) == ()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("what", ["replaced", "linked", "written", "touched"])
def test_a_file_that_has_changed_is_not_touched(file: Path, what: str) -> None:
    status = file.lstat()
    if what == "replaced":
        (file.parent / "new").write_text("contents")
        os.utime(file.parent / "new", ns=(status.st_mtime_ns, status.st_mtime_ns))
        (file.parent / "new").chmod(0o640)
        os.rename(file.parent / "new", file)
    elif what == "linked":
        os.link(file, file.parent / "link")
    elif what == "written":
        file.write_text("other contents")
    else:
        os.utime(file, ns=(1, 1))
    before = file.lstat()
    with pytest.raises(NotInPlaceError):
        put(file, status, mode=0o777)
    after = file.lstat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def test_where_a_file_may_be_set(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir(mode=0o755)
    (directory / "file").touch()
    (directory / "link").symlink_to("file")
    status = (directory / "file").lstat()
    assert may_be_set(place(directory), status)
    assert not may_be_set(place(directory), (directory / "link").lstat())
    assert not may_be_set(place(directory), directory.lstat())
    for mode in (0o775, 0o757, 0o1777):
        directory.chmod(mode)
        assert not may_be_set(place(directory), status)
    directory.chmod(0o755)
    os.link(directory / "file", directory / "other")
    assert not may_be_set(place(directory), (directory / "file").lstat())


@pytest.mark.skipif(not IS_ROOT, reason="needs root")
def test_a_directory_of_another_user_is_no_place_for_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.chown(tmp_path, USER.pw_uid, USER.pw_gid)
    assert not may_be_set(place(tmp_path), (tmp_path / "file").lstat())
