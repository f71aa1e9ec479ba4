"""The same output once, under folded names; and what differs."""

from __future__ import annotations

import random
import tracemalloc
from difflib import unified_diff

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec.errors import UsageError
from gexec.render.diff import Diff
from gexec.render.distinct import Distinct, pieces
from gexec.render.gather import Gathered
from gexec.render.unified import Comparison
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import denied, exited, killed, lost, not_started
from views import Loop, one

NAMES = [b"node%03d" % number for number in range(1, 6)]
ALL = ((0, 5),)


@pytest.mark.parametrize("seed", range(40))
def test_places_are_equal_exactly_where_content_is(seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randint(2, 8)
    pool = [bytes(chance.choice(b"ab") for _ in range(chance.randint(0, 12))) for _ in range(4)]
    wanted = [chance.choice(pool) + chance.choice(pool) for _ in range(count)]
    left = {rank: content for rank, content in enumerate(wanted) if content}
    store = Distinct(count)
    while left:
        rank = chance.choice(list(left))
        size = chance.randint(1, 5)
        store.output(one(rank), left[rank][:size])
        left[rank] = left[rank][size:]
        if not left[rank]:
            del left[rank]
    for rank, content in enumerate(wanted):
        assert b"".join(pieces(store.place(rank))) == content
        for other in range(rank):
            assert (store.place(rank) == store.place(other)) == (content == wanted[other])


def test_equal_content_is_kept_once_however_it_is_cut() -> None:
    content = random.Random(1).randbytes(1 << 20)
    store = Distinct(200)
    tracemalloc.start()
    try:
        for rank in range(200):
            for start in range(0, len(content), 50_000 + rank):
                store.output(one(rank), content[start : start + 50_000 + rank])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * len(content)
    assert store.size_bytes == len(content)
    assert len({store.place(rank) for rank in range(200)}) == 1


def test_ranks_that_part_share_what_they_have_in_common() -> None:
    store = Distinct(100)
    store.output(((0, 100),), b"x" * 100_000)
    for rank in range(100):
        store.output(one(rank), b"%d" % rank)
    assert store.size_bytes < 200_000
    assert b"".join(pieces(store.place(42))) == b"x" * 100_000 + b"42"


def test_groups_the_largest_first_under_folded_names() -> None:
    loop = Loop(Gathered(NAMES))
    loop.out(3, b"other\n")
    loop.out(((0, 3), (4, 5)), b"same\n")
    loop.ended(ALL, exited(0))
    assert loop.text[1] == b""
    loop.finish()
    assert loop.text[1] == b"--- node[001-003,005] (4)\nsame\n--- node004 (1)\nother\n"
    assert loop.text[2] == b""
    assert loop.taken[STDOUT, 0] == 5


def test_stderr_and_outcome_make_groups_too_and_stay_on_their_descriptor() -> None:
    loop = Loop(Gathered(NAMES))
    loop.out(ALL, b"o\n")
    loop.err(0, b"e")
    loop.ended(one(0), exited(0))
    loop.ended(one(1), exited(7))
    loop.ended(one(2), killed(9))
    loop.ended(one(3), lost("the link broke"))
    loop.ended(one(4), lost("no answer"))
    loop.finish()
    assert loop.text[1].decode().splitlines() == [
        "--- node004,node005 (2) lost", "o",
        "--- node001 (1)", "o",
        "--- node002 (1) exited 7", "o",
        "--- node003 (1) killed by signal 9", "o",
    ]  # fmt: skip
    assert loop.text[2] == b"--- node001 (1) stderr\ne\n"
    assert [fd for fd, data in loop.parts if data.startswith(b"---")] == [1, 1, 2, 1, 1]


def test_silent_nodes_are_no_group() -> None:
    loop = Loop(Gathered(NAMES))
    loop.out(0, b"x\n")
    loop.ended(ALL, exited(1))
    loop.finish()
    assert loop.text[1] == b"--- node001 (1) exited 1\nx\n"


def test_names_of_a_heading_are_one_word_and_cannot_steer_a_terminal() -> None:
    loop = Loop(Gathered([b"a", b"b", b"\xc2\x9b2J", b"a"], colour=True))
    loop.out(((0, 4),), b"x\n")
    loop.ended(((0, 4),), exited(0))
    loop.finish()
    assert loop.text[1] == b"\x1b[1m--- a,b,\\x9b2J (4)\x1b[0m\nx\n"


def test_live_shows_a_group_once_and_a_table_at_the_end() -> None:
    loop = Loop(Gathered(NAMES, live=True))
    loop.out(ALL, b"same\n")
    loop.ended(((1, 3),), exited(0))
    loop.drain()
    assert loop.text[1] == b"--- [1] node002,node003 (2)\nsame\n"
    loop.ended(one(0), exited(0))
    loop.out(3, b"more\n")
    loop.ended(one(3), exited(0))
    loop.drain()
    loop.ended(one(4), exited(0))
    loop.finish()
    assert loop.text[1].decode().splitlines()[2:] == [
        "--- [2] node004 (1)", "same", "more",
        "=== [1] node[001-003,005] (4)", "=== [2] node004 (1)",
    ]  # fmt: skip


def test_live_needs_no_table_when_no_group_has_grown() -> None:
    loop = Loop(Gathered(NAMES, live=True))
    loop.out(ALL, b"same\n")
    loop.ended(ALL, exited(0))
    loop.finish()
    assert loop.text[1] == b"--- [1] node[001-005] (5)\nsame\n"


def test_leaving_early_shows_what_has_come() -> None:
    for live in (False, True):
        loop = Loop(Gathered(NAMES, live=live))
        loop.out(1, b"half")
        loop.finish()
        assert loop.text[1] == b"--- node002 (1) so far\nhalf\n"


@pytest.mark.parametrize("live", [False, True])
def test_over_the_limit_nothing_is_lost_and_the_rest_comes_line_by_line(live: bool) -> None:
    view = Gathered(NAMES[:3], live=live, limit_bytes=3000)
    loop = Loop(view)
    loop.out(2, b"c\n")
    loop.ended(one(2), exited(0))
    loop.drain()
    loop.out(0, b"a" * 1500 + b"\n")
    loop.out(1, b"b" * 1500)
    assert view.held
    loop.out(1, b"later\n")
    loop.ended(one(1), exited(0))
    assert loop.taken[STDOUT, 1] == 1500  # what came later waits untaken
    loop.drain()
    loop.out(0, b"tail\n")
    loop.ended(one(0), exited(0))
    loop.finish()
    number = "[1] " if live else ""
    groups = [
        f"--- {number}node003 (1)", "c",
        "--- node001 (1) so far", "a" * 1500,
        "--- node002 (1) so far", "b" * 1500,
    ]  # fmt: skip
    shown = loop.text[1].decode().splitlines()
    told = [line for line in shown if not line.startswith("===")]
    assert sorted(told[:-2]) == sorted(groups)
    assert told[-2:] == ["node002 later", "node001 tail"]
    assert b"of different output" in loop.text[2]
    assert [loop.taken[STDOUT, rank] for rank in range(3)] == [1506, 1506, 2]


def test_what_is_shown_is_handed_out_in_parts() -> None:
    loop = Loop(Gathered([b"n%d" % rank for rank in range(50)]))
    loop.out(((0, 50),), b"x" * (1 << 20))
    for rank in range(50):
        loop.out(rank, b"%d\n" % rank)
    loop.view.finish()
    largest = 0
    while loop.view.held:
        loop.view.refill()
        largest = max(largest, sum(len(data) for _, data, _ in loop.view.writes))
        loop.view.writes.clear()
    assert 0 < largest < 1 << 20


def test_a_part_goes_to_one_descriptor_so_that_both_stay_in_order_on_a_terminal() -> None:
    loop = Loop(Gathered(NAMES))
    for rank in range(5):
        loop.out(rank, b"out %d\n" % rank)
        loop.err(rank, b"err %d\n" % rank)
    loop.view.finish()
    parts = []
    while loop.view.held:
        loop.view.refill()
        [fd] = {fd for fd, _, _ in loop.view.writes}
        parts.append(fd)
        loop.view.writes.clear()
    assert parts == [1, 2] * 5


# -- diff ------------------------------------------------------------------------------------------


def differing(*outputs: bytes, node: bytes = b"", **options: bool) -> Loop:
    loop = Loop(Diff(NAMES[: len(outputs)], node, **options))
    for rank, output in enumerate(outputs):
        loop.out(rank, output)
        loop.ended(one(rank), exited(0))
    loop.finish()
    return loop


def test_no_difference_is_no_output() -> None:
    assert differing(b"a\n", b"a\n").text == {1: b"", 2: b""}
    loop = Loop(Diff(NAMES))
    loop.ended(ALL, not_started("no"))
    loop.finish()
    assert loop.text[1] == b""


def test_each_group_against_the_majority() -> None:
    assert differing(b"a\nb\n", b"a\nc\n", b"a\nb\n", b"a\nb").text[1].decode().splitlines() == [
        "--- node001,node003 (2)", "+++ node002 (1)", "@@ -1,2 +1,2 @@", " a", "-b", "+c",
        "--- node001,node003 (2)", "+++ node004 (1)", "@@ -1,2 +1,2 @@", " a", "-b", "+b",
        "\\ No newline at end of file",
    ]  # fmt: skip


def test_against_a_named_node_and_in_colour() -> None:
    loop = differing(b"a\n", b"b\n", b"b\n", node=b"node001", colour=True)
    assert loop.text[1] == (
        b"--- node001 (1)\n+++ node002,node003 (2)\n\x1b[36m@@ -1 +1 @@\x1b[0m\n"
        b"\x1b[31m-a\x1b[0m\n\x1b[32m+b\x1b[0m\n"
    )
    with pytest.raises(UsageError, match=r"--diff: 'node9' is none of the job's nodes"):
        Diff(NAMES, b"node9")


def test_a_named_node_that_did_not_run_is_said() -> None:
    loop = Loop(Diff(NAMES[:3], b"node003"))
    loop.out(0, b"a\n")
    loop.ended(((0, 2),), exited(0))
    loop.ended(one(2), denied("no such user"))
    loop.finish()
    assert loop.text[2] == b"gexec: node003 did not run: compared with the majority\n"
    assert b"+++ node002 (1)" in loop.text[1]
    assert b"node003" not in loop.text[1]


def test_differences_of_stderr_are_told_on_stderr() -> None:
    loop = Loop(Diff(NAMES[:2]))
    loop.out(((0, 2),), b"same\n")
    loop.err(1, b"warning\n")
    loop.ended(((0, 2),), exited(0))
    loop.finish()
    assert loop.text[1] == b""
    assert loop.text[2] == b"--- node001 (1) stderr\n+++ node002 (1) stderr\n@@ -0,0 +1 @@\n+warning\n"


def test_any_bytes_but_nul_are_compared_as_lines() -> None:
    assert differing(b"\xff\r\nx\x0by\n", b"\xfe\r\nx\x0by\n").text[1].splitlines(keepends=True)[2:] == [
        b"@@ -1,2 +1,2 @@\n", b"-\xff\r\n", b"+\xfe\r\n", b" x\x0by\n",
    ]  # fmt: skip


def test_binary_and_huge_output_is_told_by_length_and_digest() -> None:
    told = differing(b"\0\n", b"\0\0\n").text[1].decode().splitlines()
    digest = "98f75cdcdc85e92faa8c7d44b9d4d2a3d6d1a0e7a1d4e64b4a4f1e6f3f6a0d1c"
    assert told[2] == "@@ binary @@"
    assert told[3].startswith("-2 bytes, SHA-256 ")
    assert len(told[3]) == len("-2 bytes, SHA-256 ") + len(digest)
    for long in (b"x" * (2 << 20), b"x\n" * 20_000):
        told = differing(long, long + b"more\n").text[1].decode().splitlines()
        assert told[2] == "@@ too long to compare @@"
        assert told[4].startswith(f"+{len(long) + 5} bytes, SHA-256 ")


def lines(*numbers: object) -> bytes:
    return b"".join(b"%d\n" % number if isinstance(number, int) else b"other\n" for number in numbers)


def test_what_would_take_long_to_compare_is_told_by_length_and_digest() -> None:
    # difflib searches all that is left for each line that is the same: 9 s for these.
    old = lines(*range(9900))
    new = lines(*[number if number % 2 else None for number in range(9900)])
    told = differing(old, new).text[1].decode().splitlines()
    assert told[2] == "@@ too long to compare @@"
    assert told[3].startswith(f"-{len(old)} bytes, SHA-256 ")
    # Many equal lines alone take no time.
    told = differing(b"x\ny\n" * 1500, b"x\ny\n" * 1500 + b"z\n").text[1].decode().splitlines()
    assert told[2:] == ["@@ -2998,3 +2998,4 @@", " y", " x", " y", "+z"]


@given(*[st.lists(st.sampled_from(["a\n", "b\n", "c\n", "\n"]), max_size=40)] * 2)
def test_differences_are_those_of_difflib(old: list[str], new: list[str]) -> None:
    ours = Comparison([line.encode() for line in old], [line.encode() for line in new], 10**6)
    assert b"".join(ours.lines()).decode() == "".join(list(unified_diff(old, new))[2:])


def test_the_groups_may_be_shown_before_the_differences() -> None:
    text = differing(b"a\n", b"a\n", b"b\n", gathered=True).text[1].decode()
    assert text.startswith(
        "--- node001,node002 (2)\na\n--- node003 (1)\nb\n--- node001,node002 (2)\n+++ node003 (1)\n@@"
    )


def test_over_the_limit_all_is_shown_instead() -> None:
    loop = Loop(Diff(NAMES[:2], limit_bytes=1000))
    loop.out(0, b"a\n" * 600)
    loop.out(1, b"b\n")
    loop.drain()
    loop.out(1, b"c\n")
    loop.ended(((0, 2),), exited(0))
    loop.finish()
    assert b"of different output" in loop.text[2]
    assert loop.text[1].endswith(b"node002 b\nnode002 c\n")
    assert loop.taken == {(STDOUT, 0): 1200, (STDOUT, 1): 4}
    assert (STDERR, 0) not in loop.taken
