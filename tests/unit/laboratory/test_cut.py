"""Smaller scenarios, in the text form of the command."""

from __future__ import annotations

import pytest

from laboratory import cut as cuts
from laboratory.cut import Cut
from laboratory.scenario import scenario
from laboratory.script import Fault


@pytest.mark.parametrize("cut", [Cut(), Cut(8), Cut(0, ()), Cut(3, (0, 2), True, True), Cut(plain=True)])
def test_text_form_is_read_as_it_was_written(cut: Cut) -> None:
    assert cuts.parse(str(cut)) == cut


@pytest.mark.parametrize("text", ["ranks=x", "faults=1-2", "loud", "ranks"])
def test_what_is_no_cut_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"none of|invalid literal"):
        cuts.parse(text)


def test_fewer_ranks_have_the_faults_that_hit_them() -> None:
    made = scenario(3)
    made.faults = [
        Fault(0.1, "kill", 0),
        Fault(0.2, "kill", 900),
        Fault(0.3, "partition", 900, 0, 1.0, (0, 901)),
        Fault(0.4, "clog", 0, 0, 1.0, (900,)),
        Fault(0.5, "suspend", -1, 0, 1.0),
    ]
    left = cuts.apply(Cut(1), made)
    assert [(fault.kind, fault.rank, fault.ranks) for fault in left.faults] == [
        ("kill", 0, ()),
        ("partition", 0, ()),
        ("suspend", -1, ()),
    ]
    assert left.spec.ranks == len(left.plans) == 1


def test_only_some_faults_quiet_and_plain() -> None:
    made = scenario(3)
    made.faults = [Fault(float(number), "kill", 0) for number in range(4)]
    left = cuts.apply(Cut(faults=(1, 3), quiet=True, plain=True), made)
    assert [fault.at_s for fault in left.faults] == [1.0, 3.0]
    assert not any(plan.writes for plan in left.plans)
    assert [left.habits.commands, left.habits.stdin] == [[], b""]
