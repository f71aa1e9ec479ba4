"""Extended attributes of files and directories, with their ACLs and capabilities: read, compared and set.

The order in which an entry gets what it has: contents, owner (a new owner clears capabilities), attributes
(``apply``; an ACL changes the mode), mode (which puts the ACL's mask right), mtime.

Attributes of symbolic links are not copied: an ordinary user cannot give them any.
"""

from __future__ import annotations

import errno
import os
import stat

from gexec import limits
from gexec.files.acls import ACCESS, DEFAULT, DamagedAclError, with_names, with_numbers
from gexec.files.directories import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gexec.files.entries import Attributes, Meta
    from gexec.files.owners import FileOwners

CAPABILITY = b"security.capability"
_ACLS = (ACCESS, DEFAULT)
#: Of security.*, only what belongs to the file itself: its capabilities, and the ACL that Samba keeps there.
#: All others are labels, hashes and signatures of security modules (selinux, SMACK64*, apparmor, ima, evm):
#: the policy and the keys of each node decide about them, and evm covers the inode's number.
_SECURITY = (CAPABILITY, b"security.NTACL")
#: Of trusted.*, what file systems keep about their own storage: the ACL once more (XFS), striping and object
#: ids (Lustre, Gluster). On another file system it would be meaningless or wrong.
_STORAGE = (
    b"trusted.SGI_", b"trusted.lov", b"trusted.lmv", b"trusted.lma", b"trusted.link", b"trusted.fid",
    b"trusted.hsm", b"trusted.som", b"trusted.gfid", b"trusted.glusterfs.", b"trusted.afr.", b"trusted.ec.",
)  # fmt: skip
#: Bytes that each attribute takes in a stream, besides its name and value.
_HEAD_BYTES = 5
#: The file system or the system does not take this attribute here; anything else is a failure of the entry.
_REFUSALS = (
    errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ERANGE, errno.E2BIG, errno.ENOSPC,
)  # fmt: skip
#: No file of this file system takes it from this process.
_REFUSED_ALWAYS = (errno.EOPNOTSUPP, errno.EPERM)


class TooManyAttributesError(Exception):
    """An entry has more extended attributes than a stream can hold; the text is the reason."""


def is_copied(name: bytes, *, is_privileged: bool) -> bool:
    """True for the attributes that are copied, compared and removed; all others stay as they are on a node.

    Without privileges these are user.* and the POSIX ACLs. ACLs of NFSv4 and SMB servers are not copied: an
    NFSv4 mount shows one for every file, and only such a mount could take it.
    """
    if name.startswith(b"user.") or name in _ACLS:
        return True
    if not is_privileged:
        return False
    return name in _SECURITY or (name.startswith(b"trusted.") and not name.startswith(_STORAGE))


def read(target: bytes | int, *, is_privileged: bool) -> Attributes:
    """Return the attributes of a file or directory that are copied, with this host's values, by name.

    Args:
        target: an open descriptor, or a path whose last part is not followed if it is a link.
        is_privileged: the process is root.

    Returns:
        () also for a file system without extended attributes.

    Raises:
        TooManyAttributesError: more than ARCHIVE_ATTRIBUTES_MAX or ARCHIVE_ATTRIBUTES_MAX_BYTES.
        OSError: they cannot be read; the file is gone.
    """
    try:
        names = (
            os.listxattr(target) if isinstance(target, int) else os.listxattr(target, follow_symlinks=False)
        )
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return ()
        raise
    if not names:
        return ()
    found = []
    for name in sorted(map(os.fsencode, names)):
        if is_copied(name, is_privileged=is_privileged):
            value = _value(target, name)
            if value is not None:
                found.append((name, value))
    return _bounded(found)


def portable(
    attributes: Attributes, user_of: Callable[[int], bytes], group_of: Callable[[int], bytes]
) -> Attributes:
    """Return attributes as in a stream, where ACLs hold names (``acls.with_names``).

    Args:
        attributes: from ``read``.
        user_of, group_of: return the name of an id on this host, empty if it has none.

    Raises:
        TooManyAttributesError: more than ARCHIVE_ATTRIBUTES_MAX_BYTES.
    """
    if not any(name in _ACLS for name, _ in attributes):
        return attributes
    found = []
    for name, value in attributes:
        if name in _ACLS:
            try:
                value = with_names(value, user_of, group_of)
            except DamagedAclError:
                continue
            if not value:
                continue
        found.append((name, value))
    return _bounded(found)


def apply(descriptor: int, wanted: Attributes, *, is_privileged: bool) -> list[bytes]:
    """Give an open file or directory these attributes, and no other ones that are copied.

    An entry has attributes of its own when it is created: the default ACL of its directory.

    Args:
        descriptor: open for reading or writing; its owner is set already, its mode is set afterwards.
        wanted: with this host's values (``FileAttributes.wanted``).

    Returns:
        The names that this file system or the system refuses.

    Raises:
        OSError: the entry cannot be changed.
    """
    try:
        names = [os.fsencode(name) for name in os.listxattr(descriptor)]
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return [name for name, _ in wanted]
    refused = []
    is_wanted = {name for name, _ in wanted}
    for name in names:
        is_extra = name not in is_wanted and is_copied(name, is_privileged=is_privileged)
        if is_extra and not _change(descriptor, name, None):
            refused.append(name)
    # ACLs last: they change the mode, and a user may set other attributes only while this user may write.
    for name, value in sorted(wanted, key=lambda item: item[0] in _ACLS):
        is_there = name in names and _value(descriptor, name) == value
        if not is_there and not _change(descriptor, name, value):
            refused.append(name)
    return refused


