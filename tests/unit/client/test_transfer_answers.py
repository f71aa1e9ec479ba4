"""What receivers answer reaches the sender: joined for ensync, by ranks for --fetch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from descriptors import open_now
from file_streams import MTIME_NS, hand_made, meta, paths_with_contents, sent
from gexec.client.feed import Feed
from gexec.client.transfer import Fetched, Pushed
from gexec.files.answers import ListAnswer
from gexec.files.entries import File
from gexec.files.options import CopyOptions
from gexec.render.prefix import prefixes
from gexec.render.view import Prefixed
from gexec.wire.frames import STDOUT
from gexec.wire.outcome import exited, lost
from views import Loop, one

NAMES = [b"a", b"b", b"c"]
ALIVE = b"gexec-answer 2 alive\n"
REPORT = b"gexec-files 1 complete files=2 links=0 bytes=9 unchanged=1 failed=0\n"


class Sender:
    """Stands for a Feed: keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.is_stopped = False

    def tell(self, line: str) -> None:
        self.told.append(line)

    def stop(self) -> None:
        self.is_stopped = True


class Pushing:
    """A view of three receivers."""

    def __init__(self, ranks: tuple[int, ...] = (0, 1, 2)) -> None:
        self.view = Pushed(Prefixed(prefixes("host", NAMES, ()), len(NAMES)), len(NAMES))
        self.loop = Loop(self.view)
        self.sender = Sender()
        self.view.ask(self.sender, ranks)  # type: ignore[arg-type]

    @property
    def told(self) -> list[str]:
        return self.sender.told


def answer(number: int, lacks: int, doubts: int = 0, phase: int = 0) -> bytes:
    return ListAnswer(number, phase, lacks, doubts).line().encode() + b"\n"


# -- ensync -------------------------------------------------------------------------------------------


def test_the_sender_is_told_once_all_have_answered_what_all_of_them_lack() -> None:
    pushing = Pushing()
    pushing.loop.out(0, answer(0, 0b001, 0b100))
    pushing.loop.out(2, answer(0, 0b010))
    assert pushing.told == []
    pushing.loop.out(1, answer(0, 0b001))
    assert pushing.told == ["* 0.0 3 4\n"]
    pushing.loop.out(((0, 3),), answer(0, 0, phase=1))
    assert pushing.told[1:] == ["* 0.1 0 0\n"]
    assert pushing.loop.text[1] == b""


def test_equal_answers_come_merged_and_in_pieces_and_are_acknowledged() -> None:
    pushing = Pushing()
    data = ALIVE + answer(0, 5) + ALIVE + answer(1, 7)
    for at in range(0, len(data), 11):
        pushing.loop.out(((0, 3),), data[at : at + 11])
    assert pushing.told == ["* 0.0 5 0\n", "* 1.0 7 0\n"]
    assert [pushing.loop.taken[STDOUT, rank] for rank in range(3)] == [len(data)] * 3
    assert pushing.loop.text[1] == b""


def test_answers_and_what_is_shown_may_be_mixed() -> None:
    pushing = Pushing((0,))
    pushing.loop.out(0, b"update f\n" + answer(0, 1) + b"create g\n" + REPORT)
    pushing.loop.ended(0, exited(0))
    assert pushing.told == ["* 0.0 1 0\n"]
    assert pushing.loop.text[1] == b"a update f\na create g\n"
    assert pushing.view.reports[0] is not None


@pytest.mark.parametrize("how", ["ended", "lost", "withheld"])
def test_nobody_waits_for_ranks_that_have_ended(how: str) -> None:
    pushing = Pushing()
    pushing.loop.out(((0, 2),), answer(0, 1) + answer(1, 2))
    assert pushing.told == []
    if how == "withheld":
        pushing.view.withheld(one(2))
    else:
        pushing.loop.ended(2, exited(1) if how == "ended" else lost("the link"))
    assert pushing.told == ["* 0.0 1 0\n", "* 1.0 2 0\n"]
    pushing.loop.out(((0, 2),), answer(2, 4))
    assert pushing.told[2:] == ["* 2.0 4 0\n"]


def test_answers_of_ranks_that_were_not_asked_do_not_count() -> None:
    """A second job is of the ranks that were lost; what comes late of the first one is nothing."""
    pushing = Pushing()
    pushing.loop.out(((0, 2),), answer(0, 1))
    again = Sender()
    pushing.view.ask(again, (2,))  # type: ignore[arg-type]
    pushing.loop.out(0, answer(0, 7))
    assert again.told == []
    pushing.loop.out(2, answer(0, 2))
    assert (pushing.told, again.told) == ([], ["* 0.0 2 0\n"])


@pytest.mark.parametrize(
    "line", [b"gexec-answer 2 nonsense\n", b"gexec-answer 2 0.0 x 0\n", b"gexec-answer 9\n"]
)
def test_what_is_no_answer_is_shown(line: bytes) -> None:
    pushing = Pushing()
    pushing.loop.out(1, line)
    assert pushing.told == []
    assert pushing.loop.text[1] == b"b " + line


def test_one_destination_of_all_is_no_conflict() -> None:
    for into in (b"directory", b"name"):
        pushing = Pushing()
        pushing.loop.out(((0, 3),), b"gexec-answer 2 into " + into + b"\n" + answer(0, 1))
        assert (pushing.told, pushing.view.conflict, pushing.loop.text[1]) == (["* 0.0 1 0\n"], False, b"")


