"""A receiver that is ended by TERM or HUP at any moment: no traceback, no part of a file, one sentence."""

from __future__ import annotations

import array
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from gexec.files import answers
from gexec.files.digest import ContentHash
from gexec.files.encoder import Encoder
from gexec.files.entries import Directory, File, Meta, packed_entry
from gexec.files.report import parse

from .conftest import DEADLINE_S, wait_until

BLOCK = 65536
SIZE = 4 * BLOCK
META = Meta(0o644, os.geteuid(), os.getegid(), 10**18, b"", b"")
SIGNALS = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])


@pytest.fixture
def place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="gxr", dir="/tmp"))
    yield place
    shutil.rmtree(place)


class Receiving:
    """A receiver of a stream that is given piece by piece."""

    def __init__(self, place: Path, *options: str) -> None:
        words = [sys.executable, "-I", "-m", "gexec.cli.receive", f"--dest={place}", *options]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self.encoder = Encoder()

    def give(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def line(self) -> str:
        """Wait for the next line on its stdout."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
        assert ready
        return self.process.stdout.readline().decode().rstrip("\n")

    def has_written(self) -> bool:
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def wait_reading(self) -> None:
        """Wait until it has taken all that was given, and waits for more."""

        def is_waiting() -> bool:
            state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            return state == "S" and self._left() == 0

        wait_until(is_waiting, "the receiver does not take its stream")

    def _left(self) -> int:
        """Return the bytes in its stdin."""
        assert self.process.stdin is not None
        count = array.array("i", [0])
        fcntl.ioctl(self.process.stdin, termios.FIONREAD, count)
        return count[0]

    def ended(self) -> tuple[int, list[str], list[str]]:
        """Wait for its end; return the status and the lines of stdout and stderr."""
        stdout, stderr = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, stdout.decode().splitlines(), stderr.decode().splitlines()


def preamble(receiving: Receiving, *entries: Directory | File, asking: bool = True) -> bytes:
    encoder = receiving.encoder
    return encoder.preamble(asking=asking) + encoder.list(0, map(packed_entry, entries))


def begun_file(receiving: Receiving, index: int) -> bytes:
    encoder = receiving.encoder
    return encoder.contents(index, SIZE, META.mtime_ns) + encoder.data(0, BLOCK) + b"x" * BLOCK


def whole_file(receiving: Receiving, index: int) -> bytes:
    hashed = ContentHash()
    content = b"y" * SIZE
    hashed.update(0, content)
    encoder = receiving.encoder
    data = encoder.contents(index, SIZE, META.mtime_ns) + encoder.data(0, SIZE) + content
    return data + encoder.file_end(hashed.finish(SIZE))


#: How far it is when the signal comes.
MOMENTS = ("nothing came", "preamble", "a part of the list", "list", "a file begun", "between files")


@SIGNALS
@pytest.mark.parametrize("moment", MOMENTS)
def test_at_any_moment_of_a_stream(place: Path, moment: str, signum: int) -> None:
    (place / "old").write_text("old")
    receiving = Receiving(place)
    pid = receiving.process.pid

    def has_handlers() -> bool:
        caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    wait_until(has_handlers, "the receiver does not run")
    entries = File(b"new", META, SIZE), File(b"old", META, SIZE)
    begin = preamble(receiving, *entries)
    if moment == "preamble":
        receiving.give(begin[:26])
    elif moment == "a part of the list":
        receiving.give(begin[:50])
    elif moment != "nothing came":
        receiving.give(begin)
        assert receiving.line() == f"{answers.MARK} 0.0 3 0"
    if moment == "a file begun":
        receiving.give(begun_file(receiving, 0))
    elif moment == "between files":
        receiving.give(whole_file(receiving, 0))
        wait_until((place / "new").exists, "the first file does not arrive")
    receiving.wait_reading()
    receiving.process.send_signal(signum)
    status, stdout, stderr = receiving.ended()
    assert stderr == [f"gexec-receive: ended by signal {int(signum)} before everything was done"]
    assert status == 3
    [line] = stdout
    report = parse(line)
    assert report is not None
    assert not report.is_complete
    assert (place / "old").read_text() == "old"
    assert sorted(os.listdir(place)) == (["new", "old"] if moment == "between files" else ["old"])


@SIGNALS
def test_while_a_large_file_is_read_for_its_digest(place: Path, signum: int) -> None:
    with (place / "f").open("wb") as file:
        for _ in range(64):
            file.write(b"x" * (1 << 20))
    os.utime(place / "f", ns=(1, 5))
    receiving = Receiving(place)
    receiving.give(preamble(receiving, File(b"f", META, 64 << 20)))
    folder = f"/proc/{receiving.process.pid}/fd"

    def is_reading() -> bool:
        return any(os.readlink(f"{folder}/{name}") == f"{place}/f" for name in os.listdir(folder))

    def reads_or_has_read() -> bool:
        try:
            return is_reading() or receiving.has_written()
        except FileNotFoundError:
            return False  # a descriptor that was just closed

    wait_until(reads_or_has_read, "the receiver does not read the file")
    receiving.process.send_signal(signum)
    status, _, stderr = receiving.ended()
    assert (status, stderr) == (
        3,
        [f"gexec-receive: ended by signal {int(signum)} before everything was done"],
    )
    assert ((place / "f").stat().st_mtime_ns, os.listdir(place)) == (5, ["f"])


@SIGNALS
def test_while_extra_entries_are_deleted_each_is_there_or_gone(place: Path, signum: int) -> None:
    (place / "d").mkdir()
    for number in range(30_000):
        os.mknod(place / "d" / str(number))
    receiving = Receiving(place, "--delete")
    encoder = receiving.encoder
    stream = preamble(receiving, Directory(b"d", Meta(0o755, META.uid, META.gid, 1, b"", b"")), asking=False)
    receiving.give(stream + encoder.done(0) + encoder.end(0))
    assert receiving.process.stdin is not None
    receiving.process.stdin.close()
    receiving.process.stdin = None
    begin = len(os.listdir(place / "d"))
    wait_until(lambda: len(os.listdir(place / "d")) < begin, "nothing is deleted")
    receiving.process.send_signal(signum)
    status, stdout, stderr = receiving.ended()
    report = parse(stdout[-1])
    assert report is not None
    left = len(os.listdir(place / "d"))
    if status:
        assert (status, report.is_complete) == (3, False)
        assert stderr == [f"gexec-receive: ended by signal {int(signum)} before everything was done"]
    else:  # it was quicker
        assert (left, report.deleted, stderr) == (0, 30_000, [])
