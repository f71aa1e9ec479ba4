"""What a person reads: whole lines with prefixes, folded names, the summary."""

from __future__ import annotations

import random

import pytest

from gexec.limits import WINDOW_MIN_BYTES
from gexec.render.fold import fold, fold_bounded
from gexec.render.lines import Budget, Lines
from gexec.render.prefix import prefixes
from gexec.render.summary import LINES_MAX, exit_status, summary
from gexec.render.text import printable, shown
from gexec.wire.outcome import Outcome, denied, exited, killed, lost, not_started, timed_out


def one(rank: int) -> tuple[tuple[int, int], ...]:
    return ((rank, rank + 1),)


def text_of(lines: Lines) -> bytes:
    return b"".join(piece[0] for piece in lines.ready)


def taken_of(lines: Lines, rank: int) -> int:
    credits = [(ranks, count) for _, ranks, count in lines.ready] + lines.absorbed
    return sum(count for ranks, count in credits for low, high in ranks if low <= rank < high)


def vnn(ranks: int, budget: int = 1 << 20) -> Lines:
    return Lines(prefixes("vnn", [b"n"] * ranks, [b""] * ranks), Budget(budget))


def test_each_line_gets_its_prefix() -> None:
    lines = vnn(2)
    lines.output(one(1), b"a\nb\n\nc\n")
    assert text_of(lines) == b"1 a\n1 b\n1 \n1 c\n"


def test_equal_lines_of_many_ranks() -> None:
    lines = vnn(1000)
    lines.output(((0, 1000),), b"x\n")
    assert text_of(lines) == b"".join(b"%d x\n" % rank for rank in range(1000))
    assert all(taken_of(lines, rank) == 2 for rank in range(1000))


def test_pieces_of_a_line_are_joined_and_lines_of_others_do_not_cut_it() -> None:
    lines = vnn(2)
    lines.output(one(0), b"be")
    lines.output(one(1), b"other\n")
    lines.output(one(0), b"gin\nrest")
    lines.ended(((0, 2),))
    assert text_of(lines) == b"1 other\n0 begin\n0 rest"
    assert (taken_of(lines, 0), taken_of(lines, 1)) == (10, 6)


def test_a_last_line_without_newline_stays_so_unless_another_node_follows() -> None:
    lines = vnn(3)
    lines.output(one(0), b"end")
    lines.ended(one(0))
    assert text_of(lines) == b"0 end"
    lines.output(one(1), b"next\n")
    lines.output(one(2), b"last")
    lines.ended(((1, 3),))
    assert text_of(lines) == b"0 end\n1 next\n2 last"


def test_prefix_none_adds_nothing_at_all() -> None:
    lines = Lines(None, Budget())
    lines.output(((0, 2),), b"\0\xff")
    lines.output(one(1), b"x\ny")
    lines.ended(((0, 2),))
    assert text_of(lines) == b"\0\xffx\n" + b"\0\xff" + b"y"


def test_raw_passes_pieces_as_they_come() -> None:
    lines = Lines(None, Budget(), raw=True)
    for piece in (b"a", b"b\nc", b"\0"):
        lines.output(one(0), piece)
    lines.ended(one(0))
    assert [piece[0] for piece in lines.ready] == [b"a", b"b\nc", b"\0"]


def test_over_the_budget_the_longest_line_owns_the_output_and_others_wait_untaken() -> None:
    lines = vnn(3, budget=100)
    lines.output(one(0), b"0" * 20)
    lines.output(one(1), b"1" * 90)
    assert text_of(lines) == b"1 " + b"1" * 90
    lines.output(one(2), b"two\n")
    lines.output(one(0), b"0\n")
    assert taken_of(lines, 2) == 0
    assert taken_of(lines, 0) == 0
    assert lines.held_bytes == 6
    lines.output(one(1), b"1" * 1000)
    assert taken_of(lines, 1) == 1090
    lines.output(one(1), b"end\nmore\n")
    expected = b"1 " + b"1" * 1090 + b"end\n2 two\n" + b"0 " + b"0" * 21 + b"\n1 more\n"
    assert text_of(lines) == expected
    assert [taken_of(lines, rank) for rank in range(3)] == [22, 1099, 4]


