"""The source itself is recognised on the same host and through network file systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from filesystems import mounted
from gexec.files.entries import Meta
from gexec.files.identity import NetworkDevices, SameFile, boot_id, network_file_systems
from gexec.files.records import Device

NOWHERE = "/nonexistent"
ONE, OTHER = b"1" * 16, b"2" * 16
NFS = os.makedev(0, 52)
MOUNTS = b"""\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 0:52 / /home rw,relatime shared:1 master:2 - nfs4 server:/export/my\\040home/ rw,vers=4.2,addr=10.0.0.1
41 27 0:52 /alice /srv rw,relatime - nfs4 server:/export/other rw,vers=4.2
42 27 0:53 / /old rw - nfs server:/old rw
43 27 0:54 / /windows rw - cifs //server/share rw,serverino
44 27 0:55 / /numbers rw - cifs //server/numbers rw,noserverino,soft
45 27 0:56 / /ssh rw - fuse.sshfs alice@server:/ rw
46 27 0:57 / /lustre rw - lustre 10.0.0.1@tcp:/scratch rw
47 27 0:58 / /odd rw - nfs server:/a\\134040\\011b\\x rw
48 27 x:y / /odd rw - nfs server:/y rw
short line
49 27 0:59 / /end rw - nfs4
"""


def meta(status: os.stat_result, **more: int) -> Meta:
    device, inode = more.get("device", status.st_dev), more.get("inode", status.st_ino)
    return Meta(0o644, 0, 0, 0, b"", b"", device=device, inode=inode)


@pytest.fixture
def status(tmp_path: Path) -> os.stat_result:
    (tmp_path / "file").touch()
    return (tmp_path / "file").lstat()


@pytest.fixture
def mounts(tmp_path: Path) -> str:
    (tmp_path / "mounts").write_bytes(MOUNTS)
    return str(tmp_path / "mounts")


def test_a_boot_id_is_that_of_this_kernel() -> None:
    text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    assert boot_id().hex() == text.replace("-", "")
    assert len(boot_id()) == 16


def test_network_file_systems_are_found_by_device(mounts: str) -> None:
    assert network_file_systems(mounts) == {
        NFS: {(b"nfs", b"server:/export/my home"), (b"nfs", b"server:/export/other")},
        os.makedev(0, 53): {(b"nfs", b"server:/old")},
        os.makedev(0, 54): {(b"cifs", b"//server/share")},
        os.makedev(0, 57): {(b"lustre", b"10.0.0.1@tcp:/scratch")},
        os.makedev(0, 58): {(b"nfs", b"server:/a\\040\tb\\x")},
    }


def test_without_a_list_of_mounts_there_are_none() -> None:
    assert network_file_systems(NOWHERE) == {}


def test_a_local_file_system_is_not_one_of_the_network(tmp_path: Path) -> None:
    assert NetworkDevices().of(tmp_path.stat().st_dev) == frozenset()


def test_what_an_automounter_mounts_is_found_when_it_is_seen(tmp_path: Path) -> None:
    devices = NetworkDevices(str(tmp_path / "mounts"))
    (tmp_path / "mounts").write_bytes(b"")
    assert devices.of(os.makedev(0, 53)) == frozenset()
    (tmp_path / "mounts").write_bytes(MOUNTS)
    assert devices.of(NFS) == {(b"nfs", b"server:/export/my home"), (b"nfs", b"server:/export/other")}


def test_a_file_is_itself_on_its_host(tmp_path: Path, status: os.stat_result) -> None:
    same = SameFile(boot_id())
    assert same.is_same(meta(status), status)
    os.link(tmp_path / "file", tmp_path / "link")
    assert same.is_same(meta(status), (tmp_path / "link").lstat())
    (tmp_path / "other").touch()
    assert not same.is_same(meta(status), (tmp_path / "other").lstat())
    assert not same.is_same(meta(status, device=status.st_dev + 1), status)
    assert not same.is_same(meta(status, device=0, inode=0), status)


def test_another_host_has_other_files(status: os.stat_result) -> None:
    assert SameFile(ONE, here=ONE).is_same(meta(status), status)
    assert not SameFile(OTHER, here=ONE).is_same(meta(status), status)
    assert not SameFile(bytes(16), here=bytes(16)).is_same(meta(status), status)


@pytest.mark.root
def test_the_same_number_on_another_file_system_is_another_file(tmp_path: Path) -> None:
    with mounted(tmp_path, "tmpfs") as first:
        (tmp_path / "below").mkdir()
        with mounted(tmp_path / "below", "tmpfs") as second:
            # Each has its own numbers from the beginning.
            assert first.stat().st_ino == second.stat().st_ino
            assert not SameFile(boot_id()).is_same(meta(first.stat()), second.stat())


def on(device: int, inode: int) -> os.stat_result:
    return os.stat_result((0o100644, inode, device, 1, 0, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("sender", [ONE, OTHER], ids=["one host", "two hosts"])
def test_a_file_of_a_server_is_one_file_on_two_hosts(mounts: str, sender: bytes) -> None:
    same = SameFile(sender, here=ONE, devices=NetworkDevices(mounts))
    there = Meta(0o644, 0, 0, 0, b"", b"", device=99, inode=7)
    assert not same.is_same(there, on(NFS, 7))
    same.add(Device(99, b"nfs", b"server:/elsewhere"))
    assert not same.is_same(there, on(NFS, 7))
    same.add(Device(99, b"nfs", b"server:/export/other"))
    assert same.is_same(there, on(NFS, 7))
    assert not same.is_same(there, on(NFS, 8))
    assert not same.is_same(there, on(os.makedev(0, 53), 7))
    assert not same.is_same(there, on(os.makedev(254, 0), 7))


def test_another_kind_of_the_same_name_is_something_else(mounts: str) -> None:
    same = SameFile(OTHER, here=ONE, devices=NetworkDevices(mounts))
    same.add(Device(99, b"cifs", b"server:/export/other"))
    assert not same.is_same(Meta(0o644, 0, 0, 0, b"", b"", device=99, inode=7), on(NFS, 7))
