"""What a sender sends: a user's paths, and the names that they get in the stream."""

from __future__ import annotations

import errno
import os

from gexec import limits
from gexec.errors import ProtocolError, UsageError
from gexec.files.entries import check_path, is_below
from gexec.files.globbing import TooManyError, expand, has_magic
from gexec.files.reading import unreadable
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: How far below a root entries are sent: ALL, or this many levels.
ALL = -1
NO_MATCH = "no file matches there"
TOO_LONG = "its path is longer or deeper than can be copied"
_WHOLE = "/ cannot be copied as a whole: name what is in it"


class SourceRoot:
    """Something to send.

    Attributes:
        path: its absolute path on this host, for messages.
        name: its path in the stream, below the receiver's destination. b"" if it can only be reported.
        place: its absolute path for opening. Links in the directories above it are followed, it is not.
        depth: how many levels below it are sent; ALL for everything.
        is_certain: rules do not leave it out, only what is below it.
        reason: why it cannot be sent; "" if that is not known before it is opened.
    """

    __slots__ = ("depth", "is_certain", "name", "path", "place", "reason")

    def __init__(
        self,
        path: bytes,
        name: bytes,
        place: bytes = b"",
        *,
        depth: int = ALL,
        is_certain: bool = False,
        reason: str = "",
    ) -> None:
        self.path = path
        self.name = name
        self.place = place or path
        self.depth = depth
        self.is_certain = is_certain
        self.reason = reason

    @property
    def top(self) -> bytes:
        """Return the directory that it is in, as a path in the stream."""
        return self.name.rpartition(b"/")[0]


def roots_of(paths: Iterable[str], naming: str = "full", *, expands: bool = False) -> list[SourceRoot]:
    """Return the roots for a user's paths, in the order of the stream.

    Args:
        paths: files and directories; relative ones are taken from the working directory.
        naming: ``full``: each keeps its whole path, so that a receiver whose destination is ``/`` writes
            the same path. Links above the last part are resolved first, since a receiver follows none
            (/bin/x is sent as /usr/bin/x). ``base``: only its last part, as cp does. ``asked``: the whole
            path as it is written here; a link there is followed, also in the last part. What cannot be
            sent then has a ``reason``.
        expands: paths may have wildcards (``asked`` only).

    Raises:
        UsageError: two roots would get the same name, or one has no name (``/``).
    """
    roots: list[SourceRoot] = []
    for path in paths:
        if not path or "\0" in path:
            raise UsageError(f"{path!r} is not a file name")
        if naming == "asked":
            roots += _expanded(os.fsencode(path)) if expands else [_asked(os.fsencode(path))]
            continue
        plain = os.path.abspath(os.fsencode(path))
        folder, base = os.path.split(plain)
        if not base:
            raise UsageError(_WHOLE)
        real = os.path.join(os.path.realpath(folder), base)
        roots.append(SourceRoot(real, real.lstrip(b"/") if naming == "full" else base))
    return _distinct(roots)


def _distinct(roots: list[SourceRoot]) -> list[SourceRoot]:
    """Return the roots in the order of the stream, without those that are sent as a part of another one."""
    kept: list[SourceRoot] = []
    reported: list[SourceRoot] = []
    #: Those of ``kept`` that the current one is below.
    above: list[SourceRoot] = []
    for root in sorted(roots, key=lambda root: root.name.split(b"/")):
        if not root.name:
            reported.append(root)
            continue
        try:
            parts = check_path(root.name)
        except ProtocolError as error:
            raise UsageError(f"{shown(root.path)}: {TOO_LONG}; move it to a shorter path") from error
        while above and not is_below(parts, above[-1].name.split(b"/")):
            above.pop()
        if not above:
            kept.append(root)
            above.append(root)
        elif root.reason:
            if root.name != above[-1].name or root.reason != above[-1].reason:
                reported.append(SourceRoot(root.path, b"", reason=root.reason))
        elif root.name == above[-1].name:
            if above[-1].reason:
                reported.append(SourceRoot(root.path, b"", reason=above[-1].reason))
                above[-1].place, above[-1].reason = root.place, ""
            elif root.place != above[-1].place:
                raise UsageError(
                    f"{shown(above[-1].place)} and {shown(root.place)} would both become {shown(root.name)}: "
                    "copy them one after the other to different destinations"
                )
        elif root.place == above[-1].place + root.name[len(above[-1].name) :]:
            pass  # it is sent with what is above it
        else:
            kept.append(root)
            above.append(root)
    return reported + kept


# -- as they are asked for ----------------------------------------------------------------------


def _expanded(path: bytes) -> Iterator[SourceRoot]:
    """Yield the roots that a path with wildcards means. One that is there as it is written has none."""
    whole = os.path.join(_working_directory(), path)
    if not has_magic(path) or os.path.lexists(whole):
        yield _asked(path)
        return
    plain = os.path.normpath(whole)
    try:
        matches, problems = expand(whole)
    except TooManyError:
        reason = f"more than {limits.ARCHIVE_MATCHES_MAX} files match; fetch their directory"
        yield SourceRoot(plain, b"", reason=reason)
        return
    for match in matches:
        yield _asked(match)
    for folder, reason in problems:
        yield SourceRoot(folder, b"", reason=reason)
    if not matches and not problems:
        yield SourceRoot(plain, b"", reason=NO_MATCH)


def _asked(path: bytes) -> SourceRoot:
    """Return the root of a path as it is written; ``.`` and ``..`` are not part of its name."""
    whole = os.path.join(_working_directory(), path)
    plain = b"/" + os.path.normpath(whole).lstrip(b"/")
    name = plain.lstrip(b"/")
    reason = ""
    try:
        place = os.path.realpath(whole, strict=True)
        if place == b"/" or not name:
            reason = _WHOLE if not name else f"it leads to the directory /; {_WHOLE}"
        elif path.endswith((b"/", b"/.")) and not os.path.isdir(place):
            reason = "it is not a directory, as the / at its end requires"
    except OSError as error:
        place, reason = plain, absent(plain, error)
    try:
        check_path(name)
    except ProtocolError:
        name, reason = b"", reason or TOO_LONG
    return SourceRoot(plain, name, place, reason=reason)


def _working_directory() -> bytes:
    """Return the working directory as the user wrote it, with links as in the shell."""
    written = os.fsencode(os.environ.get("PWD", ""))
    if written.startswith(b"/"):
        try:
            if os.path.samefile(written, b"."):
                return written
        except OSError:
            pass
    return os.getcwdb()


def absent(path: bytes, error: OSError) -> str:
    """Return why nothing is at a path."""
    if error.errno == errno.ENOTDIR:
        return "a part of its path is a file, not a directory"
    if error.errno == errno.ELOOP:
        return "its symbolic links lead in a circle"
    if error.errno == errno.ENOENT and os.path.islink(path):
        return f"it is a symbolic link to {shown(os.readlink(path))}, and nothing is there"
    return unreadable(error)
