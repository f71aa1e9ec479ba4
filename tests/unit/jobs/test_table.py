"""Ranks as jobs: which one a word means, and how they are shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_job_states import state

from gexec.errors import UsageError
from gexec.jobs import table
from gexec.jobs.records import RankEnd
from gexec.jobs.states import RankState
from gexec.wire.outcome import exited


def rank(number: int, **changed: Any) -> RankState:
    fields: dict[str, Any] = {"rank": number, "ranks": 3, "node": f"node{number:03}", "name": ""}
    return state(**(fields | changed))


def ended(number: int, status: int, **changed: Any) -> RankState:
    return rank(number, end=RankEnd(exited(status), 5.0, (1, 1)), is_kept=False, **changed)


OTHER = "cd" * 16


def test_ranks_are_joined_and_sorted_by_their_start() -> None:
    jobs = table.jobs_of(
        [rank(2, started_s=9), rank(0, job=OTHER, started_s=8), rank(0, started_s=9.5), rank(2)]
    )
    assert [(job.id[:2], [each.rank for each in job.ranks]) for job in jobs] == [("cd", [0]), ("ab", [0, 2])]
    assert jobs[1].missing == [1]


def test_states_are_counted_the_most_first() -> None:
    [job] = table.jobs_of([rank(0), ended(1, 3), ended(2, 3)])
    assert job.counts() == {"exited 3": 2, "running": 1}
    assert job.runs


def test_the_table() -> None:
    jobs = table.jobs_of(
        [*map(rank, range(3)), ended(0, 0, job=OTHER, name="build", started_s=2000, ranks=2)]
    )
    lines = table.table(jobs, 2060.0, False)
    heading, first, second = [" ".join(line.split()) for line in lines]
    assert heading == "JOB NAME STATE NODES AGE BYTES COMMAND"
    assert first == "abababababab running node[000-002] 17m 36 bytes sh -c true"
    assert second == "cdcdcdcdcdcd build exited 0 node000 (1 of 2) 1m 2 bytes sh -c true"
    assert {line.index("sh -c") for line in lines[1:]} == {lines[0].index("COMMAND")}
    assert table.table([], 0.0, False) == []


def test_attack_136_nothing_in_the_table_steers_the_terminal() -> None:
    jobs = table.jobs_of([rank(0, node="\x1b[2J", name="\x1b]0;x", command=["\r\n\x07"], user="\x9b")])
    assert all(line.isprintable() for line in table.table(jobs, 0.0, True))


def test_a_word_is_a_name_or_the_beginning_of_an_id() -> None:
    jobs = table.jobs_of([rank(0), rank(0, job=OTHER, name="abab")])
    assert [job.id for job in table.matching(jobs, "abab")] == [OTHER]
    assert [job.id for job in table.matching(jobs, "ababa")] == ["ab" * 16]
    assert table.matching(jobs, "aba") == []
    assert table.matching(jobs, "ABABAB") == []


def test_of_one_name_the_newest_that_runs_is_meant() -> None:
    newest = ended(0, 0, job="ef" * 16, name="x", started_s=3000)
    jobs = table.jobs_of([rank(0, name="x"), rank(0, job=OTHER, name="x", started_s=2000), newest])
    chosen, note = table.only(jobs, "x")
    assert chosen is not None
    assert (chosen.id, note) == (OTHER, "3 jobs are called x: this is cdcdcdcdcdcd, the newest that runs")
    chosen, note = table.only([job for job in jobs if not job.runs] * 2, "x")
    assert chosen is not None
    assert note.endswith("the newest")
    assert table.only(jobs, "y") == (None, "")


def test_a_beginning_of_several_ids_is_an_error() -> None:
    jobs = table.jobs_of([rank(0), rank(0, job="abab" + "0" * 28)])
    with pytest.raises(UsageError, match="the ids of 2 jobs begin with it: "):
        table.only(jobs, "abab")


def test_json_has_all_of_a_job() -> None:
    told = json.loads(table.json_line(table.jobs_of([rank(0), ended(1, 3)])[0]))
    assert told["states"] == {"exited 3": 1, "running": 1}
    assert (told["size"], told["found"], told["bytes"]) == (3, 2, 14)
    assert told["processes"][0]["state"] == "running"
    assert {"state": "exited", "value": 3}.items() <= told["processes"][1].items()


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (59.9, "59s"), (60, "1m"), (7200, "2h"), (200_000, "2d")]
)
def test_ages(seconds: float, text: str) -> None:
    assert table.age(seconds) == text


def test_completions_are_ids_and_names() -> None:
    jobs = table.jobs_of([rank(0, name="x"), rank(0, job=OTHER, name="x")])
    assert sorted(table.completions(jobs)) == ["abababababab", "cdcdcdcdcdcd", "x"]
