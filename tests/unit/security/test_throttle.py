"""Lines about refusals are limited for each source and in total, and what is left out is counted."""

from __future__ import annotations

from gexec import limits
from gexec.security.throttle import OTHERS, Throttle


def written(throttle: Throttle, source: str, kind: str, lines: int, now_s: float = 0.0) -> int:
    """Return how many of so many lines may be written."""
    return sum(throttle.permits(source, kind, now_s) for _ in range(lines))


def test_a_source_has_a_burst_and_then_a_rate() -> None:
    throttle = Throttle()
    assert written(throttle, "uid 1", "policy", 100) == limits.AUDIT_SOURCE_BURST
    assert written(throttle, "uid 1", "policy", 100, now_s=3.0) == 3 * limits.AUDIT_SOURCE_PER_S
    assert written(throttle, "uid 2", "policy", 5, now_s=3.0) == 5  # another one is not affected


def test_what_is_left_out_is_counted_by_kind_until_the_end_of_the_period() -> None:
    throttle = Throttle()
    assert throttle.due_s is None
    written(throttle, "uid 1", "policy", limits.AUDIT_SOURCE_BURST)
    assert throttle.due_s is None
    written(throttle, "uid 1", "policy", 3, now_s=1e-6)
    throttle.permits("uid 1", "replay", 1e-6, count=40)
    assert throttle.due_s == 1e-6 + limits.AUDIT_PERIOD_S
    assert throttle.take_left_out() == {"uid 1": {"policy": 3, "replay": 40}}
    assert (throttle.due_s, throttle.take_left_out()) == (None, {})


def test_attack_111_many_sources_are_bounded_in_lines_and_in_memory() -> None:
    throttle = Throttle()
    lines = sum(written(throttle, f"2001:db8::{number:x}", "credential", 2) for number in range(3000))
    assert lines == limits.AUDIT_BURST
    left_out = throttle.take_left_out()
    assert len(left_out) == limits.AUDIT_SOURCES_MAX + 1
    assert sum(left_out[OTHERS].values()) > 5000
    assert lines + sum(sum(kinds.values()) for kinds in left_out.values()) == 6000
