"""Is an existing entry the very file that is sent? Then it is not written: a program that writes to the
source would go on with a file that no longer has a name.

Two hosts see one file if they are the same host, or if it is on a network file system that both have mounted.

Limits. A network file system is recognised if it is mounted under the same name on both hosts: not if one
names the server by its address, or is the server itself. Then the file is compared like any other, and is
found unchanged unless it was written to since it was listed. Containers of one kernel are one host, which is
right; virtual machines that were resumed from one saved state look like one host, too, so callers report what
was not written for this reason.
"""

from __future__ import annotations

import os

from gexec import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.files.entries import Meta
    from gexec.files.records import Device

    #: (kind, source) of what is mounted; a device that is mounted in several places may have several.
    FileSystems = frozenset[tuple[bytes, bytes]]

#: Bytes of a boot id.
BOOT_ID_BYTES = 16
_UNKNOWN = bytes(BOOT_ID_BYTES)
#: Kinds of file systems whose inode numbers are the same on all hosts, and whose source names the file
#: system; a second kind of the same files counts as the first one. Not in it: local ones; fuse.sshfs (its
#: numbers are made up on each host); 9p and virtiofs (the source is a tag that one virtual machine chose);
#: fuse.ceph-fuse (the source does not name the cluster); gfs2 and ocfs2 (it is a block device of the host).
_KINDS = {
    b"nfs": b"nfs", b"nfs4": b"nfs",
    b"cifs": b"cifs", b"smb3": b"cifs",
    b"ceph": b"ceph", b"lustre": b"lustre", b"gpfs": b"gpfs", b"pvfs2": b"pvfs2", b"panfs": b"panfs",
    b"wekafs": b"wekafs", b"afs": b"afs", b"fuse.glusterfs": b"fuse.glusterfs",
    # One source for all, but its numbers are hashes of ids that are unique everywhere.
    b"beegfs": b"beegfs",
}  # fmt: skip
#: With this option a client makes up its own inode numbers.
_OWN_NUMBERS = b"noserverino"
_ESCAPES = {b"\\040": b" ", b"\\011": b"\t", b"\\012": b"\n", b"\\043": b"#", b"\\134": b"\\"}
_NONE: FileSystems = frozenset()


def boot_id() -> bytes:
    """Return 16 bytes that identify this host since it was booted; zeros if unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            found = bytes.fromhex(file.read(64).decode("ascii").replace("-", ""))
    except (OSError, ValueError):
        return _UNKNOWN
    return found if len(found) == BOOT_ID_BYTES else _UNKNOWN


def network_file_systems(mounts: str = "/proc/self/mountinfo") -> dict[int, FileSystems]:
    """Return the mounted network file systems by their devices (st_dev), without asking their servers.

    Args:
        mounts: the kernel's list, of which MOUNTS_MAX_BYTES are read.

    Returns:
        Empty if the list cannot be read.
    """
    try:
        with open(mounts, "rb") as file:
            lines = file.read(limits.MOUNTS_MAX_BYTES).splitlines()
    except OSError:
        return {}
    found: dict[int, FileSystems] = {}
    for line in lines:
        parsed = _parsed(line)
        if parsed is not None:
            device, file_system = parsed
            found[device] = found.get(device, _NONE) | {file_system}
    return found


class NetworkDevices:
    """The network file systems of this host, looked up when a device is first seen: an automounter may have
    mounted it just then.
    """

    __slots__ = ("_known", "_mounts")

    def __init__(self, mounts: str = "/proc/self/mountinfo") -> None:
        self._mounts = mounts
        self._known: dict[int, FileSystems] = {}

    def of(self, device: int) -> FileSystems:
        """Return what is mounted with this device, empty if it is not a network file system."""
        found = self._known.get(device)
        if found is None:
            found = network_file_systems(self._mounts).get(device, _NONE)
            self._known[device] = found
        return found


class SameFile:
    """Recognises the source's own entries on this host.

    Args:
        sender: the boot id of the stream.
        here: that of this host.
        devices: this host's network file systems.
    """

    __slots__ = ("_devices", "_is_one_host", "_senders")

    def __init__(
        self, sender: bytes, *, here: bytes | None = None, devices: NetworkDevices | None = None
    ) -> None:
        self._is_one_host = sender != _UNKNOWN and sender == (boot_id() if here is None else here)
        self._devices = NetworkDevices() if devices is None else devices
        self._senders: dict[int, set[tuple[bytes, bytes]]] = {}

    def add(self, event: Device) -> None:
        """Take a device of the sender that is a network file system."""
        self._senders.setdefault(event.device, set()).add((event.kind, event.source))

    def is_same(self, meta: Meta, status: os.stat_result) -> bool:
        """True if an entry of this host is the one that ``meta`` describes on its host.

        Args:
            status: from lstat.
        """
        if not meta.inode or meta.inode != status.st_ino:
            return False
        if self._is_one_host and meta.device == status.st_dev:
            return True
        sent = self._senders.get(meta.device)
        return sent is not None and not sent.isdisjoint(self._devices.of(status.st_dev))


def _parsed(line: bytes) -> tuple[int, tuple[bytes, bytes]] | None:
    """Return device and file system of a line of mountinfo, None if it is not a network file system.

    36 35 98:0 /root /point options [optional fields] - kind source options
    """
    before, separator, after = line.partition(b" - ")
    fields, last = before.split(b" "), after.split(b" ")
    if not separator or len(fields) < 6 or len(last) < 2:
        return None
    kind = _KINDS.get(last[0])
    if kind is None or (len(last) > 2 and _OWN_NUMBERS in last[2].split(b",")):
        return None
    major, _, minor = fields[2].partition(b":")
    if not (major.isdigit() and minor.isdigit()):
        return None
    source = _unescaped(last[1])
    return os.makedev(int(major), int(minor)), (kind, source.rstrip(b"/") or source)


def _unescaped(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    pieces = []
    at = 0
    while at < len(text):
        length = 4 if text[at : at + 4] in _ESCAPES else 1
        piece = text[at : at + length]
        pieces.append(_ESCAPES.get(piece, piece))
        at += length
    return b"".join(pieces)