def read_below(above: int, name: bytes, *, is_privileged: bool) -> Attributes:
    """Return the attributes of an entry of an open directory; a link is not followed. Raises as ``read``.

    Args:
        above: O_PATH is enough.
    """
    try:
        return read(b"/proc/self/fd/%d/%s" % (above, name), is_privileged=is_privileged)
    except FileNotFoundError:
        if os.path.exists("/proc/self/fd"):
            raise
    # Without /proc it must be opened. Opening a device or a pipe has effects; they have no contents to copy.
    if stat.S_IFMT(os.lstat(name, dir_fd=above).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        return ()
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=above)
    try:
        return read(descriptor, is_privileged=is_privileged)
    finally:
        os.close(descriptor)


class FileAttributes:
    """The attributes of a stream's entries on this node.

    Args:
        owners: finds the users and groups of ACLs.
        is_privileged: this process is root.
    """

    __slots__ = ("_is_privileged", "_owners", "_refused", "_tried")

    def __init__(self, owners: FileOwners, *, is_privileged: bool) -> None:
        self._owners = owners
        self._is_privileged = is_privileged
        #: (device, name or namespace) that were tried, and those that no file there takes.
        self._tried: set[tuple[int, bytes]] = set()
        self._refused: set[tuple[int, bytes]] = set()

    def wanted(self, meta: Meta) -> Attributes | None:
        """Return the attributes that an entry gets here, None if it keeps those that it has.

        Raises:
            RefusedError: a user or group of an ACL is not known here, and its number belongs to another one.
        """
        if not meta.attributes:
            return meta.attributes
        wanted = []
        for name, value in meta.attributes:
            if not is_copied(name, is_privileged=self._is_privileged):
                continue
            if name in _ACLS:
                try:
                    value = with_numbers(value, self._owners.user_of_acl, self._owners.group_of_acl)
                except DamagedAclError:
                    raise RefusedError("its ACL in the stream is malformed") from None
            wanted.append((name, value))
        return tuple(wanted)

    def differences(self, above: int, name: bytes, meta: Meta, *, is_writing: bool = False) -> list[str]:
        """Return how the attributes of an existing entry differ: ``acl``, ``capabilities``, ``attributes``.

        Args:
            above, name: an entry of an open directory, as for ``read_below``.
            meta: the entry's, in the stream.
            is_writing: what this file system refuses is not a difference, or such files would be written
                again in each run. It is found out by a file without a name in the directory, once for each
                device.

        Raises:
            RefusedError: as ``wanted``.
            OSError: they cannot be read.
        """
        wanted = self.wanted(meta)
        if wanted is None:
            return []
        try:
            found = read_below(above, name, is_privileged=self._is_privileged)
        except TooManyAttributesError:
            return ["attributes"]
        if found == wanted:
            return []
        different = {key for key, _ in set(found) ^ set(wanted)}
        if is_writing:
            device = os.fstat(above).st_dev
            missing = [(key, value) for key, value in wanted if key in different]
            self._try(device, above, missing)
            different -= {key for key, _ in missing if self._is_refused(device, key)}
        return _words(different)

    def _is_refused(self, device: int, name: bytes) -> bool:
        return (device, _kind(name)) in self._refused

    def _try(self, device: int, above: int, attributes: Iterable[tuple[bytes, bytes]]) -> None:
        untried = [item for item in attributes if (device, _kind(item[0])) not in self._tried]
        if not untried:
            return
        descriptor = _scratch(above)
        try:
            for name, value in untried:
                self._tried.add((device, _kind(name)))
                try:
                    os.setxattr(descriptor, name, value)
                except OSError as error:
                    if error.errno in _REFUSED_ALWAYS:
                        self._refused.add((device, _kind(name)))
        finally:
            os.close(descriptor)


def _value(target: bytes | int, name: bytes) -> bytes | None:
    """Return an attribute, None if it is gone."""
    try:
        if isinstance(target, int):
            return os.getxattr(target, name)
        return os.getxattr(target, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def _bounded(found: Sequence[tuple[bytes, bytes]]) -> Attributes:
    total = sum([_HEAD_BYTES + len(name) + len(value) for name, value in found])
    if len(found) > limits.ARCHIVE_ATTRIBUTES_MAX or total > limits.ARCHIVE_ATTRIBUTES_MAX_BYTES:
        raise TooManyAttributesError(
            f"it has {len(found)} extended attributes of {total} bytes, and "
            f"{limits.ARCHIVE_ATTRIBUTES_MAX} of {limits.ARCHIVE_ATTRIBUTES_MAX_BYTES} can be copied: "
            "remove some (setfattr -x)"
        )
    return tuple(found)


def _change(descriptor: int, name: bytes, value: bytes | None) -> bool:
    """Set an attribute, or remove it (None); False if it is refused."""
    try:
        if value is None:
            os.removexattr(descriptor, name)
        else:
            os.setxattr(descriptor, name, value)
    except OSError as error:
        if error.errno in _REFUSALS:
            return False
        # Without it there was nothing to remove.
        if error.errno != errno.ENODATA:
            raise
    return True


def _kind(name: bytes) -> bytes:
    """Return the name, or of user.* and trusted.* the namespace: a file system takes all of it or none."""
    return name if name.startswith((b"system.", b"security.")) else name.partition(b".")[0]


def _words(names: Iterable[bytes]) -> list[str]:
    words = {
        "acl" if name in _ACLS else "capabilities" if name == CAPABILITY else "attributes" for name in names
    }
    return sorted(words)


def _scratch(above: int) -> int:
    """Open a new file without a name in a directory."""
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=above)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    name = b".gexec-" + os.urandom(12).hex().encode()
    descriptor = os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=above)
    os.unlink(name, dir_fd=above)
    return descriptor