def test_an_unfinished_line_is_taken_when_it_is_written_but_for_what_is_over_half_a_window() -> None:
    lines = vnn(2)
    for _ in range(3):
        lines.output(one(0), b"x" * 3000)
    assert sum(count for _, count in lines.absorbed) == 9000 - WINDOW_MIN_BYTES // 2
    lines.output(one(0), b"\n")
    assert [count for _, _, count in lines.ready] == [WINDOW_MIN_BYTES // 2 + 1]
    lines.output(one(1), b"short")
    lines.ended(one(1))
    assert lines.ready[-1] == (b"1 short", one(1), 5)
    assert len(lines.absorbed) == 1


def test_an_owner_that_ends_without_newline_lets_the_others_go_on() -> None:
    lines = vnn(2, budget=10)
    lines.output(one(0), b"0" * 20)
    lines.output(one(1), b"one\ntail")
    lines.ended(one(1))
    lines.ended(one(0))
    assert text_of(lines) == b"0 " + b"0" * 20 + b"\n1 one\n1 tail"


@pytest.mark.parametrize("seed", range(60))
def test_no_byte_is_lost_or_mixed_whatever_the_pieces(seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randint(2, 5)
    budget = Budget(chance.choice([5, 40, 10_000]))
    lines = Lines([b"%d " % rank for rank in range(count)], budget)
    streams = [bytes(chance.choice(b"ab\n") for _ in range(chance.randint(0, 120))) for _ in range(count)]
    streams = [stream + b"\n" if stream else b"" for stream in streams]
    left = dict(enumerate(streams))
    while left:
        rank = chance.choice(list(left))
        size = chance.randint(1, 30)
        lines.output(one(rank), left[rank][:size])
        left[rank] = left[rank][size:]
        if not left[rank]:
            del left[rank]
            lines.ended(one(rank))
    whole = text_of(lines)
    for rank, stream in enumerate(streams):
        own = [line[2:] for line in whole.split(b"\n") if line.startswith(b"%d " % rank)]
        assert b"".join(line + b"\n" for line in own) == stream
        assert taken_of(lines, rank) == len(stream)
    assert budget.used_bytes == 0
    assert lines.held_bytes == 0


def test_prefix_kinds() -> None:
    names, addresses = [b"a", b"b"], [b"10.0.0.1:2875", b"[::1]:5"]
    assert prefixes("none", names, addresses) is None
    assert prefixes("vnn", names, addresses) == [b"0 ", b"1 "]
    assert prefixes("host", names, addresses) == [b"a ", b"b "]
    assert prefixes("ip", names, addresses) == [b"10.0.0.1 ", b"::1 "]


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        ("node003 node004 node005", "node[003-005]"),
        ("node007 node008", "node007 node008"),
        ("n9 n10 n11", "n[9-11]"),
        ("n099 n100 n101", "n[099-101]"),
        ("n1 n01 n001 n2 n02", "n[1-2,01-02,001]"),
        ("a1.x a2.x a3.x b1.x", "a[1-3].x b1.x"),
        ("10.0.0.1 10.0.0.2 10.0.0.3", "10.0.0.[1-3]"),
        ("n1 n1 n1", "n1"),
        ("::1 ::2 ::3", "::1 ::2 ::3"),
        ("n1 n3 n5 n7", "n[1,3,5,7]"),
        ("x", "x"),
        ("n n1 n2 n3", "n n[1-3]"),
    ],
)
def test_fold(names: str, folded: str) -> None:
    assert fold(names.split()) == folded
    assert set(unfold(folded)) == set(names.split())


def unfold(text: str) -> list[str]:
    names = []
    for word in text.split():
        if "[" not in word:
            names.append(word)
            continue
        head, _, rest = word.partition("[")
        inner, _, tail = rest.partition("]")
        for part in inner.split(","):
            low, _, high = part.partition("-")
            names += [f"{head}{n:0{len(low)}}{tail}" for n in range(int(low), int(high or low) + 1)]
    return sorted(names)


@pytest.mark.parametrize("seed", range(40))
def test_fold_round_trips(seed: int) -> None:
    chance = random.Random(seed)
    numbers = [chance.randint(0, 120) for _ in range(60)]
    names = {f"{chance.choice(['n', 'm1-'])}{n:0{chance.choice([1, 2, 3])}}" for n in numbers}
    assert set(unfold(fold(names))) == names
    assert len(unfold(fold(names))) == len(names)


def test_folded_names_are_bounded() -> None:
    text = fold_bounded([f"{'x' * n}-a" for n in range(1, 200)], 300)
    assert len(text) <= 304
    assert text.endswith(" ...")


def outcomes_of(*pairs: tuple[int, Outcome]) -> list[Outcome]:
    return [outcome for count, outcome in pairs for _ in range(count)]


def test_nothing_to_say_when_all_is_well() -> None:
    assert summary([b"a", b"b"], [exited(0)] * 2) == []
    assert exit_status([exited(0)] * 2) == 0


def test_summary_tells_each_outcome_once_and_lost_nodes_first() -> None:
    names = [b"node%03d" % number for number in range(1, 11)]
    outcomes = outcomes_of(
        (2, exited(7)),
        (3, not_started("connection refused")),
        (1, lost("gone")),
        (1, killed(9)),
        (3, exited(0)),
    )
    assert summary(names, outcomes) == [
        "3 of 10 nodes not started: connection refused: node[003-005]",
        "node006: lost: gone",
        "2 of 10 nodes exited 7: node001 node002",
        "node007: killed by signal 9",
    ]


def test_summary_of_doubled_names_counts_processes() -> None:
    assert summary([b"a", b"a", b"b"], [exited(1)] * 3) == ["3 of 3 processes exited 1: a b"]


def test_summary_is_bounded() -> None:
    outcomes = [exited(1 + number) for number in range(100)]
    lines = summary([b"n%d" % number for number in range(100)], outcomes)
    assert len(lines) == LINES_MAX + 1
    assert lines[-1] == "80 of 100 nodes failed in 80 more ways: n[20-99]"


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([exited(0), exited(3), exited(7)], 7),
        ([exited(3), killed(9)], 137),
        ([timed_out(15), exited(1)], 124),
        ([exited(0), lost("x")], 255),
        ([exited(0), denied("x")], 255),
        ([exited(0), not_started("x")], 255),
    ],
)
def test_exit_status(outcomes: list[Outcome], status: int) -> None:
    assert exit_status(outcomes) == status


def test_attack_80_terminal_escapes_in_names_and_reasons_are_shown_not_sent() -> None:
    assert printable("a\x1b[2Jb\n\x9b") == "a\\x1b[2Jb\\n\\x9b"
    assert shown(b"n\xff") == "n\\xff"
    [line] = summary([b"n\xc2\x9b1m"], [lost("\x1b]0;title\x07")])
    assert line.isprintable()
