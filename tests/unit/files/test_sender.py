"""The sender: lists ahead of contents, answers, digests, and files that change in between."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from file_contents import digest
from file_streams import Copying, Sent, events_of, paths_with_contents
from gexec import limits
from gexec.files import records, sender
from gexec.files.answers import ListAnswer
from gexec.files.decoder import ArchiveDecoder
from gexec.files.entries import Directory, File
from gexec.files.options import VERIFY, CopyOptions
from gexec.files.records import UNREADABLE, Contents, Digests, End, Event, FileBad, ListDone, Listed
from gexec.files.walking import Found

ALL = -1


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "s"
    source.mkdir()
    for name, content in (("a", b"aaa"), ("b", b"bbbb"), ("c", b"")):
        (source / name).write_bytes(content)
    return source


@pytest.fixture
def short_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of two entries."""
    monkeypatch.setattr(limits, "ARCHIVE_LIST_MAX", 2)


class Answering:
    """A sender whose answers are given by a function of the events so far; None: there is none yet."""

    def __init__(self, path: Path, answer: Callable[[list[Event]], ListAnswer | None]) -> None:
        self.events: list[Event] = []
        self.waits = 0
        self._answer = answer
        self.sent = Sent([path], answers=self._next)
        self._decoder = ArchiveDecoder(self.events.append)

    def chunks(self) -> Iterator[None]:
        """Send, and decode each chunk."""
        for chunk in self.sent.sender.chunks():
            self._decoder.feed(chunk)
            yield
        self._decoder.finish()

    def run(self) -> list[Event]:
        for _ in self.chunks():
            pass
        return self.events

    def _next(self) -> ListAnswer | None:
        answer = self._answer(self.events)
        if answer is None:
            self.waits += 1
            assert self.waits < 1000
        return answer


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events if not isinstance(event, records.Data)]


def listed(events: list[Event]) -> list[Listed]:
    return [event for event in events if isinstance(event, Listed)]


def in_order(*answers: ListAnswer | None) -> Callable[[list[Event]], ListAnswer | None]:
    left = deque(answers)
    return lambda events: left.popleft()


def test_without_answers_all_contents_follow_their_list(source: Path) -> None:
    sending = Sent([source])
    stream = b"".join(map(bytes, sending.sender.chunks()))
    assert kinds(events_of(stream)) == [
        "Listed", "Contents", "FileEnd", "Contents", "FileEnd", "Contents", "FileEnd", "ListDone", "End",
    ]  # fmt: skip
    assert paths_with_contents(stream) == [b"s/a", b"s/b", b"s/c"]
    assert (sending.sender.files, sending.sender.bytes, sending.sender.problems) == (3, 7, 0)


def test_only_what_is_lacking_is_sent(source: Path) -> None:
    # The directory has index 0.
    events = Answering(source, in_order(ListAnswer(0, 0, 0b0100, 0))).run()
    assert [event.index for event in events if isinstance(event, Contents)] == [2]
    assert kinds(events)[-2:] == ["ListDone", "End"]
    assert kinds(Answering(source, in_order(ListAnswer(0, 0, 0, 0))).run()) == ["Listed", "ListDone", "End"]


def test_indexes_that_are_no_files_are_not_sent(source: Path) -> None:
    events = Answering(source, in_order(ListAnswer(0, 0, (1 << 2000) - 1, 0))).run()
    assert [event.index for event in events if isinstance(event, Contents)] == [1, 2, 3]


def test_digests_are_only_of_what_is_doubted(source: Path) -> None:
    answers = in_order(ListAnswer(0, 0, 0b0010, 0b1100), ListAnswer(0, 1, 0b0100, 0))
    events = Answering(source, answers).run()
    [found] = [event for event in events if isinstance(event, Digests)]
    assert (found.number, found.digests) == (0, {2: digest(b"bbbb"), 3: digest(b"")})
    assert [event.index for event in events if isinstance(event, Contents)] == [1, 2]


