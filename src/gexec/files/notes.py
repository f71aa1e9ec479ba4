"""What a receiver left out of many entries: one sentence for each kind, equal on all nodes. Pure."""

from __future__ import annotations

from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Kinds of notes; ``{files}`` and ``{entries}`` are replaced by their number.
SET_ID = "set-uid and set-gid bits of {files} are left out (--setuid keeps them)"
COPIED_LINKS = "hard links that are not possible here are separate files, {files}"
_REFUSED = "{} of {{entries}} cannot be kept here"
#: Attributes whose names say little to a user.
_WORDS = {
    b"system.posix_acl_access": "the ACLs",
    b"system.posix_acl_default": "the default ACLs",
    b"security.capability": "the capabilities",
}


def refused(name: bytes) -> str:
    """Return the kind of note for an attribute that is refused here; one for all of a namespace."""
    word = _WORDS.get(name) or f"attributes {shown(name.partition(b'.')[0])}.*"
    return _REFUSED.format(word)


class Notes:
    """Counts notes by kind, with the first path of each."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        self._notes: dict[str, tuple[int, bytes]] = {}

    def add(self, kind: str, path: bytes, count: int = 1) -> None:
        """Add entries to a kind of note.

        Args:
            kind: one of this module's, or from ``refused``: they are few.
            path: of the first of them, in the stream.
        """
        before, first = self._notes.get(kind, (0, path))
        self._notes[kind] = (before + count, first)

    def add_refused(self, names: Iterable[bytes], path: bytes) -> None:
        """Add an entry of which these attributes were refused."""
        for kind in {refused(name) for name in names}:
            self.add(kind, path)

    def sentences(self, root: bytes) -> list[str]:
        """Return one sentence for each kind, sorted: ``... of 3 files ...: /srv/a and 2 more``.

        Args:
            root: what precedes the paths, without a slash at its end.
        """
        return [_sentence(kind, *self._notes[kind], root) for kind in sorted(self._notes)]


def _sentence(kind: str, count: int, first: bytes, root: bytes) -> str:
    files = "1 file" if count == 1 else f"{count} files"
    entries = "1 entry" if count == 1 else f"{count} entries"
    more = f" and {count - 1} more" if count > 1 else ""
    return f"{kind.format(files=files, entries=entries)}: {shown(root + b'/' + first)}{more}"
