"""The roots of a list of files (--files-from), with the rules of rsync.

Names are relative to one directory and keep their whole paths; the directories above them come with them. A
directory is sent without what is in it, unless its name ends with a slash: then with its direct contents.
"""

from __future__ import annotations

import os
import stat

from gexec import limits
from gexec.errors import ProtocolError, UsageError
from gexec.files.entries import check_path
from gexec.files.patterns import NO_RULES, Rules
from gexec.files.roots import TOO_LONG, SourceRoot, absent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def read_list(path: str, option: str = "--files-from") -> bytes:
    """Return the text of a list, which an option names; ``-`` is stdin.

    Raises:
        UsageError: it cannot be read or is longer than FILES_FROM_MAX_BYTES.
    """
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            text = file.read(limits.FILES_FROM_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{option} {path[:200]}: it cannot be read: {error.strerror}") from error
    if len(text) > limits.FILES_FROM_MAX_BYTES:
        raise UsageError(
            f"{option} {path[:200]}: it has more than {limits.FILES_FROM_MAX_BYTES >> 20} MiB; split it"
        )
    return text


def listed_roots(
    text: bytes, directory: str, naming: str = "full", *, rules: Rules = NO_RULES, ends_with_nul: bool = False
) -> tuple[list[SourceRoot], Rules]:
    """Return the roots for a list of names, in the order of the stream, and the rules for what is below them.

    Args:
        text: names, each on a line. Empty lines and those that begin with ``#`` or ``;`` count as none.
            A leading slash has no meaning, ``..`` does not lead above the directory, and a name with ``/./``
            is taken from there on.
        directory: what they are relative to.
        naming: ``full``: their paths begin with the directory's own path, links resolved. ``base``: without.
        rules: which of the names are left out, compared from ``directory`` on.
        ends_with_nul: names end with NUL instead of the end of a line.

    Raises:
        UsageError: there are too many names, or ``directory`` is none.
    """
    if not os.path.isdir(directory):
        raise UsageError(
            f"{directory[:200]}: with --files-from, expected the directory of the names in the list"
        )
    top = os.path.realpath(os.fsencode(directory))
    prefix = top.strip(b"/") if naming == "full" else b""
    chosen = rules.below([prefix])
    listed = _Listed(top, prefix, chosen)
    for number, name in enumerate(_names(text, ends_with_nul)):
        if number >= limits.FILES_FROM_MAX:
            raise UsageError(f"--files-from: more than {limits.FILES_FROM_MAX} names; split the list")
        listed.add(name)
    roots = sorted(listed.roots.values(), key=lambda root: root.name.split(b"/"))
    return listed.reported + roots, chosen


def _names(text: bytes, ends_with_nul: bool) -> Iterator[bytes]:
    for line in text.split(b"\0") if ends_with_nul else text.replace(b"\r", b"\n").split(b"\n"):
        if line and not line.startswith((b"#", b";")):
            yield line


class _Listed:
    """Collects roots.

    Attributes:
        roots: by their names in the stream.
        reported: those that can only be reported.
    """

    def __init__(self, top: bytes, prefix: bytes, rules: Rules) -> None:
        self.roots: dict[bytes, SourceRoot] = {}
        self.reported: list[SourceRoot] = []
        self._top = top.rstrip(b"/")
        self._prefix = prefix + b"/" if prefix else b""
        self._rules = rules
        #: Directories above names, with links resolved.
        self._real: dict[bytes, bytes] = {}
        self._told: set[bytes] = set()

    def add(self, line: bytes) -> None:
        """Take a name of the list."""
        before, cut, name = line.partition(b"/./")
        if not cut or not _clean(before):
            before, name = b"", line
        above, clean = _clean(before), _clean(name)
        depth = int(not clean or name.endswith((b"/", b"/.")))
        place = self._top + (b"/" + above if above else b"")
        if clean:
            self._entry(place, clean, depth)
            return
        # The directory itself has no name in the stream, its contents have.
        try:
            for entry in os.listdir(place):
                self._entry(place, entry, 0)
        except OSError as error:
            self._report(place, absent(place, error))

    def _entry(self, above: bytes, name: bytes, depth: int) -> None:
        path = above + b"/" + name
        full = self._prefix + name
        try:
            check_path(full)
            status = os.lstat(path)
            folder, base = os.path.split(path)
            place = self._resolved(folder).rstrip(b"/") + b"/" + base
            if depth and stat.S_ISLNK(status.st_mode) and os.path.isdir(path):
                place = os.path.realpath(path)
                status = os.lstat(place)
        except ProtocolError:
            self._report(path, "it has a NUL in its name" if b"\0" in name else TOO_LONG)
            return
        except OSError as error:
            self._report(path, absent(path, error))
            return
        if self._rules.excludes(full, stat.S_ISDIR(status.st_mode)):
            return
        self._put(path, full, place, depth if stat.S_ISDIR(status.st_mode) else 0, is_implied=False)
        parts = name.split(b"/")
        for count in range(len(parts) - 1, 0, -1):
            inner = b"/".join(parts[:count])
            folder = above + b"/" + inner
            if not self._put(folder, self._prefix + inner, self._resolved(folder), 0, is_implied=True):
                break

    def _put(self, path: bytes, name: bytes, place: bytes, depth: int, *, is_implied: bool) -> bool:
        """Take a root. Return False if it was there already, with all that is above it."""
        known = self.roots.get(name)
        if known is None:
            # One text for both, if they are equal: lists can be long.
            self.roots[name] = SourceRoot(
                path, name, b"" if place == path else place, depth=depth, is_certain=True
            )
        elif known.place == place:
            known.depth = max(known.depth, depth)
        elif is_implied or depth:
            # A link that is itself in the list: what is below it needs a directory there.
            known.place, known.depth = place, max(known.depth, depth)
        return known is None

    def _resolved(self, folder: bytes) -> bytes:
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return self._real[folder]

    def _report(self, path: bytes, reason: str) -> None:
        if path not in self._told:
            self._told.add(path)
            self.reported.append(SourceRoot(path, b"", reason=reason))


def _clean(name: bytes) -> bytes:
    """Return a name without empty parts and ``.``; ``..`` leads up, but not above the first part."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)
