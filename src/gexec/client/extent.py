"""How much a copy has to send: counted in a bounded walk, for the progress and for the nodes' audit logs."""

from __future__ import annotations

import shlex
import time

from gexec.files.walking import DIRECTORY, FILE
from gexec.render.text import shown
from gexec.render.text import size as shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gexec.files.walking import Found

#: A walk ends after so many entries, and after so long (a file server may need a millisecond for each): the
#: job is submitted only then.
COUNTED_MAX = 20_000
COUNTED_MAX_S = 1.0
#: A daemon's audit log has the first 256 bytes of an argument.
_ABOUT_MAX_BYTES = 240


class Extent:
    """What was counted.

    Attributes:
        files: files, links and all else that is no directory.
        bytes: of the files, holes left out.
        is_whole: False if the walk ended before it had seen everything.
    """

    __slots__ = ("bytes", "files", "is_whole")

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0
        self.is_whole = True


def extent_of(entries: Iterable[Found]) -> Extent:
    """Count what a walk finds."""
    extent = Extent()
    until_s = time.monotonic() + COUNTED_MAX_S
    for count, found in enumerate(entries):
        if count >= COUNTED_MAX or time.monotonic() > until_s:
            extent.is_whole = False
            break
        if found.kind != DIRECTORY:
            extent.files += 1
            if found.kind == FILE and found.status is not None:
                extent.bytes += min(found.status.st_size, found.status.st_blocks * 512)
    return extent


def about(extent: Extent | None, paths: Sequence[bytes]) -> str:
    """Return ``12 files, 3.1 MiB: /etc/hosts /opt/gexec`` in at most 240 bytes, safe to print.

    Of many paths only the first ones are named, and how many more there are.

    Args:
        extent: what is copied; None: the paths are removed.
    """
    if extent is None:
        text = f"removal of {_files(len(paths))}:"
    elif extent.is_whole:
        text = f"{_files(extent.files)}, {shown_size(extent.bytes)}:"
    else:
        text = f"over {_files(extent.files)}:"
    for number, path in enumerate(paths):
        name = f" {shlex.quote(shown(path))}"
        rest = f" and {len(paths) - number} more"
        if len(f"{text}{name}{rest}".encode()) > _ABOUT_MAX_BYTES:
            if number:
                return text + rest
            return _cut(text + name, f"... and {len(paths) - 1} more" if len(paths) > 1 else "...")
        text += name
    return text


def _cut(text: str, end: str) -> str:
    """Return the beginning of a text that is too long, and what it ends with."""
    return text.encode()[: _ABOUT_MAX_BYTES - len(end)].decode(errors="ignore") + end


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"
