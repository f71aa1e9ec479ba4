"""What a sender sends: a user's paths, and the names that they get in the stream."""

from __future__ import annotations

import os

from gexec.errors import ProtocolError, UsageError
from gexec.files.entries import check_path, is_below
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class SourceRoot:
    """Something to send.

    Attributes:
        path: its absolute path on this host, for messages.
        name: its path in the stream, below the receiver's destination.
        place: its absolute path for opening. Links in the directories above it are followed, it is not.
    """

    __slots__ = ("name", "path", "place")

    def __init__(self, path: bytes, name: bytes, place: bytes = b"") -> None:
        self.path = path
        self.name = name
        self.place = place or path


def roots_of(paths: Iterable[str], naming: str = "full") -> list[SourceRoot]:
    """Return the roots for a user's paths, in the order of the stream.

    Args:
        paths: files and directories; relative ones are taken from the working directory.
        naming: ``full``: each keeps its whole path, so that a receiver whose destination is ``/`` writes
            the same path. Links above the last part are resolved first, since a receiver follows none
            (/bin/x is sent as /usr/bin/x). ``base``: only its last part, as cp does.

    Raises:
        UsageError: two roots would get the same name, or one has no name (``/``).
    """
    roots = []
    for path in paths:
        if not path or "\0" in path:
            raise UsageError(f"{path!r} is not a file name")
        plain = os.path.abspath(os.fsencode(path))
        folder, base = os.path.split(plain)
        if not base:
            raise UsageError("/ cannot be copied as a whole: name what is in it")
        real = os.path.join(os.path.realpath(folder), base)
        roots.append(SourceRoot(real, real.lstrip(b"/") if naming == "full" else base))
    return _distinct(roots)


def _distinct(roots: list[SourceRoot]) -> list[SourceRoot]:
    """Return the roots in the order of the stream, without those that are below another one."""
    kept: list[SourceRoot] = []
    for root in sorted(roots, key=lambda root: root.name.split(b"/")):
        try:
            check_path(root.name)
        except ProtocolError as error:
            raise UsageError(
                f"{shown(root.path)}: its path is longer or deeper than can be copied; move it to a "
                "shorter path"
            ) from error
        above = kept[-1] if kept else None
        if above is not None and is_below(root.name.split(b"/"), above.name.split(b"/")):
            if root.path != above.path + root.name[len(above.name) :]:
                raise UsageError(
                    f"{shown(above.path)} and {shown(root.path)} would both become {shown(root.name)}: "
                    "copy them one after the other to different destinations"
                )
            continue
        kept.append(root)
    return kept
