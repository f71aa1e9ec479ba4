"""Makes the entries of a stream from what a walk has found."""

from __future__ import annotations

import os
import stat

from gexec.files import walking
from gexec.files.attributes import TooManyAttributesError, portable
from gexec.files.attributes import read as read_attributes
from gexec.files.entries import Directory, File, HardLink, Meta, Removal, Skipped, Symlink
from gexec.files.identity import NetworkDevices
from gexec.files.linking import LinkFinder
from gexec.files.names import OwnerNames
from gexec.files.reading import is_unsized, may_be_unsized, unreadable
from gexec.files.walking import Found
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gexec.files.entries import StreamEntry


class Lister:
    """Makes entries.

    Args:
        keeps_attributes: with extended attributes.
        on_problem: called with a sentence for each entry that is not sent, or not as a whole.

    Attributes:
        problems: how many entries should be sent, and cannot be.
    """

    def __init__(self, *, keeps_attributes: bool, on_problem: Callable[[str], None]) -> None:
        self._keeps_attributes = keeps_attributes
        self._on_problem = on_problem
        self._is_privileged = os.geteuid() == 0
        self._names = OwnerNames()
        self._links = LinkFinder(on_problem)
        self._network = NetworkDevices()
        self._devices: set[int] = set()
        self._new_devices: set[int] = set()
        self.problems = 0

    def inspect(self, found: Found, path: bytes) -> None:
        """Fill in what a walk has to know of a file or directory while its directory is open."""
        if self._keeps_attributes:
            try:
                own = read_attributes(path, is_privileged=self._is_privileged)
                found.attributes = portable(own, self._names.user, self._names.group)
            except (OSError, TooManyAttributesError) as error:
                self.problems += 1
                why = unreadable(error) if isinstance(error, OSError) else str(error)
                self._on_problem(f"{shown(found.path)}: sent without its extended attributes: {why}")
        if found.kind == walking.FILE and found.status is not None and may_be_unsized(found.status):
            try:
                descriptor = os.open(path, walking.FILE_FLAGS)
            except OSError:
                return  # reported when its contents are needed
            try:
                found.is_unsized = is_unsized(found.status, descriptor)
            finally:
                os.close(descriptor)

    def entry(self, found: Found) -> StreamEntry | None:
        """Return its entry; None if it can only be reported. Reports what is not sent."""
        if found.kind == walking.SKIPPED:
            self._on_problem(found.problem)
            self.problems += bool(found.reason)
            return Skipped(found.name, self._meta(found), found.reason) if found.fits else None
        meta = self._meta(found)
        if found.kind == walking.DIRECTORY:
            return Directory(found.name, meta, is_whole=found.is_whole)
        if found.kind == walking.SYMLINK:
            return Symlink(found.name, meta, found.target)
        if found.kind == walking.REMOVAL:
            return Removal(found.name, meta)
        assert found.status is not None
        size = found.status.st_size
        first = self._links.first_of(found.status, found.name)
        if first is not None:
            return HardLink(found.name, meta, size, first)
        is_linked = self._links.is_remembered(found.status)
        return File(found.name, meta, size, is_unsized=found.is_unsized, is_linked=is_linked)

    def new_network_devices(self) -> list[tuple[int, bytes, bytes]]:
        """Return the devices of entries since the last call that are network file systems."""
        new, self._new_devices = self._new_devices, set()
        return [(device, *known) for device in sorted(new) for known in sorted(self._network.of(device))]

    def _meta(self, found: Found) -> Meta:
        status = found.status
        if status is None:
            return Meta(0, 0, 0, 0, b"", b"")
        if status.st_dev not in self._devices:
            self._devices.add(status.st_dev)
            self._new_devices.add(status.st_dev)
        return Meta(
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            self._names.user(status.st_uid),
            self._names.group(status.st_gid),
            attributes=found.attributes,
            device=status.st_dev,
            inode=status.st_ino,
        )
