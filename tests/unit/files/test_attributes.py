"""Extended attributes, ACLs and capabilities: read, set and compared, on real file systems."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from descriptors import directory
from filesystems import KINDS, empty_place, mounted, needs, needs_user_attributes, run
from gexec import limits
from gexec.files.attributes import (
    CAPABILITY,
    FileAttributes,
    TooManyAttributesError,
    apply,
    is_copied,
    portable,
    read,
    read_below,
)
from gexec.files.directories import RefusedError
from gexec.files.entries import Meta
from gexec.files.owners import FileOwners

Attributes = tuple[tuple[bytes, bytes], ...]
IS_ROOT = os.geteuid() == 0
#: Another user and group than ours, as strings for setfacl.
USER = next(entry for entry in pwd.getpwall() if entry.pw_uid != os.geteuid())
GROUP = next(entry for entry in grp.getgrall() if entry.gr_gid != os.getegid())
root_only = pytest.mark.skipif(not IS_ROOT, reason="needs root")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with empty_place(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def without_attributes(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system that has no extended attributes."""
    with mounted(tmp_path, "ramfs") as point:
        yield point


def names_of(attributes: Attributes) -> list[str]:
    return [os.fsdecode(name) for name, _ in attributes]


def sent(path: Path | int) -> Attributes:
    """Return the attributes of an entry as in a stream."""
    target = path if isinstance(path, int) else os.fsencode(path)
    return portable(
        read(target, is_privileged=IS_ROOT),
        lambda uid: _name(lambda: pwd.getpwuid(uid).pw_name),
        lambda gid: _name(lambda: grp.getgrgid(gid).gr_name),
    )


def _name(look_up) -> bytes:  # type: ignore[no-untyped-def]
    try:
        return str(look_up()).encode()
    except KeyError:
        return b""


def meta(attributes: Attributes | None) -> Meta:
    return Meta(0o644, 0, 0, 0, b"", b"", attributes=attributes)


def here(*, numeric: bool = False) -> FileAttributes:
    owners = FileOwners(keep=IS_ROOT, numeric=numeric)
    return FileAttributes(owners, is_privileged=IS_ROOT)


def copy(source: Path, target: Path, *, uid: int = -1) -> list[bytes]:
    """Give ``target`` what ``source`` has, in the order that is documented; return what is refused."""
    wanted = here().wanted(meta(sent(source)))
    assert wanted is not None
    status = source.stat()
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fchown(descriptor, uid, -1)
        refused = apply(descriptor, wanted, is_privileged=IS_ROOT)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
        os.utime(descriptor, ns=(status.st_mtime_ns, status.st_mtime_ns))
    finally:
        os.close(descriptor)
    return refused


def different(path: Path, attributes: Attributes | None) -> list[str]:
    with directory(path.parent) as above:
        found = here()
        return found.differences(above, os.fsencode(path.name), meta(attributes))


def facl(path: Path) -> str:
    return run("getfacl", "--absolute-names", "--omit-header", "--numeric", path)


# -- what is copied -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_users", "is_roots"),
    [
        (b"user.x", True, True),
        (b"system.posix_acl_access", True, True),
        (b"system.posix_acl_default", True, True),
        (b"trusted.x", False, True),
        (b"security.capability", False, True),
        (b"security.selinux", False, False),
        (b"security.ima", False, False),
        (b"security.evm", False, False),
        (b"security.SMACK64", False, False),
        (b"trusted.SGI_ACL_FILE", False, False),
        (b"trusted.lov", False, False),
        (b"system.nfs4_acl", False, False),
        (b"btrfs.compression", False, False),
    ],
)
def test_what_belongs_to_the_file_is_copied(name: bytes, is_users: bool, is_roots: bool) -> None:
    assert is_copied(name, is_privileged=False) == is_users
    assert is_copied(name, is_privileged=True) == is_roots


def test_attributes_of_users_are_read_set_and_removed(place: Path) -> None:
    needs_user_attributes(place)
    (place / "source").write_text("x")
    (place / "target").write_text("x")
    os.setxattr(place / "source", "user.b", b"\0\xff\n")
    os.setxattr(place / "source", "user.a", b"")
    os.setxattr(place / "target", "user.old", b"old")
    os.setxattr(place / "target", "user.a", b"other")
    assert read(os.fsencode(place / "source"), is_privileged=False) == (
        (b"user.a", b""),
        (b"user.b", b"\0\xff\n"),
    )
    assert copy(place / "source", place / "target") == []
    assert sent(place / "target") == ((b"user.a", b""), (b"user.b", b"\0\xff\n"))


