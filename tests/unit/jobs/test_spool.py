"""The directories of background jobs: what is found, what expires, and what is not trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_records import record

from gexec.jobs import spool
from gexec.jobs.records import RankEnd
from gexec.posix import descendants
from gexec.wire.outcome import exited

JOB = "ab" * 16
UID = os.geteuid()


@pytest.fixture
def user(tmp_path: Path) -> Path:
    path = tmp_path / str(UID)
    path.mkdir(mode=0o700)
    return path


def made(user: Path, rank: int = 0, *, ended_s: float | None = None, is_kept: bool = False) -> Path:
    path = user / f"{JOB}.{rank}"
    path.mkdir()
    stat = descendants.stat_of(os.getpid())
    assert stat is not None
    keeper = [os.getpid(), stat.born] if is_kept else [2**22 + 5, 1]
    told = record(rank=rank, ranks=9, boot=spool.boot_id(), keeper=keeper, lease_s=100.0)
    (path / "job.json").write_bytes(told.encode())
    if ended_s is not None:
        (path / "end.json").write_bytes(RankEnd(exited(0), ended_s, (0, 0), expires_s=ended_s + 100).encode())
    return path


def opened(user: Path) -> int:
    return spool.open_user(str(user.parent), UID)


def test_ranks_are_found_in_order(user: Path) -> None:
    for rank in (2, 0):
        made(user, rank)
    (user / "else").mkdir()
    (user / f"{JOB}.01").mkdir()
    fd = opened(user)
    assert [place.rank for place in spool.places(fd)] == [0, 2]
    os.close(fd)


@pytest.mark.parametrize(
    "name", ["x", JOB, f"{JOB}.", f"{JOB}.-1", f"{JOB}.1.2", JOB.upper() + ".1", f"{JOB}.999999"]
)
def test_other_names_are_no_ranks(name: str) -> None:
    assert spool.parsed_place(name) is None


def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "12345").mkdir()
    with pytest.raises(OSError, match="does not belong to uid 12345"):
        spool.open_user(str(tmp_path), 12345)


def test_expired_ranks_go_and_others_stay(user: Path) -> None:
    made(user, 0, ended_s=1000.0)
    made(user, 1, ended_s=2000.0)
    made(user, 2, is_kept=True)
    fd = opened(user)
    count, total = spool.tidy(fd, 1101.0)
    os.close(fd)
    assert sorted(path.name[-1] for path in user.iterdir()) == ["1", "2"]
    assert (count, total) == (2, 2 * 65536)


def test_a_lost_rank_expires_with_its_directory(user: Path) -> None:
    os.utime(made(user, 0), (1000, 1000))
    half = user / f"{JOB}.5"
    half.mkdir()
    os.utime(half, (1000, 1000))
    fd = opened(user)
    assert spool.tidy(fd, 1099.0)[0] == 2
    assert spool.tidy(fd, 1101.0)[0] == 1
    assert spool.tidy(fd, 5000.0)[0] == 0
    os.close(fd)


def test_attack_135_links_pipes_and_large_files_are_not_read(user: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(record(job=JOB, rank=0).encode())
    path = made(user)
    fd = opened(user)
    place = spool.open_place(fd, JOB, 0)
    (path / "job.json").rename(path / "real")
    for make in (
        lambda: (path / "job.json").symlink_to(secret),
        lambda: os.mkfifo(path / "job.json"),
        lambda: (path / "job.json").mkdir(),
        lambda: (path / "job.json").write_bytes(b" " * 100_000),
    ):
        make()
        with pytest.raises(OSError, match=r"symbolic|not a file|larger"):
            place.record()
        (path / "job.json").rename(path / "old")
        (path / "old").rmdir() if (path / "old").is_dir() else (path / "old").unlink()
    place.close()
    os.close(fd)


def test_attack_135_a_linked_rank_is_not_entered(user: Path, tmp_path: Path) -> None:
    (user / f"{JOB}.3").symlink_to(tmp_path)
    fd = opened(user)
    assert list(spool.places(fd)) == []
    with pytest.raises(OSError, match=r"directory|symbolic"):
        spool.open_place(fd, JOB, 3)
    os.close(fd)


def test_a_rank_is_removed_with_all_its_files(user: Path) -> None:
    path = made(user, ended_s=1.0)
    (path / "stdout.0").write_bytes(b"x")
    fd = opened(user)
    place = spool.open_place(fd, JOB, 0)
    assert [segment.size for segment in place.segments(0)] == [1]
    assert place.kept_bytes() == 1
    spool.remove(fd, place)
    place.close()
    os.close(fd)
    assert list(user.iterdir()) == []
