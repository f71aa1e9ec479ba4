"""What is drawn of a run's progress, when, and how it goes away. On a real terminal, without any process."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from gexec.client.progress import AFTER_S, NAMED_MAX, Progress, fitting, wanted
from gexec.client.session import JobSession
from gexec.wire.outcome import exited, not_started


class Screen:
    """A terminal; ``new`` returns what was written to it since the last call."""

    def __init__(self) -> None:
        self._ours, self.fd = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def new(self) -> str:
        os.write(self.fd, b"\0")  # a terminal hands on in pieces what was written at once: read up to here
        written = bytearray()
        while not written.endswith(b"\0"):
            written += os.read(self._ours, 65536)
        return written[:-1].decode().replace("\r\n", "\n")

    def close(self) -> None:
        os.close(self._ours)
        os.close(self.fd)


@pytest.fixture
def screen() -> Iterator[Screen]:
    made = Screen()
    yield made
    made.close()


def session_of(ranks: int) -> JobSession:
    session = JobSession(ranks, 65536)
    session.started = ((0, ranks),)
    return session


def progress_of(screen: Screen, ranks: int, begin_s: float = 0.0) -> tuple[Progress, JobSession]:
    progress = Progress([b"node%d" % rank for rank in range(ranks)], begin_s, screen.fd)
    session = session_of(ranks)
    progress.watch(session, range(ranks))
    return progress, session


def test_nothing_is_drawn_in_the_first_second(screen: Screen) -> None:
    progress, _ = progress_of(screen, 3, begin_s=100.0)
    assert progress.due_s == 100.0 + AFTER_S
    progress.tick(100.0 + AFTER_S / 2, quiet=True)
    assert screen.new() == ""
    progress.tick(100.0 + AFTER_S, quiet=True)
    assert "0/3 done, 3 running, 1 s" in screen.new()


def test_it_is_not_drawn_while_a_line_is_unfinished_or_under_way(screen: Screen) -> None:
    progress, _ = progress_of(screen, 3)
    progress.tick(2.0, quiet=False)
    assert screen.new() == ""
    assert progress.due_s > 2.0


def test_what_was_drawn_is_erased_line_by_line_and_once(screen: Screen) -> None:
    progress, _ = progress_of(screen, 3)
    progress.tick(2.0, quiet=True)
    lines = screen.new().count("\n")
    assert lines == 2
    progress.erase()
    assert screen.new() == "\r" + "\x1b[1A\x1b[2K" * lines
    progress.erase()
    assert screen.new() == ""


def test_a_new_drawing_takes_the_place_of_the_one_before(screen: Screen) -> None:
    progress, session = progress_of(screen, 3)
    progress.tick(2.0, quiet=True)
    lines = screen.new().count("\n")
    session.outcomes = [exited(0), exited(1), None]
    progress.tick(3.0, quiet=True)
    drawn = screen.new()
    assert drawn.startswith("\r" + "\x1b[1A\x1b[2K" * lines)
    assert "2/3 done, 1 failed, 1 running, 3 s" in drawn
    assert "still running: node2" in drawn


def test_slow_nodes_are_named_when_they_are_few(screen: Screen) -> None:
    progress, session = progress_of(screen, NAMED_MAX + 1)
    progress.tick(2.0, quiet=True)
    assert "still running" not in screen.new()
    session.outcomes[0] = exited(0)
    progress.tick(3.0, quiet=True)
    assert f"still running: node[1-{NAMED_MAX}]" in screen.new()


def test_nodes_that_do_not_respond_are_counted_and_named(screen: Screen) -> None:
    progress, session = progress_of(screen, 30)
    session.quiet = {3, 4, 5, 9}
    progress.tick(AFTER_S, True)
    text = screen.new()
    assert "4 not responding" in text
    assert "not responding: node[3-5,9]" in text


def test_batches_count_together(screen: Screen) -> None:
    session = session_of(2)
    progress = Progress([b"a", b"b", b"c", b"d"], 0.0, screen.fd)
    progress.watch(session, [0, 1])
    session.outcomes = [exited(0), exited(3)]
    progress.watch(session_of(2), [2, 3])
    progress.tick(2.0, quiet=True)
    drawn = screen.new()
    assert "2/4 done, 1 failed, 2 running" in drawn
    assert "still running: c d" in drawn


def test_a_node_that_is_tried_again_counts_once(screen: Screen) -> None:
    progress, session = progress_of(screen, 3)
    session.outcomes = [exited(0), not_started("refused"), not_started("refused")]
    again = session_of(2)
    progress.watch(again, [1, 2])
    progress.tick(2.0, quiet=True)
    assert "1/3 done, 2 running" in screen.new()
    again.outcomes = [exited(0), not_started("refused")]
    progress.tick(3.0, quiet=True)
    assert "3/3 done, 1 failed, 0 running" in screen.new()


def test_names_cannot_steer_the_terminal(screen: Screen) -> None:
    progress = Progress(["\x9b2Jx".encode()], 0.0, screen.fd)
    progress.watch(session_of(1), [0])
    progress.tick(2.0, quiet=True)
    assert "\x9b" not in screen.new()


@pytest.mark.parametrize(("term", "expected"), [("xterm", True), ("dumb", False), (None, False)])
def test_it_is_wanted_on_terminals_that_can(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, term: str | None, expected: bool
) -> None:
    if term is None:
        monkeypatch.delenv("TERM", raising=False)
    else:
        monkeypatch.setenv("TERM", term)
    assert wanted(screen.fd) is expected


def test_it_is_not_wanted_without_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with (tmp_path / "file").open("wb") as file:
        assert not wanted(file.fileno())


def test_a_terminal_that_has_gone_is_left_alone() -> None:
    screen = Screen()
    ours = os.dup(screen.fd)
    screen.close()
    with open(ours, "wb", 0) as gone:
        progress = Progress([b"a"], 0.0, gone.fileno())
        progress.watch(session_of(1), [0])
        progress.tick(2.0, quiet=True)
        assert progress.due_s == float("inf")


@pytest.mark.parametrize("columns", [1, 20, 21, 30, 40, 50, 60, 80, 200])
def test_a_narrow_terminal_shows_whole_numbers_or_none(screen: Screen, columns: int) -> None:
    fcntl.ioctl(screen.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    progress, session = progress_of(screen, 1000)
    session.outcomes[0] = not_started("x")
    progress.measure(lambda: 123_456_789, lambda: 987_654_321)
    progress.tick(AFTER_S + 12, True)
    drawn = re.sub(r"\x1b\[[0-9;]*[A-Za-z]|[\u2500-\u257f]", "", screen.new())
    whole = ["117.7 MiB of 941.9 MiB", "1/1000 done", "1 failed", "999 running", "13 s"]
    parts = [part.strip() for line in drawn.splitlines() for part in line.split(",") if part.strip()]
    assert parts
    for part in parts:
        assert part in whole or part.endswith("MiB/s"), drawn
    if columns >= 80:
        assert parts[0] == whole[0]
        assert parts[2:] == whole[1:]


def test_parts_fall_away_whole_from_the_last() -> None:
    parts = ["12/1000 done", "3 failed", "13 s"]
    assert fitting(parts, 28) == "12/1000 done, 3 failed, 13 s"
    assert fitting(parts, 27) == fitting(parts, 22) == "12/1000 done, 3 failed"
    assert fitting(parts, 21) == "12/1000 done"
    assert fitting(parts, 11) == ""
