"""Compares mode, owner and extended attributes of a node's entry with those that it will get."""

from __future__ import annotations

import stat

from gexec.files.attributes import FileAttributes
from gexec.files.options import WRITE
from gexec.files.owners import UNCHANGED

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from gexec.files.directories import Place
    from gexec.files.entries import Attributes, Meta
    from gexec.files.options import CopyOptions
    from gexec.files.owners import FileOwners

SET_ID = stat.S_ISUID | stat.S_ISGID


class Judge:
    """Compares metadata, as the options require.

    Attributes:
        owners, attributes: what entries get on this node.
    """

    __slots__ = ("_options", "attributes", "owners")

    def __init__(self, options: CopyOptions, owners: FileOwners) -> None:
        self._options = options
        self.owners = owners
        self.attributes = FileAttributes(owners, is_privileged=options.is_privileged)

    def extended(self, meta: Meta) -> Attributes | None:
        """Return the extended attributes that an entry gets, None if it keeps its own; RefusedError."""
        return self.attributes.wanted(meta) if self._options.keep_attributes else None

    def mode(self, meta: Meta) -> int:
        """Return the mode that a file gets."""
        return meta.mode if self._options.keep_set_id else meta.mode & ~SET_ID

    def differences(
        self, above: Place, name: bytes, meta: Meta, status: os.stat_result, *, is_directory: bool = False
    ) -> list[str]:
        """Return what is different: ``mode``, ``owner``, ``acl``, ``capabilities``, ``attributes``.

        A file that has its set-id bits already may keep them. Raises RefusedError for an owner that is not
        known here, and OSError.
        """
        found = []
        mode = stat.S_IMODE(status.st_mode)
        if mode != meta.mode and (is_directory or mode != self.mode(meta)):
            found.append("mode")
        if self.owner_differs(meta, status):
            found.append("owner")
        if self._options.keep_attributes:
            is_writing = self._options.task == WRITE
            found += self.attributes.differences(above.descriptor, name, meta, is_writing=is_writing)
        return found

    def owner_differs(self, meta: Meta, status: os.stat_result) -> bool:
        """True if owner or group is different; RefusedError as above."""
        uid, gid = self.owners.wanted(meta)
        return uid not in (UNCHANGED, status.st_uid) or gid not in (UNCHANGED, status.st_gid)