def test_while_no_answer_comes_the_sender_says_that_it_waits(source: Path) -> None:
    answering = Answering(source, in_order(None, None, ListAnswer(0, 0, 0, 0)))
    chunks = b""
    for chunk in answering.sent.sender.chunks():
        chunks += bytes(chunk)
    waits = [
        number
        for number in range(len(chunks))
        if chunks.startswith(records.HEAD.pack(records.WAIT, 32), number)
    ]
    assert len(waits) == answering.waits == 2
    assert kinds(events_of(chunks)) == ["Listed", "ListDone", "End"]


def test_lists_go_ahead_of_contents_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_lists: None
) -> None:
    source = tmp_path / "many"
    source.mkdir()
    count = 2 * (limits.ARCHIVE_LISTS_MAX + 3) - 1
    for number in range(count):
        (source / f"{number:03}").write_bytes(b"x")
    ahead: list[int] = []

    def answer(events: list[Event]) -> ListAnswer:
        done = sum(isinstance(event, ListDone) for event in events)
        ahead.append(len(listed(events)) - done)
        return ListAnswer(done, 0, ALL & 3, 0)

    events = Answering(source, answer).run()
    assert max(ahead) == limits.ARCHIVE_LISTS_MAX
    assert [event.number for event in listed(events)] == list(range(limits.ARCHIVE_LISTS_MAX + 3))
    assert sum(isinstance(event, Contents) for event in events) == count


def test_answers_may_come_before_their_turn_and_for_lists_that_are_done(
    source: Path, short_lists: None
) -> None:
    answers = in_order(ListAnswer(1, 0, 0b10, 0), ListAnswer(77, 0, 3, 3), ListAnswer(0, 0, 0b10, 0))
    events = Answering(source, answers).run()
    assert kinds(events) == [
        "Listed", "Listed", "Contents", "FileEnd", "ListDone", "Contents", "FileEnd", "ListDone", "End",
    ]  # fmt: skip


