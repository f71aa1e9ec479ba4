"""Ranks whose outcome no fault may change have the one that was planned."""

from __future__ import annotations

from gexec.wire import jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.outcome import Outcome
from laboratory import faults
from laboratory.evidence import Evidence
from laboratory.faults import kind
from laboratory.script import Scenario, ancestors
from laboratory.world import Violation

#: Faults after which the rank is only asked again.
_OF_A_LINK = ("drop", "reset", "upgrade")


def untouched(made: Scenario) -> list[bool]:
    """Return for each rank whether no fault may change its outcome.

    Its own daemon has no fault (one lost link does not count: the rank is asked again), and the faults on
    the way to it are either all detected at once, or there is only one: an orphan waits ORPHAN_GRACE_S, but a
    silent daemon is detected only after LOST_AFTER_S.
    """
    hits: dict[int, list[str]] = {}
    for fault in made.faults:
        if faults.BY_NAME[fault.kind].detected != kind.HARMLESS:
            for node in (fault.rank, *fault.ranks):
                hits.setdefault(node, []).append(fault.kind)
    return [_is_untouched(made, rank, hits) for rank in range(made.spec.ranks)]


def _is_untouched(made: Scenario, rank: int, hits: dict[int, list[str]]) -> bool:
    own = hits.get(made.first + rank, [])
    above = [made.first + each for each in ancestors(made.spec, rank)]
    on_the_way = [name for node in above for name in hits.get(node, [])] + own
    detected = [faults.BY_NAME[name].detected for name in on_the_way]
    if kind.ISOLATED in detected:
        return False
    at_once = all(how == kind.AT_ONCE for how in detected)
    alone = not own or (len(own) == 1 and own[0] in _OF_A_LINK)
    return alone and (at_once or len(on_the_way) == 1)


def at_end(evidence: Evidence, rank: int, outcome: Outcome) -> None:
    """Check the outcome of one rank."""
    made = evidence.made
    plan = made.plans[rank]
    if made.disturbed or not evidence.untouched[rank] or plan.stops_at is not None or plan.query:
        return
    if plan.refusal is not None and outcome == outcomes.lost(plan.refusal.text):
        return  # the parent could not know that it was the first
    if outcome.kind == outcomes.LOST:
        raise Violation(f"rank {rank} is {outcome.describe()}, although no fault affected it")
    if made.spec.flags & jobspec.STRICT:
        return
    expected = plan.refusal or outcomes.exited(0 if made.spec.flags & jobspec.DETACHED else plan.status)
    if (outcome.kind, outcome.value) != (expected.kind, expected.value):
        raise Violation(f"rank {rank} is {outcome.describe()}: expected {expected.describe()}")
