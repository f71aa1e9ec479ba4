"""Names of the owners of what is sent."""

from __future__ import annotations

import grp
import os
import pwd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: A name's length is one byte of the stream.
_NAME_MAX_BYTES = 255


class OwnerNames:
    """Names of users and groups, each looked up once."""

    __slots__ = ("_groups", "_users")

    def __init__(self) -> None:
        self._users: dict[int, bytes] = {}
        self._groups: dict[int, bytes] = {}

    def user(self, uid: int) -> bytes:
        """Return the user's name, empty if there is none."""
        if uid not in self._users:
            self._users[uid] = _name(lambda: pwd.getpwuid(uid).pw_name)
        return self._users[uid]

    def group(self, gid: int) -> bytes:
        """Return the group's name, empty if there is none."""
        if gid not in self._groups:
            self._groups[gid] = _name(lambda: grp.getgrgid(gid).gr_name)
        return self._groups[gid]


def _name(look_up: Callable[[], str]) -> bytes:
    try:
        return os.fsencode(look_up())[:_NAME_MAX_BYTES]
    except KeyError:
        return b""
