"""A receiver's options."""

from __future__ import annotations

import os

from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Write the entries; report only what would be written; report only differences.
WRITE, DRY_RUN, VERIFY = range(3)


class CopyOptions:
    """A receiver's options.

    Attributes:
        task: WRITE, DRY_RUN or VERIFY.
        make_parents: create missing directories above an entry, and the destination.
        delete: in the stream's directories, remove entries that are not in the stream, at its end, if nothing
            failed.
        backup: keep a replaced file as ``NAME~``.
        sync: flush each file to the disk before it gets its name, and each directory.
        keep_set_id: keep set-uid and set-gid bits.
        keep_owner: set owner and group; needs root.
        keep_attributes: set extended attributes, if the stream has them.
        is_privileged: this process may set all of them.
        asks_digests: where size is equal and mtime is not, ask for the digest before the contents.
        delete_max: with ``delete``: delete nothing if more entries would go; -1 = no limit.
        numeric_ids: by number, ignoring names.
        compare_content: a file of the same size has the same contents only if its digest is equal, also if
            the mtime is.
    """

    __slots__ = (
        "asks_digests",
        "backup",
        "compare_content",
        "delete",
        "delete_max",
        "is_privileged",
        "keep_attributes",
        "keep_owner",
        "keep_set_id",
        "make_parents",
        "numeric_ids",
        "sync",
        "task",
    )

    def __init__(
        self,
        *,
        task: int = WRITE,
        make_parents: bool = False,
        delete: bool = False,
        delete_max: int = -1,
        backup: bool = False,
        sync: bool = False,
        keep_set_id: bool = False,
        keep_owner: bool | None = None,
        keep_attributes: bool = True,
        numeric_ids: bool = False,
        compare_content: bool = False,
        asks_digests: bool = True,
    ) -> None:
        self.task = task
        self.make_parents = make_parents
        self.delete = delete
        self.delete_max = delete_max
        self.backup = backup
        self.sync = sync
        self.keep_set_id = keep_set_id
        self.is_privileged = os.geteuid() == 0
        self.keep_owner = self.is_privileged if keep_owner is None else keep_owner
        self.keep_attributes = keep_attributes
        self.numeric_ids = numeric_ids
        self.compare_content = compare_content
        self.asks_digests = asks_digests


def destination(text: str, env: Mapping[str, str]) -> str:
    """Return a destination with ``%h`` as this node's name, ``%n`` as the rank and ``%%`` as ``%``.

    Args:
        text: an absolute path, as the user gave it.
        env: the environment of a process that gexec started (GEXEC_NODE, GEXEC_MY_VNN).

    Raises:
        UsageError: the path is not absolute, has another ``%``, or a variable is missing or not a file name.
    """
    if not text.startswith("/") or "\0" in text:
        raise UsageError(f"the destination {text[:200]!r} is not an absolute path")
    pieces = []
    position = 0
    while (found := text.find("%", position)) >= 0:
        pieces.append(text[position:found])
        letter = text[found + 1 : found + 2]
        if letter == "%":
            pieces.append("%")
        elif letter == "h":
            pieces.append(_variable("GEXEC_NODE", env))
        elif letter == "n":
            pieces.append(_variable("GEXEC_MY_VNN", env))
        else:
            raise UsageError(
                f"the destination {text[:200]!r} has %{letter}: expected %h (node), %n (rank) or %%"
            )
        position = found + 2
    return "".join(pieces) + text[position:]


def _variable(name: str, env: Mapping[str, str]) -> str:
    value = env.get(name, "")
    if not value:
        raise UsageError(f"the destination needs {name}, which is not set: gexec did not start this process")
    if "/" in value or value in (".", "..") or "\0" in value:
        raise UsageError(f"{name} is {value[:200]!r}, which cannot be a part of the destination")
    return value