def test_an_entry_is_read_through_its_directory(place: Path) -> None:
    needs_user_attributes(place)
    (place / "file").touch()
    os.setxattr(place / "file", "user.a", b"1")
    (place / "link").symlink_to("file")
    above = os.open(place, os.O_PATH)
    try:
        assert read_below(above, b"file", is_privileged=False) == ((b"user.a", b"1"),)
        assert read_below(above, b"link", is_privileged=False) == ()
        with pytest.raises(FileNotFoundError):
            read_below(above, b"nothing", is_privileged=False)
    finally:
        os.close(above)


@root_only
def test_root_copies_trusted_ones_and_users_do_not(place: Path) -> None:
    (place / "source").touch()
    (place / "target").touch()
    os.setxattr(place / "source", "trusted.a", b"1")
    os.setxattr(place / "source", "trusted.gfid", b"an id of a Gluster brick")
    assert names_of(read(os.fsencode(place / "source"), is_privileged=True)) == ["trusted.a"]
    assert read(os.fsencode(place / "source"), is_privileged=False) == ()
    assert copy(place / "source", place / "target") == []
    assert os.getxattr(place / "target", "trusted.a") == b"1"


@root_only
def test_capabilities_outlive_a_new_owner(place: Path) -> None:
    needs("setcap", "getcap")
    for name in ("source", "target"):
        (place / name).write_text("#!/bin/true\n")
    run("setcap", "cap_net_raw+ep", place / "source")
    assert copy(place / "source", place / "target", uid=USER.pw_uid) == []
    assert "cap_net_raw=ep" in run("getcap", place / "target")
    assert (place / "target").stat().st_uid == USER.pw_uid


@root_only
def test_capabilities_are_compared(place: Path) -> None:
    needs("setcap")
    (place / "source").touch()
    run("setcap", "cap_net_raw+ep", place / "source")
    entry = meta(sent(place / "source"))
    assert names_of(here().wanted(entry) or ()) == [CAPABILITY.decode()]
    assert different(place / "source", entry.attributes) == []
    assert different(place / "source", ()) == ["capabilities"]
    run("setcap", "cap_net_admin+ep", place / "source")
    assert different(place / "source", entry.attributes) == ["capabilities"]
    (place / "other").touch()
    assert different(place / "other", entry.attributes) == ["capabilities"]


# -- ACLs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o666])
def test_an_acl_and_the_mode_are_both_those_of_the_source(place: Path, mode: int) -> None:
    """The mask of an ACL and the mode's bits of the group are the same bits."""
    needs("setfacl", "getfacl")
    (place / "source").write_text("x")
    (place / "target").write_text("x")
    run("setfacl", "-m", f"u:{USER.pw_uid}:rw,g:{GROUP.gr_gid}:r", place / "source")
    (place / "source").chmod(mode)
    assert copy(place / "source", place / "target") == []
    assert facl(place / "target") == facl(place / "source")
    assert stat.S_IMODE((place / "target").stat().st_mode) == mode
    assert different(place / "target", sent(place / "source")) == []


def test_an_inherited_acl_goes_if_the_source_has_none(place: Path) -> None:
    needs("setfacl", "getfacl")
    (place / "source").write_text("x")
    (place / "source").chmod(0o640)
    (place / "below").mkdir()
    run("setfacl", "-d", "-m", f"u:{USER.pw_uid}:rwx", place / "below")
    (place / "below/target").write_text("x")
    (place / "below/directory").mkdir()
    assert names_of(sent(place / "below/target")) == ["system.posix_acl_access"]
    assert copy(place / "source", place / "below/target") == []
    assert sent(place / "below/target") == ()
    assert stat.S_IMODE((place / "below/target").stat().st_mode) == 0o640
    (place / "plain").mkdir()
    assert copy(place / "plain", place / "below/directory") == []
    assert sent(place / "below/directory") == ()


