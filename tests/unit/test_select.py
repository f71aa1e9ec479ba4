"""Which nodes: names, order, ports, exclusion, and their addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from gexec.client.resolve import origin_ipv4, resolve
from gexec.errors import UsageError
from gexec.select import hosts
from gexec.select.nodes import choose, parse_names


def test_names_keep_their_order_their_letters_and_their_doubles() -> None:
    choice = choose("Node2  node01\tnode1\nnode1")
    assert choice.nodes == [("Node2", 0), ("node01", 0), ("node1", 0), ("node1", 0)]
    assert choice.source == "GEXEC_SVRS"


def test_named_nodes_take_the_place_of_the_configured() -> None:
    choice = choose("other", ["a,b c", "d"])
    assert [name for name, _ in choice.nodes] == ["a", "b", "c", "d"]
    assert choice.source == "-w"


def test_ports_and_addresses() -> None:
    text = "n:2875 [::1]:77 [fe80::1] ::2 10.0.0.1:5 10.0.0.2"
    expected = [("n", 2875), ("::1", 77), ("fe80::1", 0), ("::2", 0), ("10.0.0.1", 5), ("10.0.0.2", 0)]
    assert parse_names(text, "GEXEC_SVRS") == expected


@pytest.mark.parametrize("text", ["n:", "n:0", "n:65536", "n:x", ":5", "[::1]x", "[::1]:", "[:1", "[]:5"])
def test_malformed_names_are_named(text: str) -> None:
    with pytest.raises(UsageError, match="GEXEC_SVRS: '"):
        choose(f"good {text}")


@pytest.mark.parametrize("text", ["node[1-3]", "node[1,3]", "a,node[1-3]x,b"])
def test_ranges_are_refused_in_clear_words(text: str) -> None:
    with pytest.raises(UsageError, match=r"-w: 'node.*ranges in brackets are not understood yet"):
        choose(None, [text])


def test_the_first_n() -> None:
    assert [name for name, _ in choose("a b c", count=2).nodes] == ["a", "b"]
    assert len(choose("a b c", count=0).nodes) == 3
    with pytest.raises(UsageError) as caught:
        choose("a b c", count=5)
    assert str(caught.value) == "Not enough hosts available: 5 asked, 3 known (from GEXEC_SVRS)"


def test_exclusion_comes_before_counting() -> None:
    choice = choose("a b a c:1 c:2", excluded=["a", "c:2,x"], count=2)
    assert choice.nodes == [("b", 0), ("c", 1)]
    with pytest.raises(UsageError, match="no node is left"):
        choose("a", excluded=["a"])


@pytest.mark.parametrize(
    ("configured", "state"), [(None, "is not set"), ("", "is empty"), (" \n", "is empty")]
)
def test_no_nodes_names_both_ways_to_name_them(configured: str | None, state: str) -> None:
    with pytest.raises(UsageError, match=f"GEXEC_SVRS {state}.*-w"):
        choose(configured)


def test_no_name_in_w() -> None:
    with pytest.raises(UsageError, match="option -w names no node"):
        choose("a", [","])


def test_hosts_file_form() -> None:
    table = hosts.parse("# all\n127.0.0.1 Node1 n1\n\n::1\tnode2 # two\n9.9.9.9 node1\n")
    assert table == {"node1": "127.0.0.1", "n1": "127.0.0.1", "node2": "::1"}
    with pytest.raises(UsageError, match="line 2 has one word"):
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


def test_many_names_are_asked_at_the_same_time() -> None:
    nodes = [(f"no..such-{number}", 0) for number in range(20)] + [("localhost", 0)]
    found = resolve(nodes, 1, None)
    assert found[:20] == [b""] * 20
    assert found[20].endswith(b":1")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "No such file"),
        ("999.1.1.1 node1", "'999.1.1.1', the address of node1, is none"),
        ("alone", "line 1 has one word"),
    ],
)
def test_bad_hosts_files_are_named(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "hosts"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"GEXEC_HOSTS file .*hosts: ") as caught:
        resolve([("node1", 0)], 1, str(path))
    assert sentence in str(caught.value)


def test_origin_is_the_address_towards_the_nodes() -> None:
    assert origin_ipv4([b"", b"[::1]:5", b"127.0.0.1:2875"]) == b"\x7f\0\0\x01"
    assert origin_ipv4([b""]) == b"\x7f\0\0\x01"
