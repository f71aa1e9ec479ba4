"""Time that stands still while a process is not run."""

from __future__ import annotations

import asyncio

import pytest

from gexec import limits
from gexec.core.countdown import Countdown
from gexec.core.deadlines import MOVES_MAX, SteadyClock, earlier, overslept, wake_s
from gexec.posix.deadline import Deadline


def test_earlier() -> None:
    assert earlier(None, None) is None
    assert earlier(1.0, None) == earlier(None, 1.0) == earlier(1.0, 2.0) == earlier(2.0, 1.0) == 1.0


def test_a_little_late_is_late_and_no_pause() -> None:
    clock = SteadyClock(100.0)
    assert clock.now(101.0, 102.0) == 101.0
    assert clock.now(102.5, 102.0) == 102.5
    assert clock.behind_s == 0
    assert not overslept(102.0 + limits.LATE_S, 102.0)


def test_after_a_pause_the_clock_goes_on_from_where_it_stood() -> None:
    clock = SteadyClock(100.0)
    assert clock.now(101.0, 105.0) == 101.0
    assert clock.now(161.0, 105.0) == 101.0
    assert clock.behind_s == 60.0
    assert clock.now(164.0, 105.0) == 104.0
    assert clock.now(165.0, 105.0) == 105.0


@pytest.mark.parametrize("read_s", [104.99, 105.0, 105.5])
def test_a_deadline_that_was_near_is_some_time_away(read_s: float) -> None:
    clock = SteadyClock(100.0)
    clock.now(read_s, None)
    assert clock.now(200.0, 105.0) == 105.0 - limits.SETTLE_S


def test_a_deadline_moves_by_no_more_than_a_peer_is_given() -> None:
    clock = SteadyClock(0.0)  # and never read since
    assert clock.now(5000.0, 3600.0) == 3600.0 - limits.LOST_AFTER_S


def test_a_timer_never_comes_too_early_by_rounding() -> None:
    clock = SteadyClock(0.0)
    clock.now(0.1, 0.3)
    clock.now(77.7, 0.3)
    due_s = 0.1 + 0.7
    assert clock.now(due_s + clock.behind_s, due_s) >= due_s


def test_who_is_always_late_is_slow_and_not_suspended() -> None:
    clock = SteadyClock(0.0)
    raw_s, due_s = 0.0, 1.0
    for _ in range(MOVES_MAX + 1):
        raw_s += 100.0
        now_s = clock.now(raw_s, due_s)
    assert now_s >= due_s


def test_who_waits_wakes_up_often_enough_to_see_a_pause() -> None:
    assert wake_s(100.0, 101.0) == 101.0
    assert wake_s(100.0, 120.0) == 100.0 + limits.HEARTBEAT_S
    assert wake_s(100.0, 3600.0) == 3540.0


async def test_a_deadline_that_is_on_time_calls_once() -> None:
    called = asyncio.Event()
    Deadline(asyncio.get_running_loop(), 0.0, called.set)
    await called.wait()


def test_a_pause_in_a_countdown_does_not_count() -> None:
    beat_s, wait_s = limits.HEARTBEAT_S, 3 * limits.HEARTBEAT_S
    countdown = Countdown(0.0, wait_s)
    assert countdown.due_s == beat_s
    assert not countdown.over(beat_s)
    assert not countdown.over(500.0)  # two beats are left, and read what came
    assert countdown.due_s == 500.0 + beat_s
    assert not countdown.over(500.0 + beat_s)
    assert countdown.over(500.0 + 2 * beat_s)


def test_a_short_countdown_gets_time_to_read_after_a_pause() -> None:
    countdown = Countdown(0.0, 0.1)
    assert not countdown.over(60.0)
    assert countdown.due_s == 60.0 + limits.SETTLE_S
    assert countdown.over(60.0 + limits.SETTLE_S)


def test_a_countdown_of_who_is_always_late_ends() -> None:
    countdown = Countdown(0.0, 0.1)
    assert [countdown.over(100.0 * turn) for turn in range(1, MOVES_MAX + 2)][-1]
