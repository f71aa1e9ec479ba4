"""POSIX ACLs between hosts: the kernel's form holds numbers, a stream holds names, too. Pure.

The kernel's form is that of the attributes system.posix_acl_access and system.posix_acl_default: the version,
then a tag, permissions and an id for each line of the ACL (linux/posix_acl_xattr.h, little-endian).

In a stream: u16 number of lines, the lines in the kernel's form, and for each line of a user or group, in
their order, u8 length and name (empty: it has none on the source).
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: The attributes of ACLs: of the file or directory itself, and what new entries of a directory inherit.
ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_VERSION = Struct("<I")
#: tag, permissions, id
_LINE = Struct("<HHI")
_COUNT = Struct("!H")
_USER, _GROUP = 0x02, 0x08
_BASE_TAGS = {0x01, 0x04, 0x20}


class DamagedAclError(Exception):
    """The value is not an ACL."""


def with_names(value: bytes, user_of: Callable[[int], bytes], group_of: Callable[[int], bytes]) -> bytes:
    """Return an ACL as in a stream.

    Args:
        value: the kernel's form.
        user_of, group_of: return the name of an id on this host, empty if it has none.

    Returns:
        Empty if the ACL has only the lines that a mode has, so that no ACL is needed.

    Raises:
        DamagedAclError: it has another version.
    """
    lines = _lines(value)
    if {tag for tag, _, _ in lines} <= _BASE_TAGS:
        return b""
    names = [
        (user_of if tag == _USER else group_of)(number) for tag, _, number in lines if tag in (_USER, _GROUP)
    ]
    return b"".join(
        [_COUNT.pack(len(lines)), value[_VERSION.size :], *[bytes([len(name)]) + name for name in names]]
    )


def with_numbers(
    portable: bytes, user_of: Callable[[bytes, int], int], group_of: Callable[[bytes, int], int]
) -> bytes:
    """Return the kernel's form of an ACL from a stream.

    Args:
        user_of, group_of: return the id here for a name and its id on the source; what they raise passes.

    Raises:
        DamagedAclError: it is malformed.
    """
    try:
        (count,) = _COUNT.unpack_from(portable)
        at = _COUNT.size + count * _LINE.size
        lines = []
        for tag, permissions, number in _LINE.iter_unpack(portable[_COUNT.size : at]):
            if tag in (_USER, _GROUP):
                end = at + 1 + portable[at]
                find = user_of if tag == _USER else group_of
                lines.append((tag, find(portable[at + 1 : end], number), permissions))
                at = end
            else:
                lines.append((tag, number, permissions))
    except (StructError, IndexError) as error:
        raise DamagedAclError from error
    if at != len(portable) or len(lines) != count:
        raise DamagedAclError
    # Ids may have another order here; tags ascend in the kernel's form.
    lines.sort()
    return _VERSION.pack(2) + b"".join(
        [_LINE.pack(tag, permissions, number) for tag, number, permissions in lines]
    )


def _lines(value: bytes) -> list[tuple[int, int, int]]:
    try:
        if _VERSION.unpack_from(value) == (2,):
            return list(_LINE.iter_unpack(value[_VERSION.size :]))
    except StructError:
        pass
    raise DamagedAclError
