"""The renderers agree: whatever comes, in whatever pieces, each gives back the same bytes of each rank."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gexec.client.outdir import OutputDir
from gexec.render.gather import Gathered
from gexec.render.jsonl import Jsonl
from gexec.render.part import Part
from gexec.render.prefix import prefixes, styled
from gexec.render.quiet import Quiet
from gexec.render.tee import Tee
from gexec.render.view import Prefixed, View
from gexec.wire import ranks as sets
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import Outcome, exited, killed, lost
from views import Loop

NAMES = [b"a", b"b", b"c", b"d"]
RANKS = range(len(NAMES))

#: The same few pieces again and again, so that ranks often say the same; a dash would look like a heading.
chunks = st.one_of(
    st.sampled_from([b"x", b"\n", b"line\n", b"a\nb", b"\xe2\x82", b"\xac", b"\0", b"y" * 70_000]),
    st.binary(max_size=20).map(lambda data: data.replace(b"-", b"_")),
)
said = st.lists(
    st.tuples(st.sets(st.sampled_from(RANKS), min_size=1), st.sampled_from([STDOUT, STDOUT, STDERR]), chunks),
    max_size=25,
)
outcomes = st.lists(
    st.sampled_from([exited(0), exited(0), exited(3), killed(9), lost("gone")]),
    min_size=len(NAMES),
    max_size=len(NAMES),
)

Said = list[tuple[set[int], int, bytes]]
Streams = dict[tuple[int, int], bytes]


def played(view: View, events: Said, ends: list[Outcome], place: Callable[[int], int] = int) -> Loop:
    """Tell a view all of it; ``place`` is where a rank stands in the view's job."""
    loop = Loop(view)
    loop.started(((0, len(NAMES)),))
    for ranks, stream, data in events:
        loop.out(sets.of([place(rank) for rank in ranks]), data, stream)
    for rank, outcome in enumerate(ends):
        loop.ended(place(rank), outcome)
    loop.finish()
    return loop


def wanted(events: Said) -> Streams:
    streams = {(rank, stream): b"" for rank in RANKS for stream in (STDOUT, STDERR)}
    for ranks, stream, data in events:
        for rank in ranks:
            streams[rank, stream] += data
    return streams


def ended(data: bytes) -> bytes:
    """Return data as the renderers for people leave it: a last line gets its newline."""
    return data + b"\n" if data and not data.endswith(b"\n") else data


def from_lines(loop: Loop) -> Streams:
    streams = {(rank, stream): b"" for rank in RANKS for stream in (STDOUT, STDERR)}
    for stream, text in loop.text.items():
        for line in _lines(ended(text)):
            rank, _, rest = line.partition(b" ")
            streams[int(rank), stream] += rest
    return streams


def _lines(text: bytes) -> list[bytes]:
    return [line + b"\n" for line in text.split(b"\n")[:-1]]


def from_json(loop: Loop) -> Streams:
    streams = {(rank, stream): b"" for rank in RANKS for stream in (STDOUT, STDERR)}
    for line in _lines(loop.text[1]):
        event = json.loads(line)
        stream = {"stdout": STDOUT, "stderr": STDERR}.get(event["event"])
        if stream is not None:
            assert event["offset"] == len(streams[event["rank"], stream])
            content = event["text"].encode() if "text" in event else base64.b64decode(event["base64"])
            streams[event["rank"], stream] += content + b"\n" * event["newline"]
    return streams


def from_groups(loop: Loop) -> tuple[Streams, dict[int, str]]:
    streams = {(rank, stream): b"" for rank in RANKS for stream in (STDOUT, STDERR)}
    words: dict[int, str] = {}
    for stream, text in loop.text.items():
        members: list[int] = []
        for line in _lines(text):
            if line.startswith(b"--- "):
                names, _, rest = line[4:-1].partition(b" (")
                count, _, word = rest.partition(b")")
                members = [NAMES.index(name) for name in names.split(b",")]
                assert len(members) == int(count)
                words.update(dict.fromkeys(members, word.decode().removesuffix(" stderr").strip()))
            else:
                for rank in members:
                    streams[rank, stream] += line
    return streams, words


@settings(deadline=None)
@given(said, outcomes)
def test_all_views_say_the_same(events: Said, ends: list[Outcome]) -> None:
    streams = wanted(events)
    for_people = {key: ended(data) for key, data in streams.items()}
    counts = {(stream, rank): len(data) for (rank, stream), data in streams.items() if data}

    plain = prefixes("vnn", NAMES, NAMES)
    assert plain is not None
    lines = played(Prefixed(plain, len(NAMES)), events, ends)
    told = played(Jsonl(NAMES, NAMES), events, ends)
    groups = played(Gathered(NAMES), events, ends)
    quiet = played(Quiet(), events, ends)
    with tempfile.TemporaryDirectory() as directory:
        both = played(Tee(Prefixed(styled(plain, NAMES), 4), OutputDir(directory, NAMES)), events, ends)
        files = {path.name: path.read_bytes() for path in Path(directory).iterdir()}

    assert from_lines(lines) == for_people
    assert from_json(told) == streams
    by_group, words = from_groups(groups)
    assert by_group == for_people
    for rank, word in words.items():
        assert word == {0: "", 3: "exited 3", 137: "killed by signal 9", 255: "lost"}[ends[rank].exit_status]
    assert both.text == lines.text
    out = {f"{name.decode()}.out": streams[rank, STDOUT] for rank, name in enumerate(NAMES)}
    err = {f"{name.decode()}.err": streams[rank, STDERR] for rank, name in enumerate(NAMES)}
    assert files == out | {name: data for name, data in err.items() if data}
    for loop in (lines, told, groups, quiet, both):
        assert {key: count for key, count in loop.taken.items() if count} == counts


@settings(deadline=None)
@given(said, outcomes, st.permutations(list(RANKS)))
def test_a_part_that_is_the_whole_in_another_order_says_the_same(
    events: Said, ends: list[Outcome], order: list[int]
) -> None:
    streams = wanted(events)
    loop = played(Part(Jsonl(NAMES, NAMES), order), events, ends, place=order.index)
    assert from_json(loop) == streams
    expected = {(stream, order.index(rank)): len(data) for (rank, stream), data in streams.items() if data}
    assert {key: count for key, count in loop.taken.items() if count} == expected
