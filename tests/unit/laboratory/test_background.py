"""Simulated background jobs: keepers outlive gexecd, and the checks find what would be wrong with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gexec import limits, native
from gexec.jobs.segments import Row
from gexec.jobs.states import RESTARTED, UNKEPT
from gexec.wire import outcome as outcomes
from gexec.wire.background import Background
from gexec.wire.frames import STDOUT
from laboratory import faults, keepers, queries, script
from laboratory.clients import Habits
from laboratory.faults import background
from laboratory.processes import Plan
from laboratory.scenario import scenario
from laboratory.script import Fault, Scenario
from laboratory.simulator import Simulation
from laboratory.world import Violation

PIECE = bytes(range(250)) * 40


def job(pieces: int, query: str, begins_s: float, *struck: Fault) -> Simulation:
    """Return a background job on three nodes, which writes each second, and a query of it."""
    plan = Plan([(1.0, STDOUT, PIECE)] * pieces, 3)
    made = Scenario(script.job(3, 2), [plan] * 3, Habits(), list(struck))
    made.spec.background = Background(b"", limits.KEEP_MIN_BYTES).encode()
    background.settle(made)
    asked = [Plan([], 0, query=query)] * 3
    made.beside = [Scenario(script.job(3, 2), asked, Habits(), begins_s=begins_s)]
    return Simulation(1, made.share())


@pytest.mark.parametrize("begins_s", [0.5, 2.5, 20.0])
def test_attach_shows_everything_and_ends_as_the_command(begins_s: float) -> None:
    simulation = job(5, "attach", begins_s)
    simulation.run()
    client = simulation.runs[1].client
    assert {outcome.describe() for outcome in client.outcomes.values()} == {"exited 3"}
    assert [client.received[rank, STDOUT] for rank in range(3)] == [bytearray(PIECE * 5)] * 3


def test_a_rank_outlives_its_gexecd() -> None:
    struck = Fault(1.2, "kill", 1), Fault(2.0, "restart", 1), Fault(3.0, "upgrade", 2, lasts_s=1.0)
    simulation = job(5, "attach", 4.0, *struck)
    simulation.run()
    run = simulation.runs[1]
    assert [record.starts for record in simulation.runs[0].job.records] == [1, 1, 1]
    assert run.client.outcomes[1] == outcomes.exited(3)
    assert run.client.received[1, STDOUT] == PIECE * 5


def test_head_and_tail_are_kept_of_much_output() -> None:
    simulation = job(12, "output", 30.0)
    simulation.run()
    run, written = simulation.runs[1], PIECE * 12
    [place, *_] = simulation.runs[0].job.places.values()
    head, *tail = place.segments(STDOUT)
    assert head == (0, limits.KEEP_MIN_BYTES // 5)
    shown = run.client.received[0, STDOUT]
    assert shown == written[: head.end] + written[tail[0].offset :]
    query = run.job.records[0].query
    assert query is not None
    assert [(stream, *gap) for stream, gap in query.gaps] == [(STDOUT, head.end, tail[0].offset)]


@pytest.mark.parametrize(("kind", "text", "starts"), [("keeper_killed", UNKEPT, 1), ("reboot", RESTARTED, 1)])
def test_a_rank_without_its_keeper_is_lost(kind: str, text: str, starts: int) -> None:
    simulation = job(5, "wait", 8.0, Fault(1.2, kind, 1), Fault(2.0, "restart", 1))
    simulation.run()
    first, second = simulation.runs
    assert first.job.places[1].state().outcome == outcomes.lost(text)
    assert first.job.records[1].starts == starts
    assert second.client.outcomes[1] == outcomes.exited(255)
    assert second.client.outcomes[2] == outcomes.exited(3)


def test_kill_ends_a_command() -> None:
    simulation = job(12, "kill", 2.0)
    simulation.run()
    first, second = simulation.runs
    assert second.client.outcomes[0] == outcomes.exited(0)
    assert first.job.places[0].state().outcome == outcomes.killed(15)


def test_a_rank_that_is_not_kept_is_asked_for_in_vain() -> None:
    simulation = job(1, "wait", 0.0)
    simulation.made.plans[:] = [Plan([], 0, refusal=outcomes.not_started("no such file", 2))] * 3
    simulation.run()
    assert simulation.runs[1].client.outcomes[0] == outcomes.exited(1)


def _found(kinds: tuple[str, ...]) -> list[str]:
    found = []
    for seed in range(1, 41):
        try:
            Simulation(seed, scenario(seed, tuple(faults.BY_NAME[kind] for kind in kinds))).run()
        except Violation as violation:
            found.append(str(violation))
    return found


def _whole_tail_goes(row: Row) -> object:
    return row.segments[1:]


def _nothing_goes(row: Row) -> object:
    return ()


_right_read = keepers.KeptPlace.read


def _turned(place: keepers.KeptPlace, stream: int, position: int) -> object:
    piece = _right_read(place, stream, position)
    return piece[1:] + piece[:1] if isinstance(piece, bytes) else piece


DEFECTS: list[tuple[object, str, object, str]] = [
    (keepers.KeptCommand, "outlives", False, "the job does not end"),
    (Row, "doomed", _whole_tail_goes, "are not kept"),
    (Row, "doomed", _nothing_goes, "bytes are kept"),
    (keepers.KeptPlace, "read", _turned, "shows other bytes"),
    (queries, "as_process", lambda outcome: outcomes.exited(0), "a query is exited 0"),
]


@pytest.mark.skipif(native.in_use(), reason="a defect needs the source of what it changes")
@pytest.mark.parametrize(("owner", "name", "wrong", "text"), DEFECTS)
def test_a_defect_of_keepers_and_queries_is_found(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, wrong: Callable[..., object], text: str
) -> None:
    monkeypatch.setattr(owner, name, wrong)
    found = _found(("background", "kill", "restart"))
    assert any(text in each for each in found), found