def test_a_list_ends_at_its_limit_and_the_order_goes_on(tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    names = sorted(b"%04d" % number for number in range(limits.ARCHIVE_LIST_MAX + 7))
    for name in names:
        (source / os.fsdecode(name)).touch()
    stream = b"".join(map(bytes, Sent([source]).sender.chunks()))
    lists = listed(events_of(stream))
    assert [len(event.entries) for event in lists] == [limits.ARCHIVE_LIST_MAX, 8]
    paths = [entry.path for event in lists for entry in event.entries]
    assert paths == [b"many", *[b"many/" + name for name in names]]
    assert isinstance(lists[0].entries[0], Directory)
    assert len(paths_with_contents(stream)) == len(names)


def test_a_list_ends_at_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "s"
    source.mkdir()
    for number in range(10):
        (source / f"{number}{'x' * 200}").touch()
    monkeypatch.setattr(sender, "_LIST_BYTES", 600)
    stream = b"".join(map(bytes, Sent([source]).sender.chunks()))
    lists = listed(events_of(stream))
    assert len(lists) > 2
    assert sum(len(event.entries) for event in lists) == 11


def test_digests_without_contents(source: Path) -> None:
    stream = b"".join(map(bytes, Sent([source], digests_only=True).sender.chunks()))
    events = events_of(stream)
    assert kinds(events) == ["Listed", "Digests", "ListDone", "End"]
    [found] = [event for event in events if isinstance(event, Digests)]
    assert found.digests == {1: digest(b"aaa"), 2: digest(b"bbbb"), 3: digest(b"")}


# -- what changes -------------------------------------------------------------------------------------


def test_a_file_that_changed_since_it_was_listed_is_sent_as_it_is_now(source: Path) -> None:
    def answer(events: list[Event]) -> ListAnswer:
        (source / "b").write_bytes(b"longer than before")
        os.utime(source / "b", ns=(1, 12345))
        return ListAnswer(0, 0, 0b0100, 0)

    events = Answering(source, answer).run()
    entry = listed(events)[0].entries[2]
    [now] = [event for event in events if isinstance(event, Contents)]
    assert isinstance(entry, File)
    assert (entry.size, now.size, now.mtime_ns) == (4, 18, 12345)


@pytest.mark.parametrize("size", [5, 200_000])
def test_a_file_that_vanished_is_named_and_the_rest_is_sent(source: Path, size: int) -> None:
    (source / "b").write_bytes(b"x" * size)

    def answer(events: list[Event]) -> ListAnswer:
        (source / "b").unlink()
        return ListAnswer(0, 0, 0b1110, 0)

    answering = Answering(source, answer)
    events = answering.run()
    assert [event.index for event in events if isinstance(event, Contents)] == [1, 2, 3]
    [bad] = [event for event in events if isinstance(event, FileBad)]
    assert answering.sent.problems == [f"{source}/b: not sent: {bad.reason}"]
    [end] = [event for event in events if isinstance(event, End)]
    assert end.problems == answering.sent.sender.problems == 1


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_what_became_something_else_is_not_sent(source: Path, kind: str) -> None:
    def answer(events: list[Event]) -> ListAnswer:
        (source / "b").unlink()
        if kind == "link":
            (source / "b").symlink_to("/etc/passwd")
        elif kind == "directory":
            (source / "b").mkdir()
        else:
            os.mkfifo(source / "b")
        return ListAnswer(0, 0, 0b0100, 0)

    answering = Answering(source, answer)
    events = answering.run()
    assert kinds(events) == ["Listed", "Contents", "FileBad", "ListDone", "End"]
    assert len(answering.sent.problems) == 1


@pytest.mark.parametrize("change", ["contents", "time", "gone"])
def test_of_a_file_that_changed_there_is_no_digest_and_receivers_take_its_contents(
    source: Path, tmp_path: Path, change: str
) -> None:
    (tmp_path / "to").mkdir()
    Copying([source], [tmp_path / "to"]).run()
    os.utime(source / "b", ns=(1, 5))

    def vary(stream: bytes) -> None:
        if not copying.received[0].answers:
            return
        if change == "contents":
            (source / "b").write_bytes(b"BBBB")
            os.utime(source / "b", ns=(1, 7))
        elif change == "time":
            os.utime(source / "b", ns=(1, 6))
        else:
            (source / "b").unlink(missing_ok=True)

    copying = Copying([source], [tmp_path / "to"])
    copying.run(vary)
    events = events_of(copying.stream)
    assert [event.digests for event in events if isinstance(event, Digests)] == [{2: UNREADABLE}]
    [now] = [event for event in events if isinstance(event, Contents)]
    assert now.index == 2
    [received] = copying.received
    if change == "gone":
        assert (received.report.failed, len(copying.problems)) == (1, 1)
        assert (tmp_path / "to" / "s" / "b").read_bytes() == b"bbbb"
    else:
        assert (received.report.failed, copying.problems) == (0, [])
        assert (tmp_path / "to" / "s" / "b").read_bytes() == (source / "b").read_bytes()
        assert (tmp_path / "to" / "s" / "b").stat().st_mtime_ns == (source / "b").stat().st_mtime_ns


@pytest.mark.parametrize("asking", [False, True])
def test_a_file_that_cannot_be_read_is_reported_when_it_is_compared(
    source: Path, tmp_path: Path, asking: bool
) -> None:
    (tmp_path / "to").mkdir()
    Copying([source], [tmp_path / "to"]).run()

    def vanish(found: Found) -> None:
        if found.name == b"s/c":
            (source / "b").unlink()

    copying = Copying(
        [source],
        [tmp_path / "to"],
        CopyOptions(task=VERIFY),
        asking=asking,
        digests_only=True,
        on_found=vanish,
    )
    copying.run()
    [received] = copying.received
    assert (
        copying.problems == [f"{source}/b: not sent: it was removed during the copy"]
        or len(copying.problems) == 1
    )
    assert (received.report.failed, received.told) == (1, [])


def test_a_file_that_changed_since_it_was_listed_is_reported_when_it_is_compared(
    source: Path, tmp_path: Path
) -> None:
    (tmp_path / "to").mkdir()
    Copying([source], [tmp_path / "to"]).run()

    def change(stream: bytes) -> None:
        if copying.received[0].answers:
            (source / "b").write_bytes(b"longer")

    copying = Copying([source], [tmp_path / "to"], CopyOptions(task=VERIFY), digests_only=True)
    copying.run(change)
    [problem] = copying.problems
    assert problem.startswith(f"{source}/b: not sent: ")
    assert (copying.received[0].report.failed, copying.received[0].told) == (1, [])