def test_a_directory_has_a_default_acl_too(place: Path) -> None:
    needs("setfacl", "getfacl")
    (place / "source").mkdir()
    (place / "target").mkdir()
    run("setfacl", "-m", f"u:{USER.pw_uid}:rx,d:g:{GROUP.gr_gid}:rwx", place / "source")
    assert copy(place / "source", place / "target") == []
    assert facl(place / "target") == facl(place / "source")
    assert names_of(sent(place / "target")) == ["system.posix_acl_access", "system.posix_acl_default"]


def test_users_and_groups_of_an_acl_are_those_of_their_names(place: Path) -> None:
    """As on a source on which these names have other numbers."""
    needs("setfacl", "getfacl")
    (place / "source").touch()
    (place / "target").touch()
    run("setfacl", "-m", "u:54321:rw,g:54322:r", place / "source")
    found = read(os.fsencode(place / "source"), is_privileged=IS_ROOT)
    entry = meta(portable(found, lambda _: USER.pw_name.encode(), lambda _: GROUP.gr_name.encode()))
    descriptor = os.open(place / "target", os.O_RDONLY)
    try:
        assert apply(descriptor, here().wanted(entry) or (), is_privileged=IS_ROOT) == []
        assert f"user:{USER.pw_uid}:rw-" in facl(place / "target")
        assert f"group:{GROUP.gr_gid}:r--" in facl(place / "target")
        assert apply(descriptor, here(numeric=True).wanted(entry) or (), is_privileged=IS_ROOT) == []
        assert "user:54321:rw-" in facl(place / "target")
    finally:
        os.close(descriptor)


def test_an_acl_gives_no_rights_to_another_user(tmp_path: Path) -> None:
    needs("setfacl")
    (tmp_path / "source").touch()
    run("setfacl", "-m", f"u:{USER.pw_uid}:rw", tmp_path / "source")
    found = read(os.fsencode(tmp_path / "source"), is_privileged=IS_ROOT)
    entry = meta(portable(found, lambda _: b"no such user", lambda _: b""))
    with pytest.raises(RefusedError) as refused:
        here().wanted(entry)
    assert str(refused.value) == (
        f"its ACL's user no such user ({USER.pw_uid}) is not known here, and {USER.pw_uid} is "
        f"{USER.pw_name}: add no such user, or use --numeric-ids"
    )


def test_a_damaged_acl_is_refused() -> None:
    with pytest.raises(RefusedError, match="malformed"):
        here().wanted(meta(((b"system.posix_acl_access", b"\0\7short"),)))


# -- differences ---------------------------------------------------------------------------------


def test_differences_are_words(place: Path) -> None:
    needs("setfacl")
    needs_user_attributes(place)
    (place / "file").touch()
    (place / "other").touch()
    assert different(place / "file", None) == []
    assert different(place / "file", ()) == []
    os.setxattr(place / "file", "user.a", b"1")
    run("setfacl", "-m", f"u:{USER.pw_uid}:rw", place / "file")
    wanted = sent(place / "file")
    assert different(place / "file", wanted) == []
    assert different(place / "file", None) == []
    assert different(place / "file", ()) == ["acl", "attributes"]
    assert different(place / "other", wanted) == ["acl", "attributes"]
    os.setxattr(place / "file", "user.a", b"2")
    assert different(place / "file", wanted) == ["attributes"]


def test_what_a_file_system_refuses_is_no_difference_for_a_writer(without_attributes: Path) -> None:
    (without_attributes / "file").touch()
    wanted = meta(((b"user.a", b"1"), (b"user.b", b"2")))
    attributes = here()
    with directory(without_attributes) as above:
        assert attributes.differences(above, b"file", wanted) == ["attributes"]
        assert attributes.differences(above, b"file", wanted, is_writing=True) == []
        assert attributes.differences(above, b"file", wanted, is_writing=True) == []
    assert os.listdir(without_attributes) == ["file"]


def test_what_a_file_system_takes_is_a_difference_for_a_writer(place: Path) -> None:
    needs_user_attributes(place)
    (place / "file").touch()
    with directory(place) as above:
        found = here().differences(above, b"file", meta(((b"user.a", b"1"),)), is_writing=True)
    assert found == ["attributes"]
    assert os.listdir(place) == ["file"]


# -- refusals and limits ----------------------------------------------------------------------------


