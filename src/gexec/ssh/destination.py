"""The destination for a node's ssh: its name unchanged, and its port. Pure.

Aliases, users, jump hosts and everything else about a name are left to ssh (~/.ssh/config).
"""

from __future__ import annotations

import re

from gexec.errors import UsageError

#: Permitted names. ssh passes names to ProxyCommand and `Match exec`, where a shell would interpret other
#: characters; a word that begins with "-" would be an option.
_NAME = re.compile(r"(?:[\w.+][\w.+-]*@)?[\w.:\[_][\w.:\]_%-]*", re.UNICODE)
_PORT_MAX = 65535


def words(name: str, port: int = 0) -> list[str]:
    """Return ssh's arguments that name a node: ``[-p PORT] -- [USER@]HOST``.

    Args:
        name: ``host``, ``user@host``, an alias of ~/.ssh/config, or an address; IPv6 with or without
            brackets.
        port: 0 = ssh's default.

    Raises:
        UsageError: ssh could interpret the name as something else.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"node name {name[:80]!r} cannot be given to ssh: expected HOST or USER@HOST, "
            "of letters, digits and .-_:"
        )
    if not 0 <= port <= _PORT_MAX:
        raise UsageError(f"node {name[:80]!r} has port {port}: expected 1 to {_PORT_MAX}")
    user, at, host = name.rpartition("@")
    if host.startswith("["):
        if not host.endswith("]") or ":" not in host:
            raise UsageError(f"node name {name[:80]!r}: expected an IPv6 address between the brackets")
        host = host[1:-1]
    elif "]" in host or "[" in host:
        raise UsageError(f"node name {name[:80]!r}: a bracket without its partner")
    return [*(("-p", str(port)) if port else ()), "--", user + at + host]
