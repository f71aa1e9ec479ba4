"""An account database of a test's own: real files, which the processes of the test see in /etc."""

from __future__ import annotations

import ctypes
import os
import pwd
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_MS_BIND = 1 << 12
_MS_REC = 1 << 14
_MS_PRIVATE = 1 << 18
#: Above all that installations give to users.
_UID_MIN = 2_000_000

_libc = ctypes.CDLL(None, use_errno=True)


class Etc:
    """Copies of /etc/passwd, /etc/group and /etc/shadow, with users of the test's own.

    Changes count at once, for each process that is below one that has called ``take_place``.
    """

    def __init__(self, directory: Path) -> None:
        self._files = {name: directory / name for name in ("passwd", "group", "shadow")}
        for name, path in self._files.items():
            path.write_bytes(Path("/etc", name).read_bytes())
            path.chmod(0o600 if name == "shadow" else 0o644)
        self._made = 0

    def add_user(
        self, name: str, *, groups: Sequence[str] = (), shell: str = "/bin/sh", password: str = "*",
        expires_day: str = "", uid: int | None = None,
    ) -> pwd.struct_passwd:  # fmt: skip
        """Add a user with a primary group of the same name, and these groups; return the account."""
        uid = self._next() if uid is None else uid
        self._append("passwd", f"{name}:x:{uid}:{uid}::/:{shell}")
        self._append("shadow", f"{name}:{password}:19000:::::{expires_day}:")
        self._append("group", f"{name}:x:{uid}:")
        self.set_groups(name, groups)
        return pwd.struct_passwd((name, "x", uid, uid, "", "/", shell))

    def set_groups(self, name: str, groups: Sequence[str]) -> None:
        """Make a user a member of these groups, and of no others beside the primary group."""
        lines = []
        for line in self._files["group"].read_text().splitlines():
            head, _, old = line.rpartition(":")
            others = [member for member in old.split(",") if member not in ("", name)]
            lines.append((head, others))
        known = {head.partition(":")[0] for head, _ in lines}
        lines += [(f"{group}:x:{self._next()}", []) for group in groups if group not in known]
        text = ""
        for head, kept in lines:
            members = [*kept, name] if head.partition(":")[0] in groups else kept
            text += f"{head}:{','.join(members)}\n"
        self._write("group", text)

    def set_shadow(self, name: str, *, password: str = "*", expires_day: str = "") -> None:
        """Set a user's password field and the day on which the account expires."""
        old = self._files["shadow"].read_text().splitlines()
        kept = [line for line in old if not line.startswith(f"{name}:")]
        self._write("shadow", "\n".join([*kept, f"{name}:{password}:19000:::::{expires_day}:"]) + "\n")

    def take_place(self) -> None:
        """Show the files in /etc to this process and all that it starts; root only."""
        if _libc.unshare(ctypes.c_int(_CLONE_NEWNS)):
            raise OSError(ctypes.get_errno(), "no mount namespace")
        self._mount(None, "/", _MS_REC | _MS_PRIVATE)
        for name, path in self._files.items():
            self._mount(str(path), f"/etc/{name}", _MS_BIND)

    def _mount(self, source: str | None, target: str, flags: int) -> None:
        given = None if source is None else os.fsencode(source)
        if _libc.mount(given, os.fsencode(target), None, ctypes.c_ulong(flags), None):
            raise OSError(ctypes.get_errno(), f"{target} cannot be mounted")

    def _next(self) -> int:
        self._made += 1
        return _UID_MIN + self._made

    def _append(self, name: str, line: str) -> None:
        self._write(name, self._files[name].read_text().rstrip("\n") + f"\n{line}\n")

    def _write(self, name: str, text: str) -> None:
        # In place: a mounted file cannot be replaced by another.
        with open(self._files[name], "r+", encoding="utf-8") as file:
            file.write(text)
            file.truncate()
