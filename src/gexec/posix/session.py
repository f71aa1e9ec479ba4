"""What a process passes on to its session: keyring and resource limits. Only keyctl and setrlimit."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from collections.abc import Iterable
from typing import Final

_KEYCTL_JOIN_SESSION_KEYRING: Final = 1
#: The number of keyctl(2), for which the C library has no function; other machines have the generic one.
_KEYCTL: Final = {"x86_64": 250, "i686": 288, "armv7l": 311, "ppc64le": 271, "s390x": 280}
_KEYCTL_GENERIC: Final = 219

_libc: Final = ctypes.CDLL(None, use_errno=True)


def join_new_keyring() -> None:
    """Replace the session keyring by a new, empty one, so that keys of the old one cannot be used.

    Raises:
        OSError: ENOSYS or EPERM where no process may use keyrings (a container's filter).
    """
    number = ctypes.c_long(_KEYCTL.get(os.uname().machine, _KEYCTL_GENERIC))
    if _libc.syscall(number, ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), ctypes.c_void_p(None)) < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, f"keyctl: {os.strerror(failed)}")


def leave_keyring() -> None:
    """Join a new session keyring, if any process of this machine may use keyrings.

    Raises:
        OSError: the old one is still in use.
    """
    try:
        join_new_keyring()
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise


def set_limits(limits: Iterable[tuple[str, int, int]]) -> None:
    """Set resource limits of this process and those that it starts.

    Args:
        limits: name of an RLIMIT in lower case, soft and hard limit; -1 = unlimited.

    Raises:
        OSError: names the limit and the reason; only root may raise a hard limit.
    """
    for name, soft, hard in limits:
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise OSError(errno.EPERM, f"limit {name} = {soft}:{hard} cannot be set: {reason}") from error
