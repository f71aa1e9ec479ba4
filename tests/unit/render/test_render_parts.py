"""Prefixes on a terminal, the full summary, parts of a whole, exit policies, lists of what failed."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gexec.errors import UsageError
from gexec.render.failed import failed_lines
from gexec.render.part import Part
from gexec.render.policy import parse_policy, policy_status
from gexec.render.prefix import prefixes, styled, wants_colour
from gexec.render.quiet import Quiet
from gexec.render.summary import full_summary
from gexec.render.view import Prefixed
from gexec.render.wrapped import Wrapped
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import Outcome, denied, exited, killed, lost, not_started
from gexec.wire.ranks import Ranges
from views import Loop, one


def test_names_that_could_steer_a_terminal_are_escaped_in_prefixes() -> None:
    names = [b"n1", "größe".encode(), b"\xc2\x9b2J", b"\xff"]
    assert prefixes("host", names, names) == [b"n1 ", "größe ".encode(), b"\\x9b2J ", b"\\xff "]


def test_prefixes_in_a_column() -> None:
    names = [b"a", "é2".encode(), b"x" * 40]
    plain = [name + b" " for name in names]
    assert styled(plain, names) == plain
    assert styled(plain[:2], names[:2], align=True) == [b"a  ", "é2 ".encode()]
    assert styled(plain, names, align=True) == [b"a" + b" " * 32, "é2".encode() + b" " * 31, b"x" * 40 + b" "]
    assert styled([b"9 ", b"10 "], names[:2], align=True) == [b" 9 ", b"10 "]
    assert styled([], [], colour=True, align=True) == []


def test_a_name_keeps_its_colour_and_neighbours_differ() -> None:
    names = [b"node%03d" % number for number in range(10)]
    coloured = styled([name + b" " for name in names], names, colour=True)
    assert coloured[0].endswith(b"mnode000\x1b[0m ")
    hues = [text.partition(b"m")[0] for text in coloured]
    assert all(left != right for left, right in pairwise(hues))
    assert styled([b"x "], [b"node003"], colour=True)[0].partition(b"m")[0] == hues[3]


@pytest.mark.parametrize(
    ("when", "terminal", "environ", "wanted"),
    [
        ("auto", True, {"TERM": "xterm"}, True),
        ("auto", False, {"TERM": "xterm"}, False),
        ("auto", True, {"TERM": "dumb"}, False),
        ("auto", True, {"TERM": ""}, False),
        ("auto", True, {}, False),
        ("auto", True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        ("auto", True, {"TERM": "xterm", "NO_COLOR": ""}, True),
        ("always", False, {"NO_COLOR": "1"}, True),
        ("never", True, {"TERM": "xterm"}, False),
    ],
)
def test_when_colours_are_used(when: str, terminal: bool, environ: dict[str, str], wanted: bool) -> None:
    assert wants_colour(when, terminal, environ) is wanted


def test_the_full_summary_tells_of_success_too() -> None:
    names = [b"n%d" % number for number in range(5)]
    outcomes = [exited(0), exited(0), exited(0), lost("gone"), exited(2)]
    assert full_summary(names, outcomes) == [
        "n3: lost: gone",
        "3 of 5 nodes exited 0: n[0-2]",
        "n4: exited 2",
    ]
    assert full_summary(names[:1], [exited(0)]) == ["n0: exited 0"]


def test_quiet_takes_all_and_says_nothing() -> None:
    loop = Loop(Quiet())
    loop.out(((0, 2),), b"x\n")
    loop.err(1, b"e")
    loop.ended(((0, 2),), exited(1))
    loop.finish()
    assert loop.text == {1: b"", 2: b""}
    assert loop.taken == {(STDOUT, 0): 2, (STDOUT, 1): 2, (STDERR, 1): 1}


# -- parts of a whole --------------------------------------------------------------------------


def test_two_parts_speak_with_the_ranks_of_the_whole_and_take_with_their_own() -> None:
    whole = Prefixed([b"%d " % rank for rank in range(6)], 6)
    first = Loop(Part(whole, [5, 0, 2]))
    first.started(((0, 3),))
    first.out(((0, 3),), b"x\n")
    first.out(1, b"half")
    first.err(0, b"e\n")
    assert sorted(first.text[1].splitlines()) == [b"0 x", b"2 x", b"5 x"]
    assert first.text[2] == b"5 e\n"
    first.ended(((0, 3),), exited(0))
    assert first.taken == {(STDOUT, 0): 2, (STDOUT, 1): 6, (STDOUT, 2): 2, (STDERR, 0): 2}
    assert first.text[1].endswith(b"0 half")
    second = Loop(Part(whole, [1, 3]))
    second.out(1, b"y\n")
    second.ended(((0, 2),), exited(0))
    second.finish()
    assert second.text[1] == b"\n3 y\n"
    assert second.taken == {(STDOUT, 1): 2}


def test_what_a_view_handed_out_before_its_part_began_is_no_part_of_it() -> None:
    whole = Prefixed(None, 2)
    whole.output(STDOUT, one(0), b"x\n")
    loop = Loop(Part(whole, [1]))
    assert loop.text[1] == b"x\n"
    assert loop.taken == {}


def test_who_is_tried_again_has_not_ended() -> None:
    from gexec.render.gather import Gathered

    whole = Gathered([b"a", b"b", b"c"])
    first = Loop(Part(whole, [0, 1, 2], again=lambda outcome: outcome == not_started("refused")))
    first.out(0, b"x\n")
    first.ended(one(0), exited(0))
    first.ended(((1, 3),), not_started("refused"))
    second = Loop(Part(whole, [1, 2]))
    second.out(1, b"x\n")
    second.ended(one(1), exited(0))
    second.ended(one(0), not_started("refused"))
    second.finish()
    assert first.text[1] == b""
    assert second.text[1] == b"--- a,c (2)\nx\n"
    assert second.taken == {(STDOUT, 1): 2}


# -- exit policies -----------------------------------------------------------------------------

MIXED = [exited(0)] * 6 + [exited(3), killed(9), lost("gone"), denied("no")]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("worst", 255),
        ("any", 0),
        ("ok-if 6", 0),
        ("ok-if 7", 255),
        ("ok-if 60%", 0),
        ("ok-if=61%", 255),
        ("ok-if:1", 0),
    ],
)
def test_policies(text: str, status: int) -> None:
    assert policy_status(parse_policy(text), MIXED) == status


def test_policies_when_all_or_none_succeed() -> None:
    for text in ("worst", "any", "ok-if 2", "ok-if 100%"):
        assert policy_status(parse_policy(text), [exited(0)] * 2) == 0
        assert policy_status(parse_policy(text), [exited(3)] * 2) == 3
    assert policy_status(parse_policy("ok-if 3"), [exited(0)] * 2) == 1


@pytest.mark.parametrize(
    "text",
    ["", "best", "ok-if", "ok-if ", "ok-if90", "ok-if 0", "ok-if -1", "ok-if 0%", "ok-if 101%", "ok-if 1.5%",
     "ok-if 65537", "ok-if 999999999999", "ok-if \u0663", "ok-if %", "ANY"],
)  # fmt: skip
def test_what_is_no_policy_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^option --exit-policy: expected .*, not "):
        parse_policy(text)


# -- lists of what failed ----------------------------------------------------------------------


def test_the_list_of_what_failed_can_be_given_back() -> None:
    names = [b"a", b"b:99", b"c#1", b"b:99", b"\xff"]
    outcomes = [exited(0), not_started("connection\x1b[2J refused"), exited(7), lost("gone"), denied("")]
    lines = failed_lines(names, outcomes)
    assert lines == [
        b"b:99  # not started: connection\\x1b[2J refused\n",
        b"c#1  # exited 7\n",
        b"b:99  # lost: gone\n",
        b"\xff  # denied\n",
    ]
    assert failed_lines(names[:1], outcomes[:1]) == []


def test_ranks_that_run_again_are_withheld_under_their_numbers_in_the_run() -> None:
    """Each view around another passes that on."""
    told: list[str] = []

    class Inner(Prefixed):
        __slots__ = ()

        def ended(self, ranks: Ranges, outcome: Outcome) -> None:
            told.append(f"ended {ranks}")

        def withheld(self, ranks: Ranges) -> None:
            told.append(f"withheld {ranks}")

    view = Wrapped(Inner([b"a ", b"b ", b"c ", b"d "], 4))
    part = Loop(Part(view, [3, 1], lambda outcome: outcome == lost("x")))
    part.ended(0, lost("x"))
    part.ended(1, exited(0))
    assert told == ["withheld ((3, 4),)", "ended ((1, 2),)"]
