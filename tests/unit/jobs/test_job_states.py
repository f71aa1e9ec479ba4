"""Attack 136: nodes' lines about background jobs are checked, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_records import record

from gexec.errors import ProtocolError
from gexec.jobs.records import RankEnd
from gexec.jobs.states import RESTARTED, UNKEPT, RankState
from gexec.wire.outcome import LOST, exited


def state(end: RankEnd | None = None, *, is_kept: bool = True, boot: str = "x", **changed: Any) -> RankState:
    return RankState.of(
        record(**changed), end, uid=1000, is_kept=is_kept, boot=boot, lengths=(10, 2), kept_bytes=12
    )


def test_a_rank_runs_while_its_keeper_does() -> None:
    assert state().runs
    assert state().outcome is None


def test_a_rank_has_ended_as_its_end_says() -> None:
    told = state(RankEnd(exited(3), 5.0, (7, 8)), is_kept=False)
    assert (told.runs, told.outcome, told.lengths, told.ended_s) == (False, exited(3), (7, 8), 5.0)


@pytest.mark.parametrize(("boot", "why"), [("x", UNKEPT), ("y", RESTARTED)])
def test_a_rank_without_keeper_and_end_is_lost(boot: str, why: str) -> None:
    outcome = state(is_kept=False, boot=boot).outcome
    assert outcome is not None
    assert (outcome.kind, outcome.text) == (LOST, why)


@pytest.mark.parametrize("end", [None, RankEnd(exited(3), 5.0, (7, 8))])
def test_a_line_comes_back_as_it_was(end: RankEnd | None) -> None:
    told = state(end, is_kept=end is None, command=["a\udcff"])
    assert RankState.parse(told.line()).fields() == told.fields()


@pytest.mark.parametrize(
    "change",
    [
        {"job": "x"}, {"job": "AB" * 16}, {"rank": 2}, {"rank": -1}, {"rank": 1.0}, {"ranks": 65537},
        {"node": 5}, {"node": "x" * 9999}, {"uid": "0"}, {"command": "sh"}, {"started_s": -1},
        {"started_s": float("nan")}, {"lengths": [1]}, {"lengths": [1, -1]}, {"outcome": [0, 0, ""]},
        {"runs": False}, {"held": 0}, {"more": 1},
    ],
)  # fmt: skip
def test_attack_136_a_line_with_another_field_is_refused(change: dict[str, Any]) -> None:
    told = json.loads(state().line()) | change
    with pytest.raises(ProtocolError):
        RankState.parse(json.dumps(told).encode())


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"hello", b"\xff\xfe", b"[" * 60_000])
def test_attack_136_a_line_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        RankState.parse(line)
