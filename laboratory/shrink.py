"""The smallest scenario that still violates the same rule: fewer ranks, fewer faults, less of everything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from laboratory import cut as cuts
from laboratory.cut import Cut
from laboratory.scenario import scenario
from laboratory.script import Scenario
from laboratory.simulator import Simulation


def violation(seed: int, made: Scenario) -> str:
    """Run a scenario; return what it violates, without numbers: "" if nothing."""
    try:
        Simulation(seed, made).run()
    except Exception as error:
        return re.sub(r"\d+", "N", f"{type(error).__name__}: {error}")[:40]
    return ""


def shrink(seed: int, tried: Callable[[Cut, bool], None] = lambda cut, fails: None) -> Cut | None:
    """Return the smallest cut of a seed that fails like the whole seed; None if that does not fail.

    Args:
        tried: is called with each cut that was tried, and whether it fails in the same way.
    """
    wrong = violation(seed, scenario(seed))
    if not wrong:
        return None
    best = Cut(faults=tuple(range(len(scenario(seed).faults))))
    shrinking = True
    while shrinking:
        shrinking = False
        for cut in _smaller(best, scenario(seed).spec.ranks):
            fails = violation(seed, cuts.apply(cut, scenario(seed))) == wrong
            tried(cut, fails)
            if fails:
                best, shrinking = cut, True
                break
    return best


def _smaller(cut: Cut, ranks: int) -> Iterator[Cut]:
    """Return cuts that are smaller, those that leave least first."""
    if not cut.quiet:
        yield cut._replace(quiet=True)
    if not cut.plain:
        yield cut._replace(plain=True)
    numbers = cut.faults or ()
    for size in dict.fromkeys((len(numbers), len(numbers) // 2, 1)):
        for begin in range(0, len(numbers), max(1, size)):
            if size:
                yield cut._replace(faults=numbers[:begin] + numbers[begin + size :])
    now = cut.ranks or ranks
    for fewer in dict.fromkeys((1, now // 4, now // 2, now - now // 4, now - 1)):
        if 0 < fewer < now:
            yield cut._replace(ranks=fewer)
