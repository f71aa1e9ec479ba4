"""When a receiver counts as one that holds up the others."""

from __future__ import annotations

from gexec.files.pace import Pace


def test_only_own_time_counts_and_only_over_a_while() -> None:
    pace = Pace(1000, over_s=2.0)
    assert not pace.is_too_slow(10, 1.9)  # slow, but not for long enough
    assert pace.is_too_slow(10, 0.1)
    assert pace.bytes_per_s == 10.0


def test_each_while_is_judged_anew() -> None:
    pace = Pace(1000, over_s=1.0)
    assert not pace.is_too_slow(1_000_000, 1.0)
    assert pace.is_too_slow(999, 1.0)
    assert not pace.is_too_slow(1000, 1.0)


def test_no_floor() -> None:
    pace = Pace(0, over_s=1.0)
    assert not any(pace.is_too_slow(0, 10.0) for _ in range(10))
