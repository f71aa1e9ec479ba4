"""Copies through a captured inner relay: it can stop a copy, and nothing of what it alters is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from gexec.files import answers, records
from gexec.files.answers import ListAnswer
from gexec.files.entries import Removal, StreamEntry, Symlink
from gexec.files.records import NUMBER
from gexec.wire import frames, outcome
from gexec.wire.frames import Frame
from rogue_streams import RawRecord, StreamForger, with_contents, with_entries

from . import rogue
from .conftest import BIN, DEADLINE_S, Cluster
from .rogue_relay import InnerRelay

BELOW = ("node002", "node003")
ALTERED = b"the archive stream was altered on its way: its signature is wrong"
#: What is copied: path -> contents and mode.
FILES = {
    "a": (b"contents of a", 0o644),
    "b": (b"contents of b", 0o755),
    "c": (os.urandom(300_000), 0o600),
}

Alter = Callable[[RawRecord], Iterable[RawRecord]]


class Copied:
    """A copy of FILES to the rogue and, through it, to two nodes."""

    def __init__(self, cluster: Cluster, place: Path) -> None:
        self._cluster = cluster
        self._place = place
        self.source = place / "d"
        self.source.mkdir()
        for name, (content, mode) in FILES.items():
            (self.source / name).write_bytes(content)
            (self.source / name).chmod(mode)
        for node in BELOW:
            (place / "to" / node / "d").mkdir(parents=True)
            (place / "to" / node / "d/extra").write_bytes(b"of the node")
            (place / "to" / node / "d/a").write_bytes(b"older")

    def run(
        self,
        *words: str,
        down: Callable[[bytes], bytes | None] = lambda data: data,
        up: Callable[[Frame], Frame] = lambda frame: frame,
    ) -> subprocess.CompletedProcess[bytes]:
        """Copy, with options; return how ensync ended."""
        hosts = self._place / "hosts"
        with rogue.Listener(self._cluster, "rogue") as listener:
            known = {node.name: node.address for node in self._cluster.state.nodes} | {"rogue": listener.ip}
            hosts.write_text("".join(f"{address} {name}\n" for name, address in known.items()))
            relay = InnerRelay(self._cluster, listener, BELOW[0], down, up)
            serving = threading.Thread(target=relay.serve, daemon=True)
            serving.start()
            done = subprocess.run(
                [
                    sys.executable, BIN / "ensync", "-n", f"rogue:{listener.port},{','.join(BELOW)}", "-f1",
                    "--via=gexec", "--dest", f"{self._place}/to/%h/", *words, self.source,
                ],
                env=self._cluster.env | {"GEXEC_HOSTS": str(hosts)},
                stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S,
            )  # fmt: skip
            serving.join(DEADLINE_S)
            assert not serving.is_alive()
        return done

    def there(self, node: str) -> dict[str, tuple[bytes, int]]:
        """Return the files of a node: contents and mode."""
        top = self._place / "to" / node / "d"
        return {
            path.name: (path.read_bytes(), path.lstat().st_mode & 0o7777) for path in top.iterdir()
        }  # fmt: skip

    def check_unharmed(self) -> None:
        """Check that each node has only what it had, and what was really sent."""
        for node in BELOW:
            there = self.there(node)
            assert there.keys() <= FILES.keys() | {"extra"}
            assert there["extra"][0] == b"of the node"
            for name in there.keys() - {"extra"}:
                assert there[name] == FILES[name] or (name, there[name][0]) == ("a", b"older"), name


@pytest.fixture
def copied(cluster: Cluster, place: Path) -> Copied:
    return Copied(cluster, place)


@pytest.mark.parametrize("word", ["--compress=auto", "--compress=always"])
def test_a_relay_that_passes_everything_on_does_no_harm(copied: Copied, word: str) -> None:
    """Also one that takes the stream apart and puts it together again."""
    done = copied.run(word, "--delete", down=StreamForger(lambda record: [record]).feed)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    for node in BELOW:
        assert copied.there(node) == FILES


def in_list(change: Callable[[list[StreamEntry]], None]) -> Alter:
    """Return what changes the entries of lists."""
    return lambda record: [with_entries(record, change) if record[0] == records.LIST else record]


def _mode(entries: list[StreamEntry]) -> None:
    next(entry for entry in entries if entry.path == b"d/a").meta.mode = 0o4755


def _added(entries: list[StreamEntry]) -> None:
    entries.append(Symlink(b"d/z", entries[0].meta, b"/etc/shadow"))


def _dropped(entries: list[StreamEntry]) -> None:
    del entries[2]


def _renamed(entries: list[StreamEntry]) -> None:
    next(entry for entry in entries if entry.path == b"d/c").path = b"d/extra"


def _removal(entries: list[StreamEntry]) -> None:
    entries.append(Removal(b"d/extra", entries[0].meta))


def _exchanged(record: RawRecord) -> list[RawRecord]:
    a, b = FILES["a"][0], FILES["b"][0]
    return with_contents([record], {a: b, b: a})


def _list_again() -> Alter:
    lists = []

    def alter(record: RawRecord) -> list[RawRecord]:
        if record[0] == records.LIST:
            lists.append(record[1])
        elif record[0] == records.CONTENTS and len(lists) == 1:
            lists.append(b"")
            return [(records.LIST, NUMBER.pack(1) + lists[0][NUMBER.size :]), record]
        return [record]

    return alter


def _cut(kinds: tuple[int, ...], end: Iterable[RawRecord]) -> Alter:
    """Return what ends a stream before the first of some records."""
    is_over = False

    def alter(record: RawRecord) -> Iterable[RawRecord]:
        nonlocal is_over
        if is_over:
            return ()
        is_over = record[0] in kinds
        return end if is_over else [record]

    return alter


END = [(records.DONE, NUMBER.pack(0)), (records.END, records.PROBLEMS.pack(0))]
ALTERATIONS: dict[str, Callable[[], Alter]] = {
    "contents": lambda: lambda record: with_contents([record], {FILES["a"][0]: b"evil contents"}),
    "exchanged contents": lambda: _exchanged,
    "mode": lambda: in_list(_mode),
    "added": lambda: in_list(_added),
    "dropped": lambda: in_list(_dropped),
    "renamed": lambda: in_list(_renamed),
    "removal": lambda: in_list(_removal),
    "list again": _list_again,
    "early end": lambda: _cut((records.CONTENTS,), [*END, (records.SIGNATURE, bytes(64))]),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_attack_90_what_an_inner_relay_alters_is_not_installed(copied: Copied, name: str) -> None:
    forger = StreamForger(ALTERATIONS[name]())
    done = copied.run("--delete", "--setuid", down=forger.feed)
    copied.check_unharmed()
    assert done.returncode == 3, done.stderr
    assert ALTERED in done.stderr, done.stderr
    assert b"node002 node003" in done.stderr or b"node[002-003]" in done.stderr


@pytest.mark.parametrize("kind", [records.LIST, records.CONTENTS, records.END, records.SIGNATURE])
def test_attack_91_a_copy_that_is_cut_short_is_a_failure(copied: Copied, kind: int) -> None:
    is_over = False

    def alter(record: RawRecord) -> Iterable[RawRecord]:
        nonlocal is_over
        is_over = is_over or record[0] == kind
        return () if is_over else [record]

    forger = StreamForger(alter)
    done = copied.run("--delete", down=lambda data: forger.feed(data) or (None if is_over else b""))
    copied.check_unharmed()
    assert done.returncode == 3, done.stderr
    assert b"the stream ended too early" in done.stderr


@pytest.mark.parametrize(
    ("word", "told"), [("--delete", b"contents were not sent"), ("--checksum", b"digest was not")]
)
def test_attack_91_answers_that_are_forged_on_the_way_up(copied: Copied, word: str, told: bytes) -> None:
    """The relay reports that no node below it lacks anything: the nodes notice that nothing comes."""

    def satisfied(frame: Frame) -> Frame:
        if isinstance(frame, frames.Output) and frame.data.startswith(answers.MARK.encode()):
            [line, *rest] = frame.data.decode().split("\n")
            answer = answers.parse(line)
            if answer is not None:
                none = ListAnswer(answer.number, answer.phase, 0, 0).line().split(" ")
                widths = [len(part) for part in line.split(" ")]
                line = " ".join(part.rjust(width, "0") for part, width in zip(none, widths, strict=True))
                data = "\n".join([line, *rest]).encode()
                return frames.Output(frame.ranks, frame.stream, frame.offset, data)
        return frame

    if word == "--checksum":
        for node in BELOW:
            (copied.source.parent / "to" / node / "d/b").write_bytes(b"contents of x")
    done = copied.run(word, up=satisfied)
    assert done.returncode == 1, done.stderr
    assert told in done.stderr
    for node in BELOW:
        there = copied.there(node)
        assert there["extra"][0] == b"of the node"
        assert there["a"][0] == b"older"


def test_attack_91_what_an_inner_relay_reports_is_not_authenticated(copied: Copied) -> None:
    """Not guaranteed (docs/security.md): it may conceal the failures that it has caused."""

    def succeeded(frame: Frame) -> Frame:
        if isinstance(frame, frames.Ended):
            return frames.Ended(frame.ranks, outcome.exited(0), frame.stdout_length, frame.stderr_length)
        return frame

    forger = StreamForger(ALTERATIONS["contents"]())
    done = copied.run("--delete", down=forger.feed, up=succeeded)
    copied.check_unharmed()
    assert ALTERED in done.stderr  # it could have withheld this, too
    assert done.returncode == 0
