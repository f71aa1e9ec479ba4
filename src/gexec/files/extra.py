"""What a node must not have: entries that are not in the stream, and what is removed by name."""

from __future__ import annotations

import os
import stat

from gexec.files.deletion import RemovalRules, Removed, count, remove
from gexec.files.directories import RefusedError, reason
from gexec.files.entries import Directory
from gexec.files.options import VERIFY, WRITE
from gexec.files.partial import remove_stale_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.files.directories import Place, Tree
    from gexec.files.entries import Meta, Removal, StreamEntry
    from gexec.files.options import CopyOptions
    from gexec.files.report import Report


class Extra:
    """Collects extra entries of directories while they are open, and handles them at the end.

    Args:
        options: what to do.
        tree: of the destination.
        is_source: recognizes entries that are the sender's own.
        report: counts what is removed.
        note, fail: called with (path, sentence).
        tell: called with (word, path, details), where nothing is written.
        on_step: called for each entry.
    """

    def __init__(
        self,
        options: CopyOptions,
        tree: Tree,
        is_source: Callable[[Meta, os.stat_result], bool],
        report: Report,
        *,
        note: Callable[[bytes, str], None],
        fail: Callable[[bytes, str], None],
        tell: Callable[[str, bytes, str], None],
        on_step: Callable[[], None],
    ) -> None:
        self._options = options
        self._tree = tree
        self._is_source = is_source
        self._report = report
        self._note = note
        self._fail = fail
        self._tell = tell
        #: The root's name in the stream and here, where they differ.
        self._renamed = b"", b""
        #: (directory, its device and inode, its entries in the stream, those that are not)
        self._found: list[tuple[bytes, tuple[int, int], set[bytes], list[bytes]]] = []
        #: Directories and named files of the source, by inode.
        self._sources: dict[int, list[Meta]] = {}
        self._removed = Removed()
        self._rules = RemovalRules(
            on_failure=lambda path, why: fail(path, f"not deleted: {why}"),
            backup=options.backup,
            is_own=self._is_own,
            on_step=on_step,
        )

    def learn(self, entries: Sequence[StreamEntry]) -> None:
        """Remember which entries are the source itself: none of them is removed, whatever leads to them."""
        for entry in entries:
            if isinstance(entry, Directory) or b"/" not in entry.path:
                self._sources.setdefault(entry.meta.inode, []).append(entry.meta)

    def protect(self, lines: Sequence[bytes]) -> None:
        """Take the rules by which the sender left out entries: what they name here is no extra."""
        from gexec.files.patterns import Rules  # most streams have none

        rules = Rules.parse(lines)
        self._rules.is_protected = lambda path, is_directory: rules.excludes(
            self._renamed[0] + path[len(self._renamed[1]) :], is_directory
        )

    def rename(self, old: bytes, new: bytes) -> None:
        """The stream's only root has another name here."""
        self._renamed = old, new

    def note(self, place: Place) -> None:
        """Look for extra entries in a directory of the stream that is left; raises OSError."""
        if place.descriptor < 0 or place.meta is None:
            return
        present = {os.fsencode(name) for name in os.listdir(place.descriptor)}
        if self._options.task == WRITE:
            present -= remove_stale_below(place.descriptor, present)
        if place.names is None:
            return
        extra = present - place.names
        if extra:
            self._found.append((place.path, place.identity, place.names, sorted(extra)))

    def handle(self) -> None:
        """Remove or report the extra entries, if each directory is still the one that was looked at."""
        if self._options.task != WRITE:
            word = "extra" if self._options.task == VERIFY else "delete"
            for path, identity, _, names in self._found:
                above = self._tree.enter(path)
                for name in names:
                    if above.identity == identity and count(
                        above.descriptor, name, path + b"/" + name, self._rules, at_most=0
                    ):
                        self._tell(word, path + b"/" + name, "")
            return
        if not self._found:
            return
        if self._report.failed:
            self._note(b"", "nothing was deleted, because not everything arrived")
            return
        if self._is_too_much():
            return
        for path, identity, copied, names in self._found:
            self._clear(path, identity, copied, names)
        self._report.deleted += self._removed.removed
        if self._removed.own:
            self._note(b"", "what is the source itself was not deleted")

    def remove_named(self, above: Place, name: bytes, entry: Removal) -> None:
        """Remove a file, link or special file by its name; raises RefusedError or OSError."""
        if above.is_missing:
            return
        try:
            status = os.lstat(name, dir_fd=above.descriptor)
        except FileNotFoundError:
            self._report.unchanged += 1
            return
        if self._is_source(entry.meta, status):
            self._note(entry.path, "left alone, because it is this host's own file; remove it here by rm")
            self._report.unchanged += 1
        elif stat.S_ISDIR(status.st_mode):
            raise RefusedError("it is a directory; only files and links are removed")
        elif self._options.task != WRITE:
            self._tell("delete", entry.path, "")
        else:
            removed = remove(above.descriptor, name, entry.path, self._rules)
            self._report.deleted += removed.removed

    def _is_own(self, status: os.stat_result) -> bool:
        return any(self._is_source(meta, status) for meta in self._sources.get(status.st_ino, ()))

    def _is_too_much(self) -> bool:
        """Report it if more entries would go than the user permits."""
        most = self._options.delete_max
        if most < 0:
            return False
        total = 0
        for path, identity, _, names in self._found:
            above = self._tree.enter(path)
            for name in names if above.identity == identity else ():
                total += count(above.descriptor, name, path + b"/" + name, self._rules, at_most=most - total)
                if total > most:
                    self._fail(b"", f"nothing was deleted: more than {most} would go (--max-delete)")
                    return True
        return False

    def _clear(
        self, path: bytes, identity: tuple[int, int], copied: set[bytes], names: Sequence[bytes]
    ) -> None:
        try:
            above = self._tree.enter(path)
            if above.identity != identity or above.status is None:
                raise RefusedError("the directory was replaced during the copy")
            for name in names:
                below = path + b"/" + name
                self._removed.add(remove(above.descriptor, name, below, self._rules, copied=copied))
            mtime_ns = above.status.st_mtime_ns
            os.utime(b".", ns=(mtime_ns, mtime_ns), dir_fd=above.descriptor)
        except RefusedError as error:
            self._fail(path, f"nothing was deleted in it: {error}")
        except OSError as error:
            self._fail(path, f"not everything was deleted in it: {reason(error)}")