def test_a_file_system_without_attributes_refuses_them_and_has_none(without_attributes: Path) -> None:
    (without_attributes / "file").touch()
    assert read(os.fsencode(without_attributes / "file"), is_privileged=True) == ()
    with open(without_attributes / "file", "rb") as file:
        assert apply(file.fileno(), (), is_privileged=True) == []
        assert apply(file.fileno(), ((b"user.a", b"1"),), is_privileged=True) == [b"user.a"]


@pytest.mark.skipif(IS_ROOT, reason="root may set trusted attributes")
def test_what_a_user_may_not_set_is_refused_and_the_rest_is_set(tmp_path: Path) -> None:
    needs_user_attributes(tmp_path)
    (tmp_path / "file").touch()
    with open(tmp_path / "file", "rb") as file:
        wanted = ((b"trusted.a", b"1"), (b"user.a", b"1"))
        assert apply(file.fileno(), wanted, is_privileged=True) == [b"trusted.a"]
    assert os.getxattr(tmp_path / "file", "user.a") == b"1"


_WITHOUT_RIGHTS = """
import os, sys
from gexec.files.attributes import FileAttributes, apply
from gexec.files.entries import Meta
from gexec.files.owners import FileOwners
place = os.open(sys.argv[1], os.O_RDONLY)
wanted = ((b"trusted.a", b"1"), (b"user.a", b"1"))
file = os.open("file", os.O_RDWR | os.O_CREAT, dir_fd=place)
print(apply(file, wanted, is_privileged=True))
attributes = FileAttributes(
    FileOwners(keep=True, numeric=False), is_privileged=True
)
meta = Meta(0o644, 0, 0, 0, b"", b"", attributes=wanted)
print(attributes.differences(place, b"file", meta))
print(attributes.differences(place, b"file", meta, is_writing=True))
"""


@root_only
def test_root_of_a_container_may_have_fewer_rights(place: Path) -> None:
    needs("setpriv")
    needs_user_attributes(place)
    limited = ["setpriv", "--bounding-set", "-sys_admin", sys.executable, "-c", _WITHOUT_RIGHTS]
    assert run(*limited, place).splitlines() == ["[b'trusted.a']", "['attributes']", "[]"]


_WITHOUT_PROC = """
import os, subprocess, sys
from gexec.files.attributes import read_below
subprocess.run(["umount", "--lazy", "/proc"], check=True)
place = os.open(sys.argv[1], os.O_PATH)
for name in (b"file", b"directory", b"link", b"pipe"):
    print(read_below(place, name, is_privileged=True))
try:
    read_below(place, b"nothing", is_privileged=True)
except FileNotFoundError as error:
    print(error.strerror)
"""


@root_only
def test_without_proc_attributes_are_read_too(place: Path) -> None:
    needs_user_attributes(place)
    (place / "file").touch()
    (place / "directory").mkdir()
    for name in ("file", "directory"):
        os.setxattr(place / name, "user.a", b"1")
    (place / "link").symlink_to("file")
    os.mkfifo(place / "pipe")
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a container that permits mounts")
    found = "((b'user.a', b'1'),)"
    done = run(*unshare, sys.executable, "-c", _WITHOUT_PROC, place)
    assert done.splitlines() == [found, found, "()", "()", "No such file or directory"]


def test_too_many_are_an_error_that_says_so(tmp_path: Path) -> None:
    too_many = tuple((b"user.%03d" % number, b"") for number in range(limits.ARCHIVE_ATTRIBUTES_MAX + 1))
    with pytest.raises(TooManyAttributesError, match=r"^it has 257 extended attributes .* remove some"):
        portable(((b"system.posix_acl_access", b"\2\0\0\0"), *too_many), lambda _: b"", lambda _: b"")


@root_only
def test_too_large_ones_are_an_error_that_says_so(tmp_path: Path) -> None:
    with mounted(tmp_path, "tmpfs") as point:
        needs_user_attributes(point)
        (point / "file").touch()
        try:
            for number in range(2):
                os.setxattr(point / "file", f"user.{number}", b"x" * 60_000)
        except OSError as error:
            pytest.skip(f"no large attributes on tmpfs: {error.strerror}")
        with pytest.raises(TooManyAttributesError, match=r"^it has 2 extended attributes of 1200\d\d bytes"):
            read(os.fsencode(point / "file"), is_privileged=True)
