"""The directories of background jobs: SPOOL/UID/JOB.RANK. Reads and removes what keepers write.

Everything is opened below a descriptor of the directory above, without following links, and only files of the
directory's owner are read: who may change these directories cannot lead a reader elsewhere, or make it wait.
The callers have the rights of the directory's user (``cli.job`` takes them if it was started by root).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from functools import cache
from typing import Final

from gexec.errors import ProtocolError
from gexec.jobs import segments
from gexec.jobs.records import END_BYTES, RECORD_MAX_BYTES, RankEnd, RankRecord
from gexec.jobs.segments import Segment
from gexec.posix import descendants

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
RECORD: Final = "job.json"
END: Final = "end.json"
RESERVE: Final = "end.new"
CONTROL: Final = "control"
#: Entries of a directory that are looked at.
_ENTRIES_MAX: Final = 100_000
#: A directory without a record is removed when it is older: its keeper ended while it began.
_UNFINISHED_S: Final = 3600.0
_HEX: Final = frozenset("0123456789abcdef")


class RankPlace:
    """One rank's directory. The caller closes it.

    Attributes:
        fd: of the directory.
        job, rank: from its name.
        uid: its owner.
    """

    __slots__ = ("fd", "job", "rank", "uid")

    def __init__(self, fd: int, job: str, rank: int) -> None:
        self.fd = fd
        self.job = job
        self.rank = rank
        self.uid = os.fstat(fd).st_uid

    @property
    def name(self) -> str:
        """The directory's name."""
        return place_name(self.job, self.rank)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def open(self, name: str) -> int:
        """Open one of its files for reading; OSError: it is not there, or not a file of the owner."""
        fd = os.open(name, _FILE, dir_fd=self.fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != self.uid:
            os.close(fd)
            raise OSError(errno.EPERM, "not a file of the job's user")
        return fd

    def read(self, name: str, most: int) -> bytes:
        """Return a whole file of at most ``most`` bytes; OSError: it cannot be read, or is larger."""
        fd = self.open(name)
        try:
            raw = os.read(fd, most + 1)
        finally:
            os.close(fd)
        if len(raw) > most:
            raise OSError(errno.EFBIG, "larger than a keeper writes it")
        return raw

    def record(self) -> RankRecord:
        """Return its record. Raises OSError, ProtocolError: there is none that can be read."""
        record = RankRecord.decode(self.read(RECORD, RECORD_MAX_BYTES))
        if (record.job, record.rank) != (self.job, self.rank):
            raise ProtocolError("the record is another job's")
        return record

    def end(self) -> RankEnd | None:
        """Return how it ended; None: it has not, or that is not known."""
        try:
            return RankEnd.decode(self.read(END, END_BYTES))
        except (OSError, ProtocolError):
            return None

    def segments(self, stream: int) -> list[Segment]:
        """Return the segments of a stream, in order; 0 = stdout, 1 = stderr."""
        found = []
        for name in _names(self.fd):
            parsed = segments.parsed(name)
            if parsed is not None and parsed[0] == stream:
                try:
                    size = os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_size
                except OSError:
                    continue  # the keeper has just removed it
                found.append(Segment(parsed[1], size))
        return sorted(found)

    def kept_bytes(self) -> int:
        """Return how much of its output is on the disk."""
        found = 0
        for name in _names(self.fd):
            if segments.parsed(name) is not None:
                try:
                    found += os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_size
                except OSError:
                    pass  # the keeper has just removed it
        return found


def is_kept(record: RankRecord) -> bool:
    """Tell whether the keeper of a rank runs."""
    pid, born = record.keeper
    stat_ = descendants.stat_of(pid) if record.boot == boot_id() else None
    return stat_ is not None and stat_.born == born and stat_.state not in "ZX"


@cache
def boot_id() -> str:
    """Return the kernel's id of this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def place_name(job: str, rank: int) -> str:
    """Return the name of a rank's directory."""
    return f"{job}.{rank}"


def parsed_place(name: str) -> tuple[str, int] | None:
    """Return job id and rank of a directory's name; None if it is no rank's."""
    job, _, digits = name.partition(".")
    if len(job) != 32 or not _HEX.issuperset(job) or len(digits) > 5:
        return None
    if not (digits.isascii() and digits.isdigit()) or digits != str(int(digits)):
        return None
    return job, int(digits)


def open_user(spool: str, uid: int) -> int:
    """Open a user's directory; OSError: there is none, or it is another user's."""
    fd = os.open(f"{spool}/{uid}", _DIRECTORY)
    if os.fstat(fd).st_uid != uid:
        os.close(fd)
        raise OSError(errno.EPERM, f"{spool}/{uid} does not belong to uid {uid}")
    return fd


def users(spool: str) -> list[int]:
    """Return the uids that have a directory; OSError: the spool cannot be listed."""
    return sorted([int(name) for name in os.listdir(spool) if name.isascii() and name.isdigit()])


def places(user_fd: int) -> Iterator[RankPlace]:
    """Yield a user's ranks, one after the other; each is closed when the next one is wanted."""
    for name in sorted(_names(user_fd)):
        parsed = parsed_place(name)
        if parsed is None:
            continue
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=user_fd)
        except OSError:
            continue  # it has just been removed
        place = RankPlace(fd, *parsed)
        try:
            yield place
        finally:
            place.close()


def open_place(user_fd: int, job: str, rank: int) -> RankPlace:
    """Open a rank's directory; OSError: there is none. The caller closes it."""
    return RankPlace(os.open(place_name(job, rank), _DIRECTORY, dir_fd=user_fd), job, rank)


def size_of(place: RankPlace, now_s: float) -> int:
    """Return the bytes that a rank takes, or may take while it runs; -1: its lease is over.

    A rank that runs has no end of its lease; that of a lost one begins with the last change of its directory.
    ``now_s``: UNIX time.
    """
    end = place.end()
    if end is not None and not end.held:
        return place.kept_bytes() if now_s <= end.expires_s else -1
    try:
        record = place.record()
    except (OSError, ProtocolError):
        return 0 if now_s <= os.fstat(place.fd).st_mtime + _UNFINISHED_S else -1
    if is_kept(record):
        return 2 * record.keep_bytes
    return place.kept_bytes() if now_s <= os.fstat(place.fd).st_mtime + record.lease_s else -1


def remove(user_fd: int, place: RankPlace) -> None:
    """Remove a rank's directory. OSError: something in it or the directory cannot be removed."""
    names = _names(place.fd)
    # The record last: what is left without it is removed by ``tidy``, later.
    for name in sorted(names, key=lambda name: name == RECORD):
        try:
            os.unlink(name, dir_fd=place.fd)
        except FileNotFoundError:
            pass
    try:
        os.rmdir(place.name, dir_fd=user_fd)
    except FileNotFoundError:
        pass


def tidy(user_fd: int, now_s: float) -> tuple[int, int]:
    """Remove a user's ranks whose lease is over; return how many are left, and their bytes.

    A rank that runs counts with the bytes that it may keep.
    """
    count = total = 0
    for place in places(user_fd):
        size = size_of(place, now_s)
        if size < 0:
            try:
                remove(user_fd, place)
                continue
            except OSError:
                size = place.kept_bytes()  # it counts
        count += 1
        total += size
    return count, total


def _names(fd: int) -> list[str]:
    """Return the names in a directory, at most _ENTRIES_MAX."""
    found = []
    with os.scandir(fd) as entries:
        for entry in entries:
            found.append(entry.name)
            if len(found) >= _ENTRIES_MAX:
                break
    return found
