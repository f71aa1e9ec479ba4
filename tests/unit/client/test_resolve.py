"""Names to addresses: several of one name, zones, and resolvers that do not answer."""

from __future__ import annotations

import _socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gexec import limits
from gexec.client import resolve


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """An end for who waits for it, at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("silent", [1, 2, 40])
@pytest.mark.parametrize("known", [0, 1, 4])
def test_names_without_an_answer_in_time_hold_nobody_up(
    monkeypatch: pytest.MonkeyPatch, over: threading.Event, silent: int, known: int
) -> None:
    # A name server that is silent cannot be had here without changing the machine's own.
    def lookup(name: str) -> str:
        if name.startswith("silent"):
            over.wait(60)
        return "10.1.1.1"

    monkeypatch.setattr(resolve, "_lookup", lookup)
    monkeypatch.setattr(limits, "RESOLVE_MAX_S", 0.2)
    # The last names are asked first; as many as there are threads are silent, then nobody asks any more.
    nodes = [(f"silent{number}", 0) for number in range(silent)]
    nodes += [(f"known{number}", 0) for number in range(known)]
    assert resolve.resolve(nodes, 1, None) == [b"?1"] * silent + [b"10.1.1.1:1"] * known


def _answers(monkeypatch: pytest.MonkeyPatch, answers: dict[bytes, list[tuple[object, ...]] | int]) -> None:
    def getaddrinfo(name: bytes, *_: object) -> list[tuple[object, ...]]:
        answer = answers.get(name, _socket.EAI_NONAME)
        if isinstance(answer, int):
            raise _socket.gaierror(answer, "")
        return [(0, 0, 0, "", place) for place in answer]

    # What a resolver answers depends on the machine; its form does not.
    monkeypatch.setattr(_socket, "getaddrinfo", getaddrinfo)


def test_all_addresses_of_a_name_are_kept_and_the_families_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    six: list[tuple[object, ...]] = [(f"2001:db8::{number}", 0, 0, 0) for number in (1, 2, 3)]
    four: list[tuple[object, ...]] = [("10.0.0.1", 0), ("10.0.0.1", 0)]
    _answers(monkeypatch, {b"both": [*six, *four], b"many": [(f"10.0.0.{n}", 0) for n in range(20)]})
    both, many = resolve.resolve([("both", 0), ("many", 7)], 1, None)
    assert both == b"[2001:db8::1]:1,10.0.0.1:1,[2001:db8::2]:1,[2001:db8::3]:1"
    assert many == b",".join(b"10.0.0.%d:7" % number for number in range(8))


def test_families_take_turns_whichever_is_first() -> None:
    assert resolve.in_turn(["1.1.1.1", "::1", "::2", "2.2.2.2"]) == ["1.1.1.1", "::1", "2.2.2.2", "::2"]
    assert resolve.in_turn(["1.1.1.1"]) == ["1.1.1.1"]


def test_a_name_server_that_does_not_answer_is_not_a_name_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _answers(monkeypatch, {b"later": _socket.EAI_AGAIN, b"told": _socket.EAI_AGAIN})
    nodes = [("later", 0), ("never", 0), ("Told.", 0)]
    assert resolve.resolve(nodes, 1, None, {"told": "10.9.9.9"}) == [b"?", b"", b"10.9.9.9:1"]


def test_a_trailing_dot_is_no_part_of_a_name_in_etc_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, {b"node1": [("10.0.0.1", 0)]})
    assert resolve.resolve([("node1.", 0), (".", 0)], 1, None) == [b"10.0.0.1:1", b""]


def test_a_zone_is_kept_as_the_name_of_its_interface(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lo = _socket.if_nametoindex("lo")
    path = tmp_path / "hosts"
    path.write_text(f"fe80::2%{lo} node2\n10.0.0.2 node2\n")
    _answers(monkeypatch, {b"node3": [("fe80::3", 0, 0, lo)]})
    nodes = [("fe80::1%lo", 0), (f"fe80::1%{lo}", 0), ("node2", 0), ("node3", 0), ("fe80::1%Eth9", 0)]
    assert resolve.resolve(nodes, 1, str(path)) == [
        b"[fe80::1%lo]:1", b"[fe80::1%lo]:1", b"[fe80::2%lo]:1,10.0.0.2:1", b"[fe80::3%lo]:1",
        b"[fe80::1%Eth9]:1",
    ]  # fmt: skip
    for wrong in ("fe80::1%", "10.0.0.1%lo", "fe80::1%a,b", "fe80::1%" + "x" * 16, "fe80::1%a]"):
        assert resolve.resolve([(wrong, 0)], 1, None) == [b""]


def test_a_job_with_too_many_addresses_keeps_fewer_of_each_node(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    many = [f"2001:db8:1111:2222:3333:4444:5555:{number}" for number in range(1111, 1119)]
    path.write_text("".join(f"{address} node\n" for address in many))
    entries = resolve.resolve([("node", 0)] * 10_000, 1, str(path))
    assert sum(map(len, entries)) <= limits.JOB_ADDRESSES_BYTES
    assert set(entries) == {b",".join(b"[%b]:1" % address.encode() for address in many[:4])}
