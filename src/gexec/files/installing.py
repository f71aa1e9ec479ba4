"""Writes the entries of a stream."""

from __future__ import annotations

import os
import stat

from gexec.files.directories import Place, RefusedError, kind_of, open_below
from gexec.files.linking import OtherMountError
from gexec.files.notes import ATTRIBUTES as REFUSED
from gexec.files.notes import SET_ID as LEFT_OUT
from gexec.files.owners import UNCHANGED
from gexec.files.partial import Partial, Settings, keep_old, make_symlink, set_in_place
from gexec.files.survey import SET_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.files.entries import Directory, Entry, File, HardLink, Meta, Symlink
    from gexec.files.linking import Linker
    from gexec.files.notes import Notes
    from gexec.files.options import CopyOptions
    from gexec.files.owners import FileOwners
    from gexec.files.report import Report


class Installer:
    """Writes entries. Its methods raise RefusedError or OSError, and then the entry is unchanged.

    Args:
        options: what to do.
        owners: maps owners to those of this node.
        linker: makes hard links.
        report: counts what was done.
        notes: gets warnings.
    """

    def __init__(
        self, options: CopyOptions, owners: FileOwners, linker: Linker, report: Report, notes: Notes
    ) -> None:
        self._options = options
        self._owners = owners
        self._linker = linker
        self._report = report
        self._notes = notes

    def directory(self, above: Place, name: bytes, entry: Directory) -> Place:
        """Create the directory, or use the existing one; ``leave`` sets its owner, mode and mtime."""
        self._owners.wanted(entry.meta)
        try:
            os.mkdir(name, 0o700, dir_fd=above.descriptor)
            is_new = True
        except FileExistsError:
            is_new = False
        place = Place(entry.path, open_below(above.descriptor, name, to_read=True), above=above)
        assert place.status is not None
        try:
            if is_new:
                # Users who may write above it could have replaced it by a directory of theirs.
                if place.status.st_uid != os.geteuid() or os.listdir(place.descriptor):
                    raise RefusedError("the directory was replaced while it was created")
                self._report.directories += 1
            elif not above.guards(place.status) and self._is_given_away(place.status, entry.meta):
                raise RefusedError(
                    f"it belongs to uid {place.status.st_uid} here and would get another owner, where others "
                    "could replace it by another directory: change the owner by hand, or remove it first"
                )
            elif os.geteuid() and ~place.status.st_mode & stat.S_IRWXU:
                # Our own directory is read-only, perhaps from the stream: make it writable until ``leave``.
                os.fchmod(place.descriptor, stat.S_IMODE(place.status.st_mode) | stat.S_IRWXU)
        except BaseException:
            os.close(place.descriptor)
            raise
        place.meta = entry.meta
        return place

    def leave(self, place: Place) -> None:
        """Set owner, mode and mtime of a directory from the stream; no further entries follow in it."""
        if place.meta is None:
            return
        # A directory's set-id bits give no right.
        settings = self._settings(place.meta, place.meta.mode)
        descriptor = place.descriptor
        status = os.fstat(descriptor)
        if settings.uid != UNCHANGED and (status.st_uid, status.st_gid) != (settings.uid, settings.gid):
            os.fchown(descriptor, settings.uid, settings.gid)
        if settings.attributes is not None and attributes.differ(descriptor, settings.attributes):
            self._refused(place.path, attributes.apply(descriptor, settings.attributes))
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != settings.mode:
            os.fchmod(descriptor, settings.mode)
        if status.st_mtime_ns != settings.mtime_ns:
            os.utime(descriptor, ns=(settings.mtime_ns, settings.mtime_ns))
        if self._options.sync:
            os.fsync(descriptor)
