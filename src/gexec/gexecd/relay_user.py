"""The user that the relay of a gexecd of root becomes: an account of its own.

Whoever controls a relay has what that user has: its files, and its other processes. So there is no fallback
to nobody, which other services share, and which stands for unknown users of network file systems.
"""

from __future__ import annotations

import pwd
from typing import Final

from gexec.errors import ConfigError

DEFAULT: Final = "gexec"
_OVERFLOW_FILES: Final = ("/proc/sys/kernel/overflowuid", "/proc/sys/fs/overflowuid")
_OVERFLOW_DEFAULT: Final = 65534
#: uids that systemd reserves for services without an account (DynamicUser=).
_UNNAMED: Final = range(61_184, 65_520)


def relay_identity(configured: str) -> tuple[int, int]:
    """Return uid and gid of the relay's user: the configured one, or gexec.

    Raises:
        ConfigError: there is no such user, or it is root, nobody, or in root's group.
    """
    name = configured or DEFAULT
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(
            f"there is no user {name} for the relay: create it with "
            f"`useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin {name}`"
            ", or name another one with relay_user"
        ) from None
    if why := why_unfit(entry):
        raise ConfigError(f"relay_user {name} {why}: choose a user of its own for the relay")
    return entry.pw_uid, entry.pw_gid


def why_unfit(entry: pwd.struct_passwd) -> str:
    """Return why this account cannot be the relay's, e.g. ``is root``; "" if it can."""
    if entry.pw_uid == 0:
        return "is root"
    if entry.pw_name == "nobody" or entry.pw_uid in overflow_uids():
        return "stands for unknown users and is shared with other services"
    if entry.pw_gid == 0:
        return "has root's group"
    return ""


def overflow_uids() -> set[int]:
    """Return the uids under which the kernel shows users that it cannot map, usually 65534."""
    found = {_OVERFLOW_DEFAULT}
    for path in _OVERFLOW_FILES:
        try:
            with open(path, "rb") as file:
                found.add(int(file.read(20)))
        except (OSError, ValueError):
            continue
    return found


def local_identity(configured: str) -> tuple[int, int]:
    """Return uid and gid of the relays of a local cluster of root, which needs no account.

    As `relay_identity` if a user is configured or gexec exists; else the first uid without an account of
    those that systemd reserves for services without one.

    Raises:
        ConfigError: the configured user is unfit, or every such uid has an account.
    """
    if configured or _exists(DEFAULT):
        return relay_identity(configured)
    for uid in _UNNAMED:
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid, uid
    raise ConfigError(
        f"every uid from {_UNNAMED.start} to {_UNNAMED.stop - 1} has an account: set relay_user"
    )


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
