"""Sets owner, attributes, mode and mtime of an existing file in place, where its contents are right.

That is safe only for a file that no other user can have put there: one with a single name, in a directory
that only root and this user can change. Elsewhere it could be another name of somebody else's file.
"""

from __future__ import annotations

import os
import stat

from gexec.files.attributes import apply
from gexec.files.owners import UNCHANGED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.files.directories import Place
    from gexec.files.entries import Attributes

_RIGHTS = 0o777


class NotInPlaceError(Exception):
    """The file was changed or replaced, or got another name; it must be written anew."""


def may_be_set(above: Place, status: os.stat_result) -> bool:
    """True if ``set_in_place`` may be used for an entry of a directory.

    Args:
        status: from lstat.
    """
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_nlink == 1
        and (not os.geteuid() or status.st_uid == os.geteuid())
        and above.is_guarded
        and above.status is not None
        and not above.status.st_mode & 0o022
    )


def set_in_place(
    descriptor: int,
    status: os.stat_result,
    *,
    uid: int,
    gid: int,
    mode: int,
    mtime_ns: int,
    attributes: Attributes | None = None,
    is_privileged: bool = False,
) -> list[bytes]:
    """Set what differs. Nobody has more rights to the file at any moment than before or afterwards.

    Args:
        descriptor: the file, open for reading.
        status: what ``may_be_set`` was asked for.
        uid, gid: UNCHANGED: they stay.
        attributes: with this host's values; None: they stay, but capabilities end with the old owner.

    Returns:
        The names of attributes that this file system or the system refuses.

    Raises:
        NotInPlaceError: nothing was changed.
        OSError: something could not be set.
    """
    now = os.fstat(descriptor)
    if not os.path.samestat(now, status) or (now.st_nlink, now.st_size, now.st_mtime_ns) != (
        1,
        status.st_size,
        status.st_mtime_ns,
    ):
        raise NotInPlaceError
    refused: list[bytes] = []
    old_mode = stat.S_IMODE(now.st_mode)
    is_given = uid != UNCHANGED and (now.st_uid, now.st_gid) != (uid, gid)
    if is_given:
        # The old owner's rights are not the new owner's.
        os.fchmod(descriptor, old_mode & mode & _RIGHTS)
        os.fchown(descriptor, uid, gid)
    if attributes is not None:
        # A user may set attributes of a file that this user may write to.
        own = stat.S_IRUSR | stat.S_IWUSR if os.geteuid() else 0
        os.fchmod(descriptor, old_mode & mode & _RIGHTS | own)
        refused = apply(descriptor, attributes, is_privileged=is_privileged)
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        os.fchmod(descriptor, mode)
    if now.st_mtime_ns != mtime_ns:
        os.utime(descriptor, ns=(mtime_ns, mtime_ns))
    return refused
