"""Node sets: ranges to the letter, operators, groups and wildcards, and how much they may write out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec import limits
from gexec.errors import UsageError
from gexec.select.nodes import Node
from gexec.select.nodeset import evaluate


class Site:
    """Groups and nodes of a site that exists only here."""

    def __init__(self, groups: dict[str, str] | None = None, everything: str = "") -> None:
        self.groups = groups or {}
        self.all = everything
        self.problems: list[str] = []

    def group(self, source: str, name: str) -> str:
        try:
            return self.groups[f"{source}:{name}" if source else name]
        except KeyError:
            raise UsageError(f"there is no group {name}") from None

    def everything(self, source: str) -> list[tuple[str, str]]:
        return [("group @*", self.all)]

    def universes(self) -> Iterator[list[Node]]:
        yield evaluate(self.all, "all", self)

    def problem(self, text: str) -> None:
        self.problems.append(text)


def names(text: str, site: Site | None = None) -> list[str]:
    nodes = evaluate(text, "-w", site or Site())
    assert all(port == 0 for _, port in nodes)
    return [name for name, _ in nodes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node[1-3]", "node1 node2 node3"),
        ("node[008-010,7]", "node008 node009 node010 node7"),
        ("node[00-02]", "node00 node01 node02"),
        ("node[1,01,001]", "node1 node01 node001"),
        ("node1[9-10]", "node19 node110"),
        ("node[8-11]0", "node80 node90 node100 node110"),
        ("n[0-9/3]", "n0 n3 n6 n9"),
        ("r[1-2]n[01-02]-ib", "r1n01-ib r1n02-ib r2n01-ib r2n02-ib"),
        ("n[1-2][3-4]", "n13 n14 n23 n24"),
        ("[1-2]", "1 2"),
        ("b, a[2, 1] ,b a1", "b a2 a1"),
        ("%s[1-2]%", "%s1% %s2%"),
    ],
)
def test_ranges_are_written_out_to_the_letter(text: str, expected: str) -> None:
    assert names(text) == expected.split()


def test_users_stand_before_ranges_and_addresses() -> None:
    assert names("me@n[1-2],me@[1-2]") == ["me@n1", "me@n2", "me@1", "me@2"]
    assert evaluate("me@[::1]:22,me@[::1],n[1-1]", "-w", Site()) == [("me@::1", 22), ("me@::1", 0), ("n1", 0)]


def test_ports_belong_to_each_name_of_a_range() -> None:
    assert evaluate("n[1-2]:77,[::1]:5 [fe80::1]", "-w", Site()) == [
        ("n1", 77), ("n2", 77), ("::1", 5), ("fe80::1", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n[1-5]!n[2-3]", "n1 n4 n5"),
        ("n[1-5] & n[4-9]", "n4 n5"),
        ("n[1-3]^n[2-4]", "n1 n4"),
        ("n[1-3]!n2,n2", "n1 n3 n2"),
        ("a,b!a,c&b,c", "b c"),  # from left to right: ((((a+b)-a)+c)&b)+c
        ("a&b", ""),
    ],
)
def test_operators_go_from_left_to_right(text: str, expected: str) -> None:
    assert names(text) == expected.split()


def test_a_name_without_port_stands_for_every_port() -> None:
    assert evaluate("n[1-2]:5,n[1-2]:6!n1", "-w", Site()) == [("n2", 5), ("n2", 6)]
    assert evaluate("n[1-2]:5,n[1-2]:6!n1:5", "-w", Site()) == [("n2", 5), ("n1", 6), ("n2", 6)]
    assert evaluate("n[1-2]:5&n2", "-w", Site()) == [("n2", 5)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[::1]:2876,node[1-2],2001:db8::[1-3],fe80::1%lo,::1",
            "::1 2876,node1 0,node2 0,2001:db8::1 0,2001:db8::2 0,2001:db8::3 0,fe80::1%lo 0,::1 0",
        ),
        ("node1:5,node[2-3],node1,node4", "node1 5,node2 0,node3 0,node1 0,node4 0"),
        ("b:1,a:1,b:2,a[1-1]!b:1", "a 1,b 2,a1 0"),
        ("b:1,a,b:2&b,a", "b 1,b 2,a 0"),
        ("b:1,a:7,b[2-2]^c,b:2", "b 1,a 7,b2 0,c 0,b 2"),
    ],
)
def test_nodes_come_in_the_order_in_which_they_are_written(text: str, expected: str) -> None:
    found = evaluate(text, "-w", Site())
    assert ",".join(f"{name} {port}" for name, port in found) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Node1,NODE1,node1.,n[2-2]", "Node1 n2"),
        ("Node[1-3]!node2.", "Node1 Node3"),
        ("n[1-2].a.org,n1.b.org!N1", "n2.a.org"),
        ("n[1-2].a.org,n1!n1", "n1.a.org n2.a.org"),
        ("n[1-2].a.org&n2", "n2.a.org"),
        ("NODE[1-3]&*2", "NODE2"),
        ("10.0.0.1,a[1-1]!10", "10.0.0.1 a1"),
        ("me@n1,you@n1,n[2-2]!me@n1", "you@n1 n2"),
        ("me@n1.a,you@n1,n[2-2]!N1", "me@n1.a n2"),
    ],
)
def test_names_are_compared_as_dns_does(text: str, expected: str) -> None:
    assert names(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("n[1-3]!n9", "-w: 'n9' after '!' matches no node before it"),
        ("n[1-3]!n[3-5]", "-w: 'n4', 'n5' after '!' matches no node before it"),
        (
            "n[1-3]!n[12]",
            "-w: 'n[12]' after '!' matches no node before it; [12] is the number 12, write [1,2]",
        ),
        ("n[1-3]!@web", "-w: '@web' after '!' matches no node before it"),
        ("n[1-3]!q*", "-w: 'q*' after '!' matches no node before it"),
        ("n1,q*", "-w: 'q*' matches none of the known nodes"),
    ],
)
def test_what_matches_nothing_is_told(text: str, problem: str) -> None:
    site = Site({"web": "node[1-3]"}, everything="x1")
    evaluate(text, "-w", site)
    assert site.problems == [problem]


def test_groups_may_name_more_than_there_is() -> None:
    site = Site({"web": "node[1-3]!x,q*", "half": "node[3-9]"}, everything="x1")
    assert names("@web,node[7-8]!@half", site) == ["node1", "node2"]
    assert site.problems == []


def test_a_malformed_part_of_a_source_does_not_hide_the_others() -> None:
    class Parts(Site):
        def everything(self, source: str) -> list[tuple[str, str]]:
            return [("group @a", "n1"), ("group @bad", ": &"), ("group @b", "n2")]

    site = Parts()
    assert names("@*", site) == ["n1", "n2"]
    assert site.problems == ["group @bad: ':': expected a name before the colon; this group is skipped"]


SITE = Site(
    {
        "web": "node[1-3]",
        "db": "@web!node2,x7",
        "rack:r1": "@r2,a1",
        "rack:r2": "a2",
        "r2": "not-this-one",
        "empty": "",
        "g1": "one",
        "g2": "two",
    },
    everything="node[01-12],gpu1,@web",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@web", "node1 node2 node3"),
        ("@db,node2", "node1 node3 x7 node2"),
        ("@rack:r1", "a2 a1"),  # a group in a group is of the same source
        ("@g[1-2]", "one two"),
        ("@*!node*", "gpu1"),
        ("@empty,z[1]", "z1"),
        ("node0*", " ".join(f"node0{digit}" for digit in range(1, 10))),
        ("node1?", "node10 node11 node12"),
        ("node0[1-2]*", "node01 node02"),
        ("q[1-3]!q?", ""),  # on the right of ! and & a wildcard is about the left side
        ("q[1-3]&?2", "q2"),
    ],
)
def test_groups_and_wildcards(text: str, expected: str) -> None:
    assert names(text, SITE) == expected.split()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("n[", "the bracket is not closed"),
        ("n[1-3", "the bracket is not closed"),
        ("n]", "a bracket is closed that was not opened"),
        ("n[1]]", "a bracket is closed that was not opened"),
        ("n[]", "expected numbers"),
        ("n[a-b]", "expected numbers"),
        ("n[1-]", "expected numbers"),
        ("n[-1]", "expected numbers"),
        ("n[1-2/]", "expected numbers"),
        ("n[٣]", "expected numbers"),
        ("n[1234567890123456789]", "expected numbers"),
        ("n[3-1]", "runs upward"),
        ("n[1-3/0]", "runs upward"),
        ("n[01-100]", "the same number of digits"),
        ("n[8-011]", "the same number of digits"),
        ("n[1-2]:x", "expected a port"),
        ("!a", "expected a name before '!'"),
        ("a!!b", "expected a name before '!'"),
        ("a&", "expected a name after '&'"),
        ("a\0[1]", "NUL byte"),
        ("@", "expected @group"),
        ("@a:", "expected @group"),
        ("@@a", "expected @group"),
        ("@a*", "expected @group"),
        ("@nope", "there is no group nope"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        evaluate(text, "-w", SITE)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "n[1-99999999]",
        "n[1-999999999999999999]",
        "n[1-300]x[1-300]",
        "n" + "[0-9]" * 60,
        ",".join(f"{letter}[1-60000]" for letter in "abcdef"),
        "!".join(["a[1-60000]"] * 6),
    ],
)
def test_too_many_names_are_refused_before_they_are_written_out(text: str) -> None:
    with pytest.raises(UsageError, match="names"):
        evaluate(text, "-w", Site())


def test_groups_that_grow_are_bounded() -> None:
    doubling = {f"g{number}": f"@g{number + 1},@g{number + 1}" for number in range(20)} | {
        "g20": "a[1-60000]"
    }
    with pytest.raises(UsageError, match="names in total"):
        evaluate("@g0", "-w", Site(doubling))
    chain = {f"g{number}": f"@g{number + 1}" for number in range(5000)}
    with pytest.raises(UsageError, match="nested too deeply"):
        evaluate("@g0", "-w", Site(chain))
    with pytest.raises(UsageError, match=r"contain each other.*@a @b @a"):
        evaluate("@a", "-w", Site({"a": "@b", "b": "@a"}))
    masks = ",".join(f"a{number}*" for number in range(limits.NODESET_MASKS_MAX + 1))
    with pytest.raises(UsageError, match="wildcards"):
        evaluate(masks, "-w", SITE)


def test_a_mask_of_many_stars_takes_no_time_of_its_own() -> None:
    assert names("*a" * 30 + "*b", Site(everything="a" * 200)) == []


def test_tens_of_thousands_of_names_are_no_square() -> None:
    # With a quadratic step each of these would take minutes and meet the test's own limit.
    count = 60_000
    plain = [f"r{number}n{number}" for number in range(count)]
    assert names(",".join(plain) + ",z[1]") == [*plain, "z1"]
    for operator, left in (("!", 0), ("^", 0), ("&", 1)):
        few = operator.join(plain[: 1 if operator == "&" else 20_000])
        found = names(f"{','.join(plain[:20_000])}{operator}{few}")
        assert len(found) == left
    assert len(names("a[1-100]b[1-600]")) == count


@given(st.text("ab01[]-,/!&^*?@: %", max_size=30))
def test_any_text_is_nodes_or_one_sentence(text: str) -> None:
    try:
        nodes = evaluate(text, "-w", SITE)
    except UsageError as error:
        told = str(error)
    else:
        told = ""
        assert len(set(nodes)) == len(nodes)
    assert "\n" not in told


numbers = st.integers(0, 120)


@given(st.lists(st.tuples(numbers, numbers, st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4))
def test_one_bracket_is_what_clustershell_makes_of_it(ranges: list[tuple[int, int, int, int]]) -> None:
    from ClusterShell.NodeSet import NodeSet

    inside = []
    for low, high, step, width in ranges:
        low, high = min(low, high), max(low, high)
        same_width = len(f"{low:0{width}}") == len(f"{high:0{width}}")
        inside.append(f"{low:0{width}}-{high:0{width}}/{step}" if same_width else f"{low}-{high}/{step}")
    text = f"n[{','.join(inside)}]x"
    assert sorted(names(text)) == sorted(NodeSet(text, resolver=-1))
