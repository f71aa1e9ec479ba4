"""Reads facts about a uid from this node's account database, for ``security.policy``."""

from __future__ import annotations

import grp
import os
import pwd

from gexec.security.policy import Account

_SHADOW = "/etc/shadow"
_SHADOW_MAX_BYTES = 16 * 1024 * 1024


def account_of(uid: int) -> Account | None:
    """Return the account of a uid with all its groups, or None if there is none."""
    try:
        entry = pwd.getpwuid(uid)
    except (KeyError, OverflowError):
        return None
    gids = tuple(sorted(set(os.getgrouplist(entry.pw_name, entry.pw_gid))))
    password, expires_day = _shadow_of(entry.pw_name)
    return Account(
        name=entry.pw_name,
        uid=uid,
        gid=entry.pw_gid,
        groups=tuple(_group_name(gid) for gid in gids),
        gids=gids,
        home=entry.pw_dir,
        shell=entry.pw_shell,
        password=password,
        expires_day=expires_day,
    )


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _shadow_of(name: str) -> tuple[str | None, int | None]:
    # Parsed here because Python 3.13 has no module spwd.
    try:
        with open(_SHADOW, "rb") as file:
            content = file.read(_SHADOW_MAX_BYTES)
    except OSError:
        return None, None  # the gexecd of an ordinary user serves that user only
    prefix = name.encode() + b":"
    for line in content.split(b"\n"):
        if line.startswith(prefix):
            fields = line.decode("utf-8", "replace").split(":")
            expires = fields[7] if len(fields) > 7 else ""
            # Some tools write 0 for "does not expire", as an empty field does: only a positive day is used.
            return fields[1], int(expires) if expires.isdigit() and int(expires) > 0 else None
    return None, None
