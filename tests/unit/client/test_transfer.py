"""Copying and fetching without daemons: the words, the sender beside the client, the views, the loader."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from descriptors import open_now
from file_streams import MINE, Sent, hand_made, sent
from gexec.cli import send
from gexec.cli.ensync import ENSYNC, CopyTask
from gexec.cli.options import parse
from gexec.cli.table import check_combination
from gexec.client.feed import Feed
from gexec.client.transfer import Fetched, Pushed
from gexec.errors import UsageError
from gexec.files.decoder import ArchiveDecoder
from gexec.files.entries import File
from gexec.files.options import CopyOptions
from gexec.files.records import End, Event
from gexec.files.report import Report
from gexec.files.signatures import KEY_BYTES, StreamSigner, StreamVerifier
from gexec.render.prefix import prefixes
from gexec.render.sentences import LINE_MAX_BYTES, LINES_MAX, Sentences
from gexec.render.view import Prefixed
from gexec.ssh import loader
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import exited, killed
from views import Loop, one

DEADLINE_S = 60
NAMES = [b"a", b"b", b"c"]
REPORT = b"gexec-files 1 complete files=2 links=0 bytes=9 unchanged=1 failed=0\n"


def task(*words: object) -> CopyTask:
    parsed = parse("ensync", [*map(str, words)], ENSYNC.options, ENSYNC.options_anywhere)
    check_combination(parsed)
    return CopyTask(parsed)


# -- words --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no file"),
        (["--dest", "srv", "f"], "not an absolute path"),
        (["--dest", "/srv/%x", "f"], "has %x"),
        (["--relative", "f"], "needs --dest"),
        (["--checksum", "--dry-run", "f"], "neither writes anything"),
        (["--remove", "--delete", "/f"], "nothing is copied"),
        (["--remove", "f"], "expected an absolute path"),
        (["--remove", "/a/../f"], "without `.` and `..`"),
        (["--remove", "/"], "expected an absolute path"),
        (["--via", "rsh", "f"], "expected one of gexec, ssh, auto"),
        (["--via", "s", "--strict", "f"], "only gexecd can"),
        (["--via", "ssh", "--min-rate", "1k", "f"], "over ssh no node waits"),
        (["--bwlimit", "fast", "f"], "expected bytes"),
        (["--exclude=*.log", "dir"], "excludes nodes, not files"),
        (["dir", "--exclude", "node1,.git"], "excludes nodes, not files"),
        (["dir", "--exclude", "dir/cache"], "excludes nodes, not files"),
        (["--compress", "9", "f"], "expected one of auto, always, never"),
    ],
)
def test_words_that_make_no_sense_are_told_before_anything_is_done(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("(", r"\(")):
        task(*words)


def test_options_may_follow_files_until_two_dashes() -> None:
    asked = task("/etc/hosts", "--dest", "/x", "b", "--", "--delete", "-n")
    assert asked.paths == ["/etc/hosts", "b", "--delete", "-n"]
    assert asked.receiver == ["--dest=/x", "--target=directory"]


@pytest.mark.parametrize("names", ["node*", "node[1-3]", "*.example.org", "node1.lan", "10.0.0.1", "@rack/a"])
def test_what_names_nodes_may_be_excluded(names: str) -> None:
    assert task("--exclude", names, "f").paths == ["f"]


def test_words_for_sender_and_receivers() -> None:
    plain = task("/etc/hosts")
    assert (plain.receiver, plain.via, plain.ranked) == (["--dest=/"], "auto", False)
    assert plain.sender(by_ssh=False) == ["--names=full", "--compress=auto", "--asking", "--", "/etc/hosts"]
    words = ["--names=full", "--loader", "--compress=never", "--asking", "--", "/etc/hosts"]
    assert plain.sender(by_ssh=True) == words
    limited = task("--checksum", "--bwlimit=1k", "--no-xattrs", "-x", "f")
    words = ["--asking", "--no-xattrs", "--bwlimit=1024", "--digests", "--", "f"]
    assert limited.sender(by_ssh=False)[2:] == words
    assert limited.receiver == ["--dest=/", "--checksum", "--no-xattrs"]
    assert limited.compares


def test_a_destination_takes_the_last_part_of_each_path_unless_told_otherwise() -> None:
    assert task("--dest", "/srv", "f").names == "base"
    assert task("--dest", "/srv", "--relative", "f").names == "full"
    assert task("f").names == "full"
    words = ["--dest=/srv/%h", "--parents", "--target=either"]
    assert task("--dest", "/srv/%h", "--parents", "f").receiver == words
    assert not task("--dest", "/srv/%h%%n", "f").ranked
    assert task("--dest", "/srv/%n", "f").ranked


def test_strict_goes_through_gexecd_only() -> None:
    assert task("--strict", "f").via == "gexec"


# -- views --------------------------------------------------------------------------------------------


def pushed() -> tuple[Pushed, Loop]:
    view = Pushed(Prefixed(prefixes("host", NAMES, ()), len(NAMES)), len(NAMES))
    return view, Loop(view)


def test_reports_are_taken_and_the_rest_is_shown() -> None:
    view, loop = pushed()
    loop.out(((0, 2),), b"differs f\r: content\n" + REPORT[:30])
    loop.out(((0, 2),), REPORT[30:] + b"rest")
    loop.err(2, b"disk full\n")
    for rank in range(3):
        loop.ended(rank, exited(0))
    report = view.reports[0]
    assert isinstance(report, Report)
    assert (report.files, report.unchanged, report.bytes) == (2, 1, 9)
    assert view.reports[2] is None
    assert sorted(loop.text[1].split(b"\n")) == [
        b"a differs f\r: content",
        b"a rest",
        b"b differs f\r: content",
        b"b rest",
    ]
    assert loop.text[2] == b"c disk full\n"


def test_all_output_is_acknowledged() -> None:
    view, loop = pushed()
    data = b"one\rtwo\n" + REPORT + b"x" * 200_000 + b"\nlast"
    for start in range(0, len(data), 5000):
        loop.out(0, data[start : start + 5000])
    loop.ended(0, exited(1))
    loop.finish()
    assert loop.taken[STDOUT, 0] == len(data)
    assert loop.text[1] == b"a one\rtwo\na " + b"x" * 200_000 + b"\na last"
    assert view.reports[0] is not None


def test_a_rank_that_starts_once_more_continues_no_line() -> None:
    view, loop = pushed()
    loop.started(one(1))
    loop.out(1, REPORT[:20])
    loop.started(one(1))
    loop.out(1, REPORT)
    loop.ended(1, exited(0))
    assert view.reports[1] is not None
    assert loop.text[1] == b""


def sentences(*, neutral: bool = False) -> Loop:
    def line_for_all(rank: int, line: bytes) -> bytes:
        return line.replace(NAMES[rank], b"%h", 1)

    shown = Prefixed(prefixes("host", NAMES, ()), len(NAMES))
    return Loop(Sentences(shown, NAMES, line_for_all if neutral else None))


def test_equal_sentences_are_one_line_with_the_names_however_they_come() -> None:
    loop = sentences()
    loop.err(((0, 2),), b"the disk ")
    loop.err(((0, 2),), b"is full\nalone")
    loop.err(2, b"the disk is full\n")
    loop.out(1, b"output\n")
    loop.ended(((0, 3),), exited(1))
    assert loop.text == {1: b"b output\n", 2: b""}
    loop.finish()
    assert loop.text[2] == b"a b c the disk is full\na b alone\n"
    assert loop.taken[STDERR, 0] == loop.taken[STDERR, 1] == 22


def test_what_differs_only_in_the_nodes_name_is_one_line() -> None:
    loop = sentences(neutral=True)
    for rank, name in enumerate(NAMES):
        loop.err(rank, b"/to/%s: full\n" % name)
    loop.err(1, b"/to/b: odd\n")
    loop.finish()
    assert loop.text[2] == b"a b c /to/%h: full\nb /to/b: odd\n"


def test_sentences_without_end_are_passed_on_and_all_is_acknowledged() -> None:
    loop = sentences()
    for number in range(LINES_MAX + 3):
        loop.err(0, b"%d\n" % number)
    assert loop.text[2] == b"".join(b"a %d\n" % number for number in range(LINES_MAX, LINES_MAX + 3))
    data = b"x" * (LINE_MAX_BYTES + 1)
    loop.err(1, data)
    loop.err(1, b"y")
    loop.finish()
    assert loop.taken[STDERR, 1] == len(data) + 1
    assert b"b " + data + b"\n" in loop.text[2]


def fetched(folder: Path, *names: bytes) -> tuple[Fetched, Loop]:
    view = Fetched(
        Prefixed(prefixes("host", names, ()), len(names)), str(folder), names, CopyOptions(make_parents=True)
    )
    return view, Loop(view)


def test_each_nodes_files_come_into_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    data = sent(tmp_path / "f")
    view, loop = fetched(tmp_path, b"n1", b"n2", b"n1")
    for start in range(0, len(data), 7):
        loop.out(((0, 3),), data[start : start + 7])
    for rank in range(3):
        loop.ended(rank, exited(0))
    loop.finish()
    found = {path.parent.name: path.read_bytes() for path in tmp_path.glob("*/f")}
    assert found == {"n1@0": b"content", "n2": b"content", "n1@2": b"content"}
    assert [report.is_complete for report in view.reports if report] == [True] * 3
    assert view.bytes == 3 * len(data)
    assert loop.taken[STDOUT, 2] == len(data)
    assert not view.problems


def entry(path: bytes) -> bytes:
    """Return a stream of one file, with a path that no sender of ours would send."""
    return hand_made(File(path, MINE, 0), contents={path: b""})


@pytest.mark.parametrize("path", [b"../f", b"/f", b"a//f", b"."])
def test_a_hostile_stream_stays_below_its_folder_and_ends_only_itself(tmp_path: Path, path: bytes) -> None:
    (tmp_path / "f").write_bytes(b"mine")
    (tmp_path / "to").mkdir()
    view, loop = fetched(tmp_path / "to", b"evil", b"good")
    good = sent(tmp_path / "f")
    loop.out(0, entry(path))
    loop.out(1, good[:40])
    loop.out(0, b"more" * 1000)
    loop.out(1, good[40:])
    for rank in range(2):
        loop.ended(rank, exited(0))
    loop.finish()
    assert sorted(tmp_path.rglob("*f")) == [tmp_path / "f", tmp_path / "to" / "good" / "f"]
    assert (tmp_path / "f").read_bytes() == b"mine"
    assert len(view.problems) == 1
    assert view.problems[0].startswith("evil: ")
    assert view.reports[0] is not None
    assert not view.reports[0].is_complete


def test_a_folder_that_cannot_be_made_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "n1").symlink_to(tmp_path)
    view, loop = fetched(tmp_path, b"n1")
    loop.out(0, b"gexfiles")
    assert "is a symbolic link" in view.error
    loop.out(0, b"more")
    assert loop.taken[STDOUT, 0] == 12
    loop.ended(0, killed(15))
    loop.finish()


def test_what_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 300_000)
    _, loop = fetched(tmp_path, b"n1")
    loop.out(0, sent(tmp_path / "f")[:200_000])
    loop.finish()
    assert list((tmp_path / "n1").iterdir()) == []


# -- the sender beside the client -----------------------------------------------------------------------


def test_a_feed_sends_and_tells_its_problems(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    feed = Feed(["--names=base", "--compress=never", "--", str(tmp_path / "f"), str(tmp_path / "none")])
    with open(feed.fd, "rb", closefd=False) as file:
        data = file.read()
    assert b"content" in data
    assert feed.bytes_read() >= 0
    assert feed.close() == 1
    assert feed.problems == [f"{tmp_path}/none: not sent: there is no such file"]


def test_a_feed_signs_with_the_key_that_it_is_given_and_nobody_sees_it(tmp_path: Path) -> None:
    secret = os.urandom(KEY_BYTES)
    (tmp_path / "f").write_bytes(os.urandom(1 << 22))
    open_before = open_now()
    feed = Feed(["--names=base", "--", str(tmp_path / "f")], secret)
    process = Path(f"/proc/{feed._pid}")
    seen = process.joinpath("cmdline").read_bytes() + process.joinpath("environ").read_bytes()
    assert secret not in seen
    assert secret.hex().encode() not in seen
    events: list[Event] = []
    decoder = ArchiveDecoder(events.append, StreamVerifier(StreamSigner(secret).public))
    with open(feed.fd, "rb", closefd=False) as file:
        decoder.feed(file.read())
    decoder.finish()
    assert isinstance(events[-1], End)
    assert feed.close() == 0
    assert open_now() == open_before


def test_a_feed_that_nobody_reads_is_ended(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(1 << 20))
    feed = Feed(["--bwlimit=1", "--", str(tmp_path / "f")])
    assert os.read(feed.fd, 1)
    assert feed.close() == 0
    assert feed.problems == []


def test_a_feed_does_not_take_modules_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gexec.py").write_text("raise SystemExit(77)")
    monkeypatch.chdir(tmp_path)
    feed = Feed(["--", str(tmp_path / "gexec.py")])
    with open(feed.fd, "rb", closefd=False) as file:
        assert file.read().startswith(b"gexfiles")
    assert feed.close() == 0


def test_a_feed_is_no_business_of_the_terminals_signals(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(1 << 22))
    feed = Feed(["--", str(tmp_path / "f")])
    assert os.getpgid(feed._pid) != os.getpgrp()
    feed.close()


class Clock:
    """Time that passes only where somebody waits for it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.written: list[tuple[float, int]] = []

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, wait_s: float) -> None:
        self.now_s += max(0.0, wait_s)

    def write(self, data: memoryview) -> None:
        self.written.append((self.now_s, len(data)))


