"""Where audit lines go: whole lines, in files that stay small, and nothing that is waited for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gexec.posix.log import Log
from gexec.posix.outlets import FileOutlet, StderrOutlet


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    fd = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    yield Log("test", fd)
    os.close(fd)


def test_a_file_is_renamed_at_its_size_and_so_many_are_kept(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "audit"
    outlet = FileOutlet(str(path), log, 100, 3)
    for number in range(50):
        outlet.put(b"%032d\n" % number, "exec", "")
    outlet.close()
    names = sorted(each.name for each in tmp_path.iterdir() if each.name != "log")
    assert names == ["audit", "audit.1", "audit.2", "audit.3"]
    lines = [line for name in reversed(names) for line in (tmp_path / name).read_text().split()]
    assert [int(line) for line in lines] == list(range(50 - len(lines), 50))
    assert all((tmp_path / name).stat().st_size <= 100 for name in names)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_there_counts_and_a_line_is_not_divided(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "audit"
    path.write_bytes(b"x" * 90 + b"\n")
    outlet = FileOutlet(str(path), log, 100, 1)
    outlet.put(b"y" * 200 + b"\n", "exec", "")
    outlet.put(b"z" * 200 + b"\n", "exec", "")
    outlet.close()
    assert path.read_bytes() == b"z" * 200 + b"\n"
    assert (tmp_path / "audit.1").read_bytes() == b"y" * 200 + b"\n"


def test_a_file_that_cannot_be_renamed_grows_and_the_log_has_the_reason(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "audit"
    (tmp_path / "audit.1" / "in the way").mkdir(parents=True)
    outlet = FileOutlet(str(path), log, 100, 1)
    for _ in range(10):
        outlet.put(b"x" * 60 + b"\n", "exec", "")
    outlet.close()
    assert path.read_bytes().count(b"\n") == 10
    assert "cannot be renamed, so it grows: Is a directory" in (tmp_path / "log").read_text()


@pytest.mark.root
def test_a_file_of_another_user_is_refused(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "audit"
    path.touch()
    os.chown(path, 12345, -1)
    outlet = FileOutlet(str(path), log, 0, 1)
    with pytest.raises(PermissionError, match="belongs to uid 12345"):
        outlet.put(b"x\n", "exec", "")


def test_a_fifo_without_a_reader_is_an_error_and_a_late_reader_gets_lines(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    outlet = FileOutlet(str(path), log, 0, 1)
    with pytest.raises(OSError, match="no program reads this FIFO"):
        outlet.put(b"one\n", "exec", "")
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    outlet.put(b"two\n", "exec", "")
    assert os.read(reading, 100) == b"two\n"
    os.close(reading)
    outlet.close()


def test_attack_113_a_reader_that_hangs_blocks_nobody_and_gets_whole_lines(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    outlet = FileOutlet(str(path), log, 0, 1)
    line = b"x" * 9000 + b"\n"
    refused = 0
    for _ in range(30):
        try:
            outlet.put(line, "exec", "")
        except BlockingIOError:
            refused += 1
    assert refused > 10
    assert outlet.is_behind  # more than PIPE_BUF: the kernel has taken a part
    raw = os.read(reading, 10**6)
    outlet.put(b"last\n", "exec", "")
    raw += os.read(reading, 10**6)
    assert set(raw.split(b"\n")) == {b"x" * 9000, b"last", b""}
    os.close(reading)
    outlet.close()


def test_a_line_that_is_not_complete_is_lost_with_its_file(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    outlet = FileOutlet(str(path), log, 0, 1)
    while not outlet.is_behind:
        outlet.put(b"x" * 9000 + b"\n", "exec", "")
    outlet.reopen()
    assert (outlet.lost, outlet.is_behind) == (1, False)
    outlet.close()
    os.close(reading)


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
def test_stderr_is_written_without_waiting(kind: str, tmp_path: Path) -> None:
    """In a child: a pipe or socket that nobody reads, and a file that somebody else writes to also."""
    import socket

    if kind == "pipe":
        reading, writing = os.pipe()
    elif kind == "socket":
        ours, theirs = socket.socketpair()
        reading, writing = ours.detach(), theirs.detach()
    else:
        reading = os.open(tmp_path / "err", os.O_CREAT | os.O_RDONLY)
        writing = os.open(tmp_path / "err", os.O_WRONLY)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.dup2(writing, 2)
            outlet = StderrOutlet()
            taken = 0
            for _ in range(1000):
                try:
                    outlet.put(b"line " * 199 + b"end!\n", "exec", "")
                    taken += 1
                except BlockingIOError:
                    break
            os.set_blocking(2, False)
            try:
                os.write(2, b"other\n")  # what else is written there comes after it
            except BlockingIOError:
                pass
            status = 0 if taken >= 8 and (taken < 1000) == (kind != "file") else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(writing)
    raw = b""
    while piece := os.read(reading, 65536):
        raw += piece
    os.close(reading)
    lines = raw.split(b"\n")
    assert set(lines[:-2]) == {b"line " * 199 + b"end!"}
