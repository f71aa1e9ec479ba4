"""The beginning of a rank's keeper: its directory, its record, and the start of its command."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from typing import Final

from gexec.jobs import spool
from gexec.jobs.keeper import Keeper, KeeperTerms, reserve, write_file
from gexec.jobs.records import RankRecord, clipped_command
from gexec.posix import descendants
from gexec.wire.launches import Keeping

_NEW: Final = "job.new"


class CannotBegin(Exception):
    """The rank is not started; the text is one sentence for the user."""


def begin(
    keeping: Keeping,
    job: str,
    rank: int,
    *,
    argv: list[bytes],
    cwd: bytes,
    terms: KeeperTerms,
    start: Callable[[tuple[int, int, int]], int],
    stdin: int,
    now_s: float,
) -> Keeper:
    """Return the keeper of a command that was started.

    Everything that may fail comes before the start: a command that runs is kept.

    Args:
        job: the job's id in hex.
        terms, start, stdin: see ``Keeper``.
        now_s: UNIX time.

    Raises:
        CannotBegin: the spool takes no more, or cannot be written to.
        Exception: what ``start`` raises.
    """
    place = None
    user_fd = -1
    try:
        user_fd = _user_directory(keeping.spool)
        _check_room(keeping, *spool.tidy(user_fd, now_s))
        os.mkdir(spool.place_name(job, rank), 0o700, dir_fd=user_fd)
        place = spool.open_place(user_fd, job, rank)
        fcntl.flock(place.fd, fcntl.LOCK_SH)  # systemd-tmpfiles leaves alone what is locked
        reserve(place)
        write_file(place, _NEW, _record(keeping, job, rank, argv, cwd, now_s).encode())
        os.rename(_NEW, spool.RECORD, src_dir_fd=place.fd, dst_dir_fd=place.fd)
        keeper = Keeper(place, terms, start, stdin)
    except OSError as error:
        _undo(user_fd, place)
        raise CannotBegin(f"spool {keeping.spool}/{os.geteuid()}: {error.strerror}") from error
    except BaseException:
        _undo(user_fd, place)
        raise
    os.close(user_fd)
    try:
        write_file(place, "pid", b"%d\n" % keeper.pid)
    except OSError:
        pass  # it is for people who look there
    return keeper


def _user_directory(path: str) -> int:
    uid = os.geteuid()
    try:
        return spool.open_user(path, uid)
    except FileNotFoundError:
        # Root's helper has made it, unless gexecd is an ordinary user's.
        os.mkdir(f"{path}/{uid}", 0o700)
        return spool.open_user(path, uid)


def _check_room(keeping: Keeping, count: int, kept_bytes: int) -> None:
    who = f"this node keeps {count} processes of background jobs of {keeping.user}"
    hint = "`gexecctl forget` removes those that have ended"
    if count >= keeping.jobs_max:
        raise CannotBegin(f"{who}: at most {keeping.jobs_max} (spool_jobs_max in gexecd.toml); {hint}")
    if kept_bytes + 2 * keeping.keep_bytes > keeping.bytes_max:
        mib = keeping.bytes_max // 1024 // 1024
        raise CannotBegin(
            f"{who}, with {kept_bytes // 1024 // 1024} MiB, and keeps at most {mib} MiB "
            f"(spool_max_mib in gexecd.toml); {hint}, --keep asks for less"
        )


def _record(keeping: Keeping, job: str, rank: int, argv: list[bytes], cwd: bytes, now_s: float) -> RankRecord:
    me = os.getpid()
    stat = descendants.stat_of(me)
    if stat is None:
        raise OSError(errno.ENOENT, "/proc cannot be read")
    return RankRecord(
        job=job,
        rank=rank,
        ranks=keeping.ranks,
        name=keeping.name,
        node=keeping.node,
        user=keeping.user,
        command=clipped_command(argv),
        cwd=os.fsdecode(cwd),
        started_s=now_s,
        boot=spool.boot_id(),
        keeper=[me, stat.born],
        lease_s=keeping.lease_s,
        keep_bytes=keeping.keep_bytes,
    )


def _undo(user_fd: int, place: spool.RankPlace | None) -> None:
    try:
        if place is not None:
            spool.remove(user_fd, place)
    except OSError:
        pass  # it is removed later: it has no record, or nobody keeps it
