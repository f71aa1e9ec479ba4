"""Which programs may be started: a policy's lists of paths and patterns (attacks 103 and 104).

Loaded where there is such a list: in a helper, which has the user's rights when it looks at paths that users
choose, and by ``gexecctl policy check``. What is compared is the file that is executed: no link, of a path
that only root can change. So nobody can replace it between the check and the start.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from gexec.wire.outcome import shown_path

_WILDCARDS: Final = frozenset("*?[")
#: The environment of allowed programs: other variables could make them run something else.
_KEPT: Final = frozenset(
    [b"HOME", b"LANG", b"LANGUAGE", b"LOGNAME", b"PWD", b"SHELL", b"TERM", b"TZ", b"USER"]
)
_KEPT_PREFIXES: Final = (b"GEXEC_", b"LC_")
PATH: Final = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandDenied(Exception):
    """The policy does not permit a program; the text is one sentence for the user."""


class Permitted:
    """The programs that a policy permits.

    Args:
        allow: paths and patterns of absolute paths, in which a wildcard stands for a part of one name; empty
            = all programs.
        deny: the same for programs that are never started; it has precedence.
    """

    def __init__(self, allow: Sequence[str], deny: Sequence[str]) -> None:
        self._allow = allow
        self._deny = deny

    def checked(self, program: bytes) -> bytes:
        """Return the path to execute for a program: its own, without symbolic links.

        Raises:
            CommandDenied: the policy does not permit it.
            OSError: there is no such file.
        """
        real = os.path.realpath(program, strict=True)
        shown = shown_path(program) if real == program else f"{shown_path(program)} ({shown_path(real)})"
        paths = (os.fsdecode(program), os.fsdecode(real))
        for pattern in self._deny:
            if any(_matches(path, pattern) for path in paths):
                raise CommandDenied(f"program {shown}: denied by the policy of this node ({pattern})")
        if self._allow:
            if not any(_matches(paths[1], pattern) for pattern in self._allow):
                raise CommandDenied(f"program {shown}: none of the allowed commands of this node's policy")
            changeable = _changeable(real)
            if changeable:
                raise CommandDenied(
                    f"program {shown}: allowed by the policy, but not only root can change {changeable}"
                )
        return real

    def environment(self, env: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return the part of a job's environment that an allowed program gets; all if all are allowed."""
        if not self._allow:
            return env
        kept = {
            name: value for name, value in env.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)
        }
        return kept | {b"PATH": PATH}


def _matches(path: str, pattern: str) -> bool:
    """Compare a path with a pattern as it is, and with the pattern's own symbolic links resolved."""
    return _fits(path, pattern) or _fits(path, _resolved(pattern))


def _resolved(pattern: str) -> str:
    parts = pattern.split("/")
    plain = 0
    while plain < len(parts) and not _WILDCARDS & set(parts[plain]):
        plain += 1
    return "/".join([os.path.realpath("/".join(parts[:plain]) or "/"), *parts[plain:]]).replace("//", "/")


def _fits(path: str, pattern: str) -> bool:
    names, parts = path.split("/"), pattern.split("/")
    return len(names) == len(parts) and all(map(fnmatchcase, names, parts))


def _changeable(path: bytes) -> str:
    """Return the first part of a path that others than root can replace or write to; "" if there is none."""
    while True:
        status = os.lstat(path)
        if status.st_uid != 0 or stat.S_IMODE(status.st_mode) & 0o022:
            return shown_path(path)
        if path == b"/":
            return ""
        path = os.path.dirname(path)
