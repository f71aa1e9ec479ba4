"""The token bucket of authd."""

from __future__ import annotations

from gexec.security.rate import BUCKETS_MAX, Rate


def test_burst_then_rate() -> None:
    rate = Rate(per_s=2, burst=4)
    assert [rate.take(1, 100.0) for _ in range(5)] == [True] * 4 + [False]
    assert not rate.take(1, 100.4)
    assert rate.take(1, 100.6)
    assert not rate.take(1, 100.6)
    assert [rate.take(1, 200.0) for _ in range(5)] == [True] * 4 + [False]


def test_users_do_not_share() -> None:
    rate = Rate(per_s=1, burst=1)
    assert rate.take(1, 0)
    assert not rate.take(1, 0)
    assert rate.take(2, 0)


def test_memory_is_bounded_and_forgets_the_full_first() -> None:
    rate = Rate(per_s=1, burst=2)
    for key in range(BUCKETS_MAX):
        rate.take(key, 0)
    for _ in range(2):
        rate.take(7, 10)
    assert not rate.take(7, 10)
    for key in range(BUCKETS_MAX, 3 * BUCKETS_MAX):
        rate.take(key, 10)
        assert len(rate._buckets) <= BUCKETS_MAX
