"""Control groups of a node's processes: all of them frozen, or bounded in number. Versions 1 and 2."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from laboratory.network.nodes import until

_FREEZE_S = 10.0


class Group:
    """A control group of its own; use it inside ``with``. Its processes go back to the root at the end.

    Args:
        kind: ``freezer`` or ``pids``.

    Raises:
        OSError: it cannot be made here (:func:`missing`).
    """

    def __init__(self, kind: str) -> None:
        found = _place(kind)
        if found is None:
            raise FileNotFoundError(f"no control groups of the kind {kind} are mounted")
        self._root, self._is_old = found
        self._path = self._root / f"gexec-{os.getpid()}-{kind}"
        self._path.mkdir()

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        """Thaw, and give all processes back."""
        if (self._path / self._freeze_file()).exists():
            self.freeze(False)
        until(self._removed, _FREEZE_S)

    def _removed(self) -> bool:
        for pid in (self._path / "cgroup.procs").read_text().split():
            _write(self._root / "cgroup.procs", pid)
        try:
            self._path.rmdir()
        except OSError:
            return False
        return True

    def take(self, pids: Iterable[int]) -> None:
        """Move processes into the group, if they still run; what they fork later is in it, too."""
        for pid in pids:
            _write(self._path / "cgroup.procs", str(pid))

    def freeze(self, frozen: bool = True) -> None:
        """Stop all processes of the group where they are, or let them go on; they do not notice it."""
        words = ("FROZEN", "THAWED") if self._is_old else ("1", "0")
        (self._path / self._freeze_file()).write_text(words[not frozen])
        if frozen and self._is_old:
            until(lambda: (self._path / self._freeze_file()).read_text() == "FROZEN\n", _FREEZE_S)

    def _freeze_file(self) -> str:
        return "freezer.state" if self._is_old else "cgroup.freeze"

    def current(self) -> int:
        """Return how many processes and threads the group has."""
        return int((self._path / "pids.current").read_text())

    def bound(self, count: int | None) -> None:
        """Allow so many processes and threads; None: any number."""
        (self._path / "pids.max").write_text("max" if count is None else str(count))


def missing(kind: str) -> str:
    """Return why there can be no such groups here, or ""."""
    try:
        with Group(kind):
            return ""
    except OSError as error:
        return f"control groups of the kind {kind} cannot be made here: {error}"


def _place(kind: str) -> tuple[Path, bool] | None:
    """Return where such groups are made, and whether that is version 1."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, system, options = line.split()[:4]
        if system == "cgroup" and kind in options.split(","):
            return Path(path), True
        # Freezing is a part of version 2 itself, the number of processes needs a controller.
        if system == "cgroup2" and (
            kind == "freezer" or kind in (Path(path) / "cgroup.subtree_control").read_text().split()
        ):
            return Path(path), False
    return None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except ProcessLookupError:
        pass  # it has ended