def test_a_directory_here_and_a_name_there_stop_the_sender_before_contents() -> None:
    pushing = Pushing()
    pushing.loop.out(((0, 2),), b"gexec-answer 2 into directory\n" + answer(0, 1))
    pushing.loop.out(2, b"gexec-answer 2 into name\n" + answer(0, 1))
    assert (pushing.told, pushing.sender.is_stopped, pushing.view.conflict) == ([], True, True)
    assert (pushing.view.into_directory, pushing.view.into_name) == ({0, 1}, {2})
    late = b"whatever they say now\n"
    pushing.loop.out(((0, 3),), late)
    pushing.loop.err(1, late)
    assert pushing.loop.text == {1: b"", 2: b""}
    assert pushing.loop.taken[STDOUT, 2] >= len(late)


def test_a_node_that_ends_before_it_answers_cannot_hide_a_conflict() -> None:
    pushing = Pushing()
    pushing.loop.out(0, b"gexec-answer 2 into directory\n" + answer(0, 1))
    pushing.loop.out(1, b"gexec-answer 2 into name\n" + answer(0, 1))
    pushing.loop.ended(2, exited(1))
    assert (pushing.told, pushing.sender.is_stopped) == ([], True)


# -- the sender beside the client ---------------------------------------------------------------------


def read_all(feed: Feed) -> bytes:
    with open(feed.fd, "rb", closefd=False) as file:
        return file.read()


def test_a_feed_sends_what_it_is_told_that_nodes_lack(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    feed = Feed(
        ["--asking", "--names=base", "--compress=never", "--", str(tmp_path / "a"), str(tmp_path / "b")]
    )
    feed.tell("* 0.0 2 0\n")
    stream = read_all(feed)
    assert paths_with_contents(stream) == [b"b"]
    assert feed.close() == 0


def test_a_feed_takes_answers_in_any_pieces_and_ignores_what_is_for_others(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    feed = Feed(["--asking", "--names=base", "--compress=never", "--", str(tmp_path / "a")])
    for piece in ("0-7 0.0 1 0\n", "nonsense\n\n* 5.0 1 0\n* 0", ".0 ", "0 0", "\n"):
        feed.tell(piece)
    assert paths_with_contents(read_all(feed)) == []
    assert feed.close() == 0


def test_a_feed_that_is_stopped_ends_without_contents_and_without_a_sentence(tmp_path: Path) -> None:
    before = open_now()
    (tmp_path / "a").write_bytes(b"contents of a file")
    feed = Feed(["--asking", "--names=base", "--compress=never", "--", str(tmp_path / "a")])
    feed.stop()
    stream = read_all(feed)
    assert stream.startswith(b"gexfiles")
    assert b"contents of a file" not in stream
    feed.stop()
    feed.tell("* 0.0 1 0\n")
    assert (feed.close(), feed.problems) == (0, [])
    assert open_now() == before


def test_a_feed_that_has_ended_may_be_told_more(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    feed = Feed(["--names=base", "--compress=never", "--", str(tmp_path / "a")])
    stream = read_all(feed)
    for _ in range(3):
        feed.tell("* 0.0 1 0\n")
    assert feed.close() == 0
    assert paths_with_contents(stream) == [b"a"]


# -- fetching -----------------------------------------------------------------------------------------


def test_each_rank_is_told_what_is_lacking_of_it(tmp_path: Path) -> None:
    told: list[bytes] = []
    view = Fetched(
        Prefixed(prefixes("host", NAMES, ()), len(NAMES)),
        str(tmp_path),
        NAMES,
        CopyOptions(make_parents=True, asks_digests=False),
        tell=told.append,
    )
    loop = Loop(view)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "f").write_bytes(b"here")
    (tmp_path / "b" / "f").chmod(0o644)
    os.utime(tmp_path / "b" / "f", ns=(1, MTIME_NS))
    entry = File(b"f", meta(), 4)
    stream = hand_made(entry, contents={b"f": b"here"}, asking=True)
    begin = hand_made(entry, asking=True, end=False)[: -(5 + 4 + 32)]  # without ListDone
    loop.out(((0, 3),), begin)
    assert sorted(told) == [b"0-0,2-2 0.0 1 0\n", b"1-1 0.0 0 0\n"]
    loop.out(((0, 1), (2, 3)), stream[len(begin) :])
    loop.out(1, hand_made(entry, asking=True)[len(begin) :])
    for rank in range(3):
        loop.ended(rank, exited(0))
    loop.finish()
    assert [report.files for report in view.reports if report is not None] == [1, 0, 1]
    assert [report.is_complete for report in view.reports if report is not None] == [True] * 3
    assert (tmp_path / "c" / "f").read_bytes() == b"here"
    assert view.problems == []


def test_senders_that_do_not_ask_are_told_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    told: list[bytes] = []
    shown = Prefixed(prefixes("host", NAMES, ()), len(NAMES))
    view = Fetched(shown, str(tmp_path), NAMES, CopyOptions(make_parents=True), tell=told.append)
    loop = Loop(view)
    loop.out(((0, 3),), sent(tmp_path / "f"))
    loop.finish()
    assert told == []
