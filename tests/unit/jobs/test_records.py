"""What keepers write about their ranks, and what is not taken for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gexec.errors import ProtocolError
from gexec.jobs.records import COMMAND_MAX, END_BYTES, RankEnd, RankRecord, clipped_command
from gexec.wire.outcome import Outcome, exited, timed_out


def record(**changed: Any) -> RankRecord:
    fields: dict[str, Any] = {
        "job": "ab" * 16, "rank": 1, "ranks": 2, "name": "build", "node": "node001", "user": "ann",
        "command": ["sh", "-c", "true"], "cwd": "/tmp", "started_s": 1000.5, "boot": "x", "keeper": [4, 5],
        "lease_s": 60.0, "keep_bytes": 65536,
    }  # fmt: skip
    return RankRecord(**(fields | changed))


def fields_of(what: RankRecord | RankEnd) -> dict[str, Any]:
    return {name: getattr(what, name) for name in what.__slots__}


def test_a_record_comes_back_as_it_was() -> None:
    first = record(command=["a\udcff", "b\nc"], cwd="/x\udcfe")
    assert fields_of(RankRecord.decode(first.encode())) == fields_of(first)


@pytest.mark.parametrize("outcome", [exited(3), Outcome(1, 9), timed_out(15, "ran longer than 5 s")])
def test_an_end_comes_back_as_it_was(outcome: Outcome) -> None:
    end = RankEnd(outcome, 2000.0, (5, 6), (1, 0), "No space left on device", True)
    assert fields_of(RankEnd.decode(end.encode())) == fields_of(end)


def test_the_longest_end_fits_into_its_reserve() -> None:
    end = RankEnd(
        timed_out(255, "\udcff" * 3000), 1e12, (10**18, 10**18), (10**18, 10**18), "\u20ac" * 3000, True
    )
    assert len(end.encode()) <= END_BYTES


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"rank": "1"}, {"rank": True}, {"command": "sh"}, {"command": [1]}, {"keeper": [1]},
        {"keeper": ["1", "2"]}, {"started_s": None}, {"name": 5},
    ],
)  # fmt: skip
def test_a_malformed_record_is_refused(change: dict[str, Any]) -> None:
    raw = json.loads(record().encode()) | change
    with pytest.raises(ProtocolError):
        RankRecord.decode(json.dumps(raw).encode())


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"1"])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        RankRecord.decode(raw)


@pytest.mark.parametrize(
    "outcome", [None, [0], [0, 256, ""], [9, 0, ""], [-1, 0, ""], ["0", 0, ""], [0, 0, None], [1, 65, ""]]
)
def test_an_outcome_that_cannot_be_is_refused(outcome: Any) -> None:
    raw = json.loads(RankEnd(exited(0), 1.0, (0, 0)).encode()) | {"outcome": outcome}
    with pytest.raises(ProtocolError):
        RankEnd.decode(json.dumps(raw).encode())


def test_a_long_command_is_cut() -> None:
    assert clipped_command([b"a", b"b"]) == ["a", "b"]
    shown = clipped_command([b"x" * 5000, b"y"])
    assert shown == ["x" * COMMAND_MAX + "..."]
    shown = clipped_command([b"word"] * 5000)
    assert shown[-1].endswith("...")
    assert sum(map(len, shown)) <= COMMAND_MAX + 3
