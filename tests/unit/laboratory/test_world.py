"""The order in which a simulated host handles what came during a freeze."""

from __future__ import annotations

import pytest

from laboratory.daemons import SimMachine
from laboratory.world import SimTimers, World


@pytest.mark.parametrize("timers_first", [False, True])
def test_order_after_a_freeze(timers_first: bool) -> None:
    world, host = World(1), SimMachine()
    order: list[str] = []
    timers = SimTimers(world, host)
    timers.call_at(1.0, lambda: order.append("timer 1"))
    world.after(2.0, host, order.append, "bytes 2")
    timers.call_at(3.0, lambda: order.append("timer 3"))
    world.after(3.5, host, order.append, "bytes 3")
    host.frozen_until_s = 5.0
    if timers_first:
        world.timers_first.add(host)
    timers.call_at(6.0, lambda: order.append("timer 6"))
    world.news = False
    assert not world.run(10.0)
    if timers_first:
        assert order == ["timer 1", "timer 3", "bytes 2", "bytes 3", "timer 6"]
    else:
        assert order == ["timer 1", "bytes 2", "timer 3", "bytes 3", "timer 6"]


def test_order_is_kept_by_a_second_freeze() -> None:
    world, host = World(1), SimMachine()
    order: list[str] = []
    world.timers_first.add(host)
    world.after(1.0, host, order.append, "bytes")
    SimTimers(world, host).call_at(2.0, lambda: order.append("timer"))
    host.frozen_until_s = 3.0
    world.after(2.5, None, setattr, host, "frozen_until_s", 4.0)
    world.news = False
    assert not world.run(10.0)
    assert order == ["timer", "bytes"]


def test_a_cancelled_timer_does_nothing() -> None:
    world = World(1)
    order: list[str] = []
    SimTimers(world, SimMachine()).call_at(1.0, lambda: order.append("timer")).cancel()
    world.news = False
    assert not world.run(2.0)
    assert order == []
