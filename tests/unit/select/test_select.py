"""Which nodes: names, order, ports, exclusion, and their addresses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gexec.client.resolve import origin_ipv4, resolve
from gexec.errors import UsageError
from gexec.select import hosts
from gexec.select.lists import decoded
from gexec.select.matching import Exclusion
from gexec.select.nodes import draw, first, is_nodeset, parse_names


def test_names_keep_their_order_their_letters_and_their_doubles() -> None:
    assert parse_names("Node2  node01\tnode1\nnode1,x", "here") == [
        ("Node2", 0), ("node01", 0), ("node1", 0), ("node1", 0), ("x", 0),
    ]  # fmt: skip


def test_ports_and_addresses() -> None:
    text = "n:2875 [::1]:77 [fe80::1] ::2 10.0.0.1:5 10.0.0.2"
    expected = [("n", 2875), ("::1", 77), ("fe80::1", 0), ("::2", 0), ("10.0.0.1", 5), ("10.0.0.2", 0)]
    assert not is_nodeset(text)
    assert parse_names(text, "GEXEC_SVRS") == expected


def test_users_are_a_part_of_the_name() -> None:
    text = "me@n me@n:22 me@::1 me@[::1] me@[::1]:22 me@n"
    expected = [("me@n", 0), ("me@n", 22), ("me@::1", 0), ("me@::1", 0), ("me@::1", 22), ("me@n", 0)]
    assert not is_nodeset(text)
    assert parse_names(text, "-w") == expected


@pytest.mark.parametrize(
    "text", ["n:", "n:0", "n:65536", "n:x", ":5", "[::1]x", "[::1]:", "[:1", "me@[::1", "me@[::1]x"]
)
def test_malformed_names_are_named(text: str) -> None:
    with pytest.raises(UsageError, match="GEXEC_SVRS: '"):
        parse_names(f"good {text}", "GEXEC_SVRS")


@pytest.mark.parametrize(
    "text", ["a[1-2]", "[1-2]:7", "@a", "a!b", "a&b", "a^b", "a*", "a?", "a]", "me@a[1-2]", "me@[1-2]"]
)
def test_what_is_more_than_names_is_seen(text: str) -> None:
    assert is_nodeset(f"b,{text}")


def test_the_first_n() -> None:
    nodes = parse_names("a b c", "here")
    assert first(nodes, 2, "here") == [("a", 0), ("b", 0)]
    assert first(nodes, 0, "here") == nodes
    with pytest.raises(UsageError) as caught:
        first(nodes, 5, "here")
    assert str(caught.value) == "Not enough hosts available: 5 asked, 3 known (from here)"


def excluded(text: str, *words: str) -> tuple[list[str], str]:
    """Return what is left of nodes without ``words``, and what is told."""
    nodes = parse_names(text, "here")
    exclusion = Exclusion(nodes)
    for word in words:
        exclusion.names(word, parse_names(word, "-x"))
    left = [f"{name}:{port}" if port else name for name, port in exclusion.left(nodes)]
    return left, "; ".join([*exclusion.ambiguous, exclusion.problem("here")])


def test_leaving_out_with_and_without_ports() -> None:
    assert excluded("a b a c:1 c:2 d:3", "a", "c:2", "d") == (["b", "c:1"], "")
    assert excluded("a:1 a:2", "a:3") == (
        ["a:1", "a:2"],
        "-x 'a:3' excludes nothing: not among the nodes from here",
    )


@pytest.mark.parametrize(
    ("nodes", "word", "left"),
    [
        ("node1 Node2.", "NODE1.", "Node2."),
        ("node1 Node2.", "node2", "node1"),
        ("node1.a.org node2.a.org", "Node1", "node2.a.org"),
        ("node1 node1.a.org", "node1", "node1.a.org"),
        ("root@node1.a.org me@node2", "node1", "me@node2"),
        ("root@node1 me@node1", "me@node1", "root@node1"),
        ("FE80::1 ::1", "fe80::1", "::1"),
        ("STRASSE straße", "strasse", "straße"),
    ],
)
def test_names_to_exclude_are_compared_as_dns_does(nodes: str, word: str, left: str) -> None:
    assert excluded(nodes, word) == (left.split(), "")


def test_a_short_name_of_several_domains_is_told() -> None:
    assert excluded("n1.a n1.b n2.a", "n1") == (
        ["n2.a"],
        "-x 'n1' excludes 'n1.a', 'n1.b': give full names; ",
    )


def test_names_that_match_nothing_are_told() -> None:
    told = "not among the nodes from here"
    assert excluded("a b", "c") == (["a", "b"], f"-x 'c' excludes nothing: {told}")
    assert excluded("n1 n2", "n1.a.org") == (
        ["n1", "n2"],
        f"-x 'n1.a.org' excludes nothing: {told}; the list has 'n1'",
    )
    assert excluded("10.0.0.1 n", "10") == (["10.0.0.1", "n"], f"-x '10' excludes nothing: {told}")
    many = [f"x{number}" for number in range(9)]
    assert excluded("a", *many)[1] == f"-x 'x0', 'x1', 'x2', 'x3', 'x4' and 4 more exclude nothing: {told}"


def test_a_draw_keeps_the_order_and_follows_the_lots() -> None:
    nodes = [(f"n{number}", 0) for number in range(8)]
    lots = [5, 1, 7, 0, 3, 2, 6, 4]
    raw = b"".join(lot.to_bytes(8, "big") for lot in lots)
    drawn = draw(nodes, 3, "here", lambda size: raw[:size])
    assert drawn == [("n1", 0), ("n3", 0), ("n5", 0)]  # who have lots 1, 0 and 2
    assert draw(nodes, 8, "here", os.urandom) == nodes
    with pytest.raises(UsageError, match="Not enough hosts available: 9 asked, 8 known"):
        draw(nodes, 9, "here", os.urandom)


def test_hosts_file_form() -> None:
    table = hosts.parse("# all\n127.0.0.1 Node1 n1\n\n::1\tnode2 # two\n9.9.9.9 node1\n")
    assert table == {"node1": "127.0.0.1 9.9.9.9", "n1": "127.0.0.1", "node2": "::1"}
    table = hosts.parse("".join(f"10.0.0.{number} n\n10.0.0.{number} n.\n" for number in range(1, 99)))
    assert table == {"n": " ".join(f"10.0.0.{number}" for number in range(1, 9))}
    assert hosts.parse("fe80::1%Eth0 N\n::1 n") == {"n": "fe80::1%Eth0 ::1"}  # interfaces have a case
    with pytest.raises(UsageError, match="line 2 has one field"):
        hosts.parse("1.1.1.1 a\nb\n")


def test_resolve_prefers_the_file_then_literals_then_the_system(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.1.1 node1\n::1 node6\n")
    nodes = [("NODE1", 0), ("node6", 9), ("10.1.2.3", 0), ("fe80::2", 7), ("localhost", 0)]
    nodes += [("no..such", 0), ("x" * 300, 0), ("1.2.3.4.5", 0)]
    found = resolve(nodes, 2875, str(path))
    assert found[:4] == [b"127.0.1.1:2875", b"[::1]:9", b"10.1.2.3:2875", b"[fe80::2]:7"]
    assert found[4] in (b"127.0.0.1:2875", b"[::1]:2875")
    assert found[5:] == [b"", b"", b""]


def test_what_gmond_told_is_for_names_that_do_not_resolve() -> None:
    told = {"no..such": "10.1.1.1", "10.1.2.3": "10.9.9.9", "no..other": "nonsense"}
    nodes = [("NO..such", 0), ("10.1.2.3", 0), ("no..other", 0)]
    assert resolve(nodes, 2875, None, told) == [b"10.1.1.1:2875", b"10.1.2.3:2875", b""]


def test_many_names_are_asked_at_the_same_time() -> None:
    nodes = [(f"no..such-{number}", 0) for number in range(20)] + [("localhost", 0)]
    found = resolve(nodes, 1, None)
    assert found[:20] == [b""] * 20
    assert found[20].endswith(b":1")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "No such file"),
        ("999.1.1.1 node1", "line 1: '999.1.1.1' is not an IP address (node node1)"),
        ("# x\n10.0.0.1 node1\nWeb node1", "line 3: 'web' is not an IP address (node node1)"),
        ("10.0.0.1,10.0.0.2 node1", "line 1: '10.0.0.1,10.0.0.2' is not an IP address"),
        ("alone", "line 1 has one field"),
    ],
)
def test_bad_hosts_files_are_named(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "hosts"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"GEXEC_HOSTS file .*hosts: ") as caught:
        resolve([("node1", 0)], 1, str(path))
    assert sentence in str(caught.value)


def test_a_hosts_file_from_windows_and_names_with_a_trailing_dot(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"\xef\xbb\xbf10.0.0.1 Node1 n1.site.org.\r\n10.0.0.2\tnode2.\r\n")
    nodes = [("node1.", 0), ("N1.site.org", 0), ("node2", 0), ("NODE2.", 5), ("n1.SITE.org.", 0)]
    assert resolve(nodes, 1, str(path)) == [
        b"10.0.0.1:1", b"10.0.0.1:1", b"10.0.0.2:1", b"10.0.0.2:5", b"10.0.0.1:1",
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf16_is_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "hosts"
    path.write_bytes("10.0.0.1 node1\n".encode(encoding))
    with pytest.raises(UsageError, match=r"^GEXEC_HOSTS file .*hosts is UTF-16 text: convert it"):
        resolve([("node1", 0)], 1, str(path))


def test_lists_are_decoded_without_marks_and_never_binary() -> None:
    assert decoded(b"\xef\xbb\xbfa\r\n\xef\xbb\xbfb\xff\r\n", "f") == "a\r\nb\udcff\r\n"
    assert decoded(b"", "f") == ""
    for raw in (b"\x7fELF\x02\x01", b"a\nb\0c", b"\x1b[2J"):
        with pytest.raises(UsageError, match=r"^f is binary: expected a text with names$"):
            decoded(raw, "f")


def test_origin_is_the_address_towards_the_nodes() -> None:
    assert origin_ipv4([b"", b"[::1]:5", b"127.0.0.1:2875"]) == b"\x7f\0\0\x01"
    assert origin_ipv4([b""]) == b"\x7f\0\0\x01"
