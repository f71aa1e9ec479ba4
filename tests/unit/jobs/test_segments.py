"""What is kept of a stream: the first bytes, the last ones, and the truth about the gap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec.jobs.segments import PARTS, Gap, Row, Segment, file_name, parsed, place

BUDGET = 50
PART = BUDGET // PARTS


def filled(row: Row, count: int) -> None:
    while count:
        if not row.room:
            row.begin()
        step = min(count, row.room)
        row.wrote(step)
        count -= step


def test_a_stream_within_its_budget_is_whole() -> None:
    row = Row(BUDGET)
    filled(row, 33)
    assert row.segments == ((0, 10), (10, 10), (20, 10), (30, 3))
    assert (row.end, row.room) == (33, 7)


def test_of_a_long_stream_the_head_stays_and_the_oldest_of_the_tail_goes() -> None:
    row = Row(BUDGET)
    filled(row, 1005)
    assert row.segments == ((0, 10), (970, 10), (980, 10), (990, 10), (1000, 5))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3 * BUDGET)), max_size=40))
def test_kept_bytes_stay_within_the_budget_and_offsets_are_true(steps: list[tuple[bool, int]]) -> None:
    row, total = Row(BUDGET), 0
    for is_written, count in steps:
        if is_written:
            filled(row, count)
        else:
            row.lost(count)
        total += count
        assert row.end == total
        assert sum(segment.size for segment in row.segments) <= BUDGET
        ends = [segment.end for segment in row.segments]
        starts = [segment.offset for segment in row.segments[1:]]
        assert all(end <= start for end, start in zip(ends, starts, strict=False))
    if row.segments:
        assert row.segments[-1].end <= row.end


def test_after_lost_bytes_a_segment_begins_at_its_own_offset() -> None:
    row = Row(BUDGET)
    filled(row, 3)
    row.lost(100)
    filled(row, 2)
    assert row.segments == ((0, 3), (103, 2))
    assert row.dropped == 100
    row.begin()
    row.lost(5)
    assert row.segments[-1] == (103, 2)


def test_a_tail_has_a_bounded_number_of_segments() -> None:
    row = Row(5_000_000)
    for _ in range(500):
        row.lost(1)
        filled(row, 1)
    assert len(row.segments) <= 65


@pytest.mark.parametrize("stream", [0, 1])
def test_names_of_files_are_read_as_they_are_written(stream: int) -> None:
    assert parsed(file_name(stream, 1234)) == (stream, 1234)


@pytest.mark.parametrize(
    "name",
    ["job.json", "stdout", "stdout.", "stdout.01", "stdout.-1", "stdin.0", "stderr.x", "stdout." + "9" * 19],
)
def test_other_names_are_no_segments(name: str) -> None:
    assert parsed(name) is None


def test_where_a_byte_is() -> None:
    segments = [Segment(0, 10), Segment(50, 10), Segment(60, 0)]
    assert place(segments, 9) == (0, 10)
    assert place(segments, 10) == Gap(10, 50)
    assert place(segments, 60) is None
    assert place([], 0) is None
