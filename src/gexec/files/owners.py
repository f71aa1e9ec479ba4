"""Owners of written entries: maps names in the stream to ids on this node."""

from __future__ import annotations

import grp
import os
import pwd

from gexec.files.directories import RefusedError
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gexec.files.entries import Meta

#: Names of one stream that are cached; further ones are looked up each time.
_REMEMBERED = 4096
#: For fchown: do not change the id.
UNCHANGED = -1


class FileOwners:
    """Finds ids by name, because the same user may have different numbers on different nodes.

    For an unknown name the number is used, if it has no other owner here: a file must not become another
    user's.
    """

    __slots__ = ("_groups", "_keep", "_numeric", "_users")

    def __init__(self, *, keep: bool, numeric: bool) -> None:
        self._keep = keep
        self._numeric = numeric
        self._users: dict[tuple[bytes, int], int] = {}
        self._groups: dict[tuple[bytes, int], int] = {}

    def wanted(self, meta: Meta) -> tuple[int, int]:
        """Return the (uid, gid) for an entry, UNCHANGED twice if owners are not kept.

        Raises:
            RefusedError: a name is not known here, and its number belongs to another user or group.
        """
        if not self._keep:
            return UNCHANGED, UNCHANGED
        if self._numeric:
            return meta.uid, meta.gid
        uid = _find(self._users, meta.owner, meta.uid, "owner", _uid_of, _user_of)
        return uid, _find(self._groups, meta.group, meta.gid, "group", _gid_of, _group_of)

    def user_of_acl(self, name: bytes, number: int) -> int:
        """Return the uid for a user in an ACL, whether or not owners are kept; raises as ``wanted``."""
        if self._numeric:
            return number
        return _find(self._users, name, number, "ACL's user", _uid_of, _user_of)

    def group_of_acl(self, name: bytes, number: int) -> int:
        """Return the gid for a group in an ACL, whether or not owners are kept; raises as ``wanted``."""
        if self._numeric:
            return number
        return _find(self._groups, name, number, "ACL's group", _gid_of, _group_of)


def _find(
    known: dict[tuple[bytes, int], int],
    name: bytes,
    number: int,
    what: str,
    number_of: Callable[[str], int],
    name_of: Callable[[int], str],
) -> int:
    found = known.get((name, number))
    if found is not None:
        return found
    found = number
    if name:
        try:
            found = number_of(os.fsdecode(name))
        except KeyError:
            try:
                other = name_of(number)
            except KeyError:
                other = ""
            if other:
                raise RefusedError(
                    f"its {what} {shown(name)} ({number}) is not known here, and {number} is {other}: "
                    f"add {shown(name)}, or use --numeric-ids"
                ) from None
    if len(known) < _REMEMBERED:
        known[name, number] = found
    return found


def _uid_of(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _user_of(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name


def _gid_of(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def _group_of(gid: int) -> str:
    return grp.getgrgid(gid).gr_name