def test_bwlimit_spreads_the_stream_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(os.urandom(300_000))
    clock = Clock()
    monkeypatch.setattr(send, "time", clock)
    monkeypatch.setattr(send, "_wait", clock.wait)
    monkeypatch.setattr(send, "_write_all", clock.write)
    send._send(Sent([tmp_path / "f"]).sender, 10_000)
    total = 0
    for at_s, count in clock.written:
        total += count
        assert total <= at_s * 10_000 + 10_000
    assert total > 300_000
    assert 29 <= clock.now_s <= 32


def test_a_sender_that_waits_notices_that_nobody_reads(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(100_000))
    words = [sys.executable, "-I", "-m", "gexec.cli.send", "--bwlimit=1", str(tmp_path / "f")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sender:
        assert sender.stdout is not None
        sender.stdout.read(1)
        sender.stdout.close()
        assert sender.wait(DEADLINE_S) == 3


def test_a_sender_says_only_so_much(tmp_path: Path) -> None:
    feed = Feed(["--", *[f"{tmp_path}/none{number}" for number in range(200)]])
    with open(feed.fd, "rb", closefd=False) as file:
        file.read()
    assert feed.close() == 1
    assert len(feed.problems) == 51
    assert feed.problems[-1] == "and 150 sentences more"


# -- the loader ---------------------------------------------------------------------------------------


def run_loader(data: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    _, *words = loader.words(options)
    # -S: without the folder that gexec is installed in.
    command = [sys.executable, "-S", *words]
    return subprocess.run(
        command, input=data, capture_output=True, timeout=DEADLINE_S, env={"GEXEC_NODE": "n1"}, cwd="/"
    )


def test_the_loader_is_all_that_a_receiver_needs(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    probe = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import gexec"], capture_output=True, timeout=DEADLINE_S, cwd="/"
    )
    assert probe.returncode != 0, "gexec is there in any case: this test shows nothing"
    data = loader.archive() + sent(tmp_path / "f")
    words = [f"--dest={tmp_path}/to/%h", "--parents", "--backup", "--sync"]
    done = run_loader(data, *words)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"gexec-files 1 complete files=1 ")
    assert (tmp_path / "to" / "n1" / "f").read_bytes() == b"content"
    done = run_loader(data, f"--dest={tmp_path}/to/%h", "--delete", "--checksum")
    assert (done.returncode, done.stderr) == (0, b"")
    done = run_loader(data, "--dest=relative")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


def test_a_loader_that_is_cut_off_says_that_it_is_incomplete() -> None:
    whole = loader.archive()
    for length in (0, 3, 8, len(whole) - 1):
        assert run_loader(whole[:length]).returncode == 3
    done = run_loader(whole)
    assert done.returncode == 3
    assert b"too early" in done.stderr


def test_the_loader_holds_no_more_than_it_must() -> None:
    assert len(loader.archive()) < 200_000
    assert all(len(word) < 1000 for word in loader.words([]))


def test_a_feed_for_ssh_begins_with_the_loader(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    feed = Feed(task(tmp_path / "f").sender(by_ssh=True))
    begin = loader.archive() + b"gexfiles"
    with open(feed.fd, "rb", closefd=False) as file:
        assert file.read(len(begin)) == begin
    assert feed.close() == 0


def test_a_feed_that_was_killed_is_no_failure_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(1 << 22))
    feed = Feed(["--", str(tmp_path / "f")])
    os.kill(feed._pid, signal.SIGKILL)
    assert feed.close() == 0
