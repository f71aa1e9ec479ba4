"""Removes entries that a node must not have: through descriptors, following no links, within one mount.

An entry that cannot be removed is reported, and the others are removed. A directory stays if something stays
in it.
"""

from __future__ import annotations

import errno
import os
import stat

from gexec import limits
from gexec.files.directories import RefusedError, open_below
from gexec.files.flags import why_unchangeable
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container

_SUFFIX = b"~"


class RemovalRules:
    """What is removed, and who is told.

    Attributes:
        backup: files, links and special files are renamed to NAME~ instead, replacing an older NAME~.
            Names that end with ~ stay: they are earlier backups.
        is_protected: called with an entry's path and whether it is a directory; True: it stays, with all
            below it.
        is_own: called with an entry's status; True: it is the source itself, and stays with all below it.
        on_step: called before each entry; what it raises ends the removal.
        on_failure: called with an entry's path and one sentence.
    """

    __slots__ = ("backup", "is_own", "is_protected", "on_failure", "on_step")

    def __init__(
        self,
        *,
        on_failure: Callable[[bytes, str], None],
        backup: bool = False,
        is_protected: Callable[[bytes, bool], bool] | None = None,
        is_own: Callable[[os.stat_result], bool] | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> None:
        self.on_failure = on_failure
        self.backup = backup
        self.is_protected = is_protected
        self.is_own = is_own
        self.on_step = on_step


class Removed:
    """Counts of a removal.

    Attributes:
        removed: entries that are gone under their names, those in removed directories included.
        backed_up: those of them that are kept as NAME~.
        protected: entries that stay because they are protected; what is below them is not counted.
        earlier_backups: entries that stay because their names end with ~.
        own: entries that stay because they are the source itself.
        failed: entries that could not be removed, without the directories above them.
    """

    __slots__ = ("backed_up", "earlier_backups", "failed", "own", "protected", "removed")

    def __init__(self) -> None:
        self.removed = 0
        self.backed_up = 0
        self.protected = 0
        self.earlier_backups = 0
        self.own = 0
        self.failed = 0

    def add(self, other: Removed) -> None:
        """Add the counts of another removal."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def remove(
    above: int, name: bytes, path: bytes, rules: RemovalRules, *, copied: Container[bytes] = ()
) -> Removed:
    """Remove ``name`` in an open directory, and everything below it.

    Args:
        path: its path, for ``rules``.
        copied: names in this directory that a backup must not replace.

    Returns:
        What was done. Nothing if there is no such entry.
    """
    walk = _Removal(above, rules, copied)
    walk.entry(above, name, path, limits.ARCHIVE_DEPTH_MAX)
    return walk.counts


def count(above: int, name: bytes, path: bytes, rules: RemovalRules, *, at_most: int) -> int:
    """Return how many entries ``remove`` would remove, at most ``at_most + 1``. Removes and reports nothing.

    Entries that cannot be looked at, or could not be removed, may be counted.
    """
    walk = _Counting(above, rules, at_most)
    try:
        walk.entry(above, name, path, limits.ARCHIVE_DEPTH_MAX)
    except _EnoughError:
        pass
    return walk.counts.removed


class _EnoughError(Exception):
    pass


class _Walk:
    """Goes through an entry and all below it."""

    def __init__(self, above: int, rules: RemovalRules) -> None:
        self.rules = rules
        self.counts = Removed()
        self._mount = _mount(above)

    def entry(self, above: int, name: bytes, path: bytes, depth: int) -> bool:
        """Handle an entry; return True if nothing of it stays."""
        if self.rules.on_step is not None:
            self.rules.on_step()
        try:
            status = os.lstat(name, dir_fd=above)
            is_directory = stat.S_ISDIR(status.st_mode)
            if self._stays(name, path, status, is_directory=is_directory):
                return False
            if is_directory:
                descriptor, names = self._opened(above, name, depth)
            else:
                self.leaf(above, name, status)
                self.counts.removed += 1
                return not self.rules.backup  # its backup stays
        except (RefusedError, OSError) as error:
            return self._ended(above, name, path, error)
        try:
            if not self.below(descriptor, names, path, depth):
                return False
        finally:
            os.close(descriptor)
        try:
            self.emptied(above, name)
        except (RefusedError, OSError) as error:
            return self._ended(above, name, path, error)
        self.counts.removed += 1
        return True

    def leaf(self, above: int, name: bytes, status: os.stat_result) -> None:
        """Handle an entry that is not a directory; raises RefusedError or OSError."""
        raise NotImplementedError

    def emptied(self, above: int, name: bytes) -> None:
        """Handle a directory in which nothing stays; raises OSError."""
        raise NotImplementedError

    def failed(self, path: bytes, why: str) -> None:
        """Handle an entry that cannot be removed."""
        raise NotImplementedError

    def _stays(self, name: bytes, path: bytes, status: os.stat_result, *, is_directory: bool) -> bool:
        rules = self.rules
        if rules.is_own is not None and rules.is_own(status):
            self.counts.own += 1
            return True
        if rules.backup and name.endswith(_SUFFIX):
            self.counts.earlier_backups += 1
            return True
        if rules.is_protected is not None and rules.is_protected(path, is_directory):
            self.counts.protected += 1
            return True
        return False

    def below(self, descriptor: int, names: list[bytes], path: bytes, depth: int) -> bool:
        """Handle the entries of a directory; return True if nothing stays in it."""
        is_empty = True
        for name in names:
            if not self.entry(descriptor, name, path + b"/" + name, depth - 1):
                is_empty = False
        return is_empty

    def _opened(self, above: int, name: bytes, depth: int) -> tuple[int, list[bytes]]:
        if not depth:
            raise RefusedError("it is too deep to be removed: remove it by hand")
        descriptor = open_below(above, name, to_read=True)
        try:
            if _mount(descriptor) != self._mount:
                raise RefusedError("another file system is mounted there: it is not changed")
            return descriptor, sorted(map(os.fsencode, os.listdir(descriptor)))
        except BaseException:
            os.close(descriptor)
            raise

    def _ended(self, above: int, name: bytes, path: bytes, error: RefusedError | OSError) -> bool:
        if isinstance(error, FileNotFoundError):
            # Another process has removed it.
            return True
        self.failed(
            path, str(error) if isinstance(error, RefusedError) else why_unchangeable(above, name, error)
        )
        return False


class _Counting(_Walk):
    def __init__(self, above: int, rules: RemovalRules, at_most: int) -> None:
        super().__init__(above, rules)
        self._at_most = at_most

    def entry(self, above: int, name: bytes, path: bytes, depth: int) -> bool:
        is_gone = super().entry(above, name, path, depth)
        if self.counts.removed > self._at_most:
            raise _EnoughError
        return is_gone

    def leaf(self, above: int, name: bytes, status: os.stat_result) -> None:
        pass

    def emptied(self, above: int, name: bytes) -> None:
        pass

    def failed(self, path: bytes, why: str) -> None:
        pass


class _Removal(_Walk):
    def __init__(self, above: int, rules: RemovalRules, copied: Container[bytes]) -> None:
        super().__init__(above, rules)
        self._top = above
        self._copied = copied

    def leaf(self, above: int, name: bytes, status: os.stat_result) -> None:
        if self.rules.backup:
            self._back_up(above, name, status)
            self.counts.backed_up += 1
        else:
            os.unlink(name, dir_fd=above)

    def below(self, descriptor: int, names: list[bytes], path: bytes, depth: int) -> bool:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        # Our own directory that is read-only, perhaps from an earlier copy.
        is_closed = os.geteuid() != 0 and bool(~mode & stat.S_IRWXU)
        if is_closed:
            _set_mode(descriptor, mode | stat.S_IRWXU)
        is_empty = super().below(descriptor, names, path, depth)
        if is_closed and not is_empty:
            _set_mode(descriptor, mode)
        return is_empty

    def emptied(self, above: int, name: bytes) -> None:
        try:
            os.rmdir(name, dir_fd=above)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            raise RefusedError("something was created in it during the removal; copy again") from None

    def failed(self, path: bytes, why: str) -> None:
        self.counts.failed += 1
        self.rules.on_failure(path, why)

    def _back_up(self, above: int, name: bytes, status: os.stat_result) -> None:
        backup = name + _SUFFIX
        if above == self._top and backup in self._copied:
            raise RefusedError(f"its backup would replace {shown(backup)}, which was copied: rename one")
        try:
            old = os.lstat(backup, dir_fd=above)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise RefusedError("its name is too long for a backup, NAME~: rename or remove it") from None
        else:
            if stat.S_ISDIR(old.st_mode):
                raise RefusedError(f"its backup {shown(backup)} is a directory here: remove that first")
            if self.rules.is_own is not None and self.rules.is_own(old):
                raise RefusedError(f"its backup would replace {shown(backup)}, the source: rename one")
            if os.path.samestat(status, old):
                # Of two names of one file, rename would keep both.
                os.unlink(name, dir_fd=above)
                return
        os.rename(name, backup, src_dir_fd=above, dst_dir_fd=above)


def _set_mode(descriptor: int, mode: int) -> None:
    """Set the mode of a directory, if it is ours."""
    try:
        os.fchmod(descriptor, mode)
    except PermissionError:
        pass


def _mount(descriptor: int) -> str:
    """Return an open directory's mount id: a bind mount of the same file system has another one."""
    device = str(os.fstat(descriptor).st_dev)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("mnt_id:"):
                    return device + line
    except OSError:
        pass
    return device
