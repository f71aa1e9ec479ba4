"""Process attributes: subreaper, title, dropped identity.

Only prctl and the uid calls; no decisions.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLOSE_RANGE_CLOEXEC: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int | bytes) -> None:
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, value, zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def become_subreaper() -> None:
    """Make every orphan below this process a child of it. A fork does not inherit this."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signum: int) -> None:
    """Make the kernel send ``signum`` to this process when its parent ends.

    The parent may have ended already. The caller's duty: compare os.getppid() afterwards.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)


def forbid_tracing() -> None:
    """Forbid processes without privilege to trace this one or to read its memory and descriptors."""
    _prctl(_PR_SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """Prevent programs that this process may start from gaining privileges by set-uid bits."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def keep_from_programs() -> None:
    """Set close-on-exec on every descriptor from 3 on, so that no task inherits it (attack 69)."""
    call = getattr(_libc, "close_range", None)
    if call is not None and call(ctypes.c_uint(3), ctypes.c_uint(2**32 - 1), _CLOSE_RANGE_CLOEXEC) == 0:
        return
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2:
                os.set_inheritable(int(name), False)
        except OSError:
            pass


def set_title(title: str) -> None:
    """Set the name that ps and top show, 15 bytes at most."""
    _prctl(_PR_SET_NAME, title.encode()[:15])


def drop_to(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Become this user permanently, and verify that root cannot be regained.

    Groups first, then gid, then uid, since only root may set groups and gid. Then the result is read
    back, and a return to root is tried and must fail (attacks 28 and 68).

    Raises:
        OSError, PermissionError: the identity is not the requested one: the caller must exit.
    """
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise PermissionError(f"could not become uid {uid}, gid {gid}")
    if set(os.getgroups()) - {gid} != set(groups) - {gid}:
        raise PermissionError(f"could not take the groups {sorted(groups)}: have {os.getgroups()}")
    if uid != 0:
        for regain in (os.setuid, os.seteuid):
            try:
                regain(0)
            except OSError:
                continue
            raise PermissionError("root could be regained after the drop")


def close_inherited(keep: Sequence[int]) -> None:
    """Close every descriptor but 0, 1, 2 and ``keep``."""
    low = 3
    for fd in sorted(set(keep)):
        if fd >= low:
            os.closerange(low, fd)
            low = fd + 1
    # close_range(2) is fast however high the limit is; without it, use the list in /proc.
    if (
        hasattr(_libc, "close_range")
        and _libc.close_range(ctypes.c_uint(low), ctypes.c_uint(2**32 - 1), 0) == 0
    ):
        return
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= low:
            try:
                os.close(int(name))
            except OSError:
                pass


def raise_descriptors(wanted: int) -> None:
    """Raise this process's soft limit of descriptors to ``wanted``, or to the hard limit if that is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def null_stdio(numbers: Sequence[int] = (0, 1, 2)) -> None:
    """Replace these standard descriptors with /dev/null."""
    null = os.open("/dev/null", os.O_RDWR)
    for number in numbers:
        if number != null:
            os.dup2(null, number)
    if null > 2:
        os.close(null)


def take_stderr(log_fd: int) -> None:
    """Redirect stderr to the log, stdin and stdout to /dev/null."""
    null_stdio((0, 1))
    os.dup2(log_fd, 2)
    if log_fd > 2:
        os.close(log_fd)
