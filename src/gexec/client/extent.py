"""How much a copy has to send: counted in a bounded walk, for the progress and for the nodes' audit logs."""

from __future__ import annotations

import os
import shlex
import time
from stat import S_ISDIR

from gexec.render.text import shown
from gexec.render.text import size as shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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


def extent_of(paths: Iterable[bytes]) -> Extent:
    """Count what is at absolute paths and below them; links are not followed. Never raises OSError."""
    extent = Extent()
    until_s = time.monotonic() + COUNTED_MAX_S
    waiting, entries = list(paths), 0
    while waiting:
        path = waiting.pop()
        try:
            status = os.lstat(path)
            if S_ISDIR(status.st_mode):
                with os.scandir(path) as found:
                    for entry in found:
                        waiting.append(entry.path)
                        if len(waiting) > COUNTED_MAX:
                            break
            else:
                extent.files += 1
                extent.bytes += min(status.st_size, status.st_blocks * 512)
        except OSError:
            pass  # the sender reports it
        entries += 1
        if waiting and (entries >= COUNTED_MAX or time.monotonic() > until_s):
            extent.is_whole = False
            break
    return extent


def about(extent: Extent, paths: Sequence[bytes]) -> str:
    """Return ``12 files, 3.1 MiB: /etc/hosts /opt/gexec`` in at most 240 bytes, safe to print.

    Of many paths only the first ones are named, and how many more there are.
    """
    count = f"{extent.files} file{'' if extent.files == 1 else 's'}, {shown_size(extent.bytes)}"
    text = f"{count if extent.is_whole else f'over {extent.files} files'}:"
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
