"""The tables of states, the invariants that a damaged machine breaks, and what machines tell of a rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gexec.core import child, events, node, task
from gexec.core.node import Node
from gexec.core.root import Root
from gexec.core.states import BrokenInvariantError, States
from gexec.wire import frames, jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT, Ended, Output, RanksStarted, Start
from gexec.wire.jobspec import JobSpec

JOB_ID = bytes(16)


def spec_of(ranks: int, flags: int) -> JobSpec:
    return JobSpec(
        names=[b"n"] * ranks,
        addresses=[b""] * ranks,
        program=b"/x",
        argv=[b"x"],
        env=[],
        fanout=2,
        flags=flags,
    )


def node_of(ranks: int = 7, flags: int = 0) -> Node:
    """Return a node with two inner children, of which the first has answered, and a running process."""
    made = Node(job_id=JOB_ID, spec=spec_of(ranks, flags), start=Start(1, 0, ranks, b"c", b"b"), parent=1)
    made.begin(0.0)
    for event in (
        events.TaskStarted(),
        events.OutputRead(STDOUT, b"hello"),
        events.ChildFrame(1, frames.Accepted(JOB_ID)),
        events.ChildReached(2),
    ):
        made.handle(event, 0.01)
    return made


def root_of(ranks: int = 6) -> Root:
    made = Root(job_id=JOB_ID, spec=spec_of(ranks, jobspec.STRICT), credential=b"c", blob=b"b", client=9)
    made.begin(0.0)
    made.handle(events.ChildFrame(1, RanksStarted(((0, 1),))), 0.1)
    return made


def end(made: Node) -> None:
    """Let the process of a node end."""
    for event in (
        events.TaskEnded(outcomes.exited(0)),
        events.OutputClosed(STDOUT),
        events.OutputClosed(STDERR),
    ):
        made.handle(event, 0.1)


@pytest.mark.parametrize("states", [task.STATES, node.STATES, child.STATES], ids=lambda s: s.machine)
def test_only_what_is_in_the_table_happens(states: States) -> None:
    causes = {cause for _, cause, _ in states.moves}
    moves = {(begin, cause): to for begin, cause, to in states.moves}
    for state, name in enumerate(states.names):
        for cause in causes:
            if (state, cause) in moves:
                assert states.after(state, cause) == moves[state, cause]
            else:
                with pytest.raises(
                    BrokenInvariantError, match=f"{states.machine}: '{cause}' in state '{name}'"
                ):
                    states.after(state, cause)


def test_every_state_can_be_reached_and_all_but_the_last_left() -> None:
    for states in (task.STATES, node.STATES, child.STATES):
        last = len(states.names) - 1
        assert {to for _, _, to in states.moves} | {0} == set(range(last + 1)), states.machine
        assert {begin for begin, _, _ in states.moves} == set(range(last)), states.machine


def test_one_cause_leads_to_one_state() -> None:
    with pytest.raises(BrokenInvariantError, match="door: one cause"):
        States("door", ("open", "shut"), ((0, "push", 1), (0, "push", 0)))


def _set(path: str, value: Any) -> Callable[[Any], None]:
    """Return what sets an attribute (a.b.c) of a machine."""

    def damage(machine: Any) -> None:
        *way, name = path.split(".")
        for step in way:
            machine = machine[int(step)] if step.isdigit() else getattr(machine, step)
        setattr(machine, name, value)

    return damage


def _stdin_forgets_a_child(made: Node) -> None:
    assert made._stdin is not None
    made._stdin.remove(2)


#: What is done to a node that is well, and what of it no longer holds.
NODE_DAMAGES: list[tuple[Callable[[Node], object], str]] = [
    (_set("parent", None), "node of rank 0 .attached.: has a parent"),
    (_set("state", node.ORPHANED), "has no parent"),
    (_set("_orphan_until_s", 1.0), "waits for a parent while it has none"),
    (_set("_subtree.active", False), "repairs only what it can report"),
    (_set("_flush_at_s", None), "sent at once or have a deadline"),
    (_set("state", node.CLOSING), "has closed its children"),
    (lambda made: made._effects.append(events.CloseOutput()), "all effects were handed out"),
    (lambda made: made._decide(0, outcomes.lost("x")), "decides only about ranks below"),
    (_set("_task.state", task.ENDED), "its end is reported once it has ended"),
    (_set("_task.was_started", False), "what runs was started"),
    (_set("_task.state", task.STARTING), "what was started runs or has ended"),
    (_set("_task.state", task.DRAINING), "how it ended is known"),
    (_set("_task._streams.1.base", 6), "at most 5 bytes are acknowledged"),
    (_set("_task._streams.1.end", 7), "bytes up to 7 are kept"),
    (lambda made: made._task._streams[STDOUT]._chunks.clear(), "bytes up to 5 are kept"),
    (lambda made: made._subtree.children[1].owes.add(0), "child 1: owes nothing beyond its range"),
    (_set("_subtree.children.1.high", 5), "children: 1 and 2 do not overlap"),
    (_set("_subtree.children.1.state", child.ASKED), "child 1: is waited for while it holds a subtree"),
    (_set("_subtree.children.2.state", child.ANSWERED), "child 2: is slow once reached"),
    (_set("_subtree.children.2.state", child.GONE), "is not gone"),
    (_set("_subtree.children.2.losses", 1), "whoever was lost is asked again"),
    (_set("_subtree.children.2.high", 9), "child 2: is within the range below"),
    (_stdin_forgets_a_child, "is counted among the takers of stdin"),
]


@pytest.mark.parametrize(("damage", "said"), NODE_DAMAGES, ids=[said for _, said in NODE_DAMAGES])
def test_a_damaged_node_is_caught(damage: Callable[[Node], object], said: str) -> None:
    made = node_of()
    made.validate()
    damage(made)
    with pytest.raises(BrokenInvariantError, match=said):
        made.validate()


def test_a_damaged_node_whose_process_has_ended_is_caught() -> None:
    made = node_of()
    end(made)
    made._task._streams[STDERR].closed = False
    with pytest.raises(BrokenInvariantError, match="nothing comes after its end"):
        made.validate()
    made._task._streams[STDERR].closed = True
    made.validate()
    made._task._deadline_s = 1.0
    with pytest.raises(BrokenInvariantError, match="only what runs or drains has a deadline"):
        made.validate()


def test_an_index_of_children_that_is_old_is_caught() -> None:
    made = node_of()
    made._subtree.acknowledge(((2, STDOUT, 1),))
    made._effects.clear()
    made.validate()
    made._subtree.children[1].low += 1
    made._subtree.children[1].owes.discard(1)
    with pytest.raises(BrokenInvariantError, match="the index by rank has them all"):
        made.validate()


ROOT_DAMAGES: list[tuple[Callable[[Root], object], str]] = [
    (
        lambda root: root._subtree.children[1].owes.discard(1),
        r"a child owes each open rank, but not \[1\]",
    ),
    (lambda root: root._subtree.held.remove(root._subtree.children[2]), r"but not \[3, 4, 5\]"),
    (_set("ledger.remaining", 5), "counts the ranks without an outcome"),
    (_set("finished", True), "root: has closed its children"),
    (_set("_unheard", 3), "counts who is not ready"),
    (lambda root: root._effects.append(events.Finish()), "all effects were handed out"),
]


@pytest.mark.parametrize(("damage", "said"), ROOT_DAMAGES, ids=[said for _, said in ROOT_DAMAGES])
def test_a_damaged_root_is_caught(damage: Callable[[Root], object], said: str) -> None:
    made = root_of()
    made.validate()
    damage(made)
    with pytest.raises(BrokenInvariantError, match=said):
        made.validate()


def test_a_root_that_does_not_finish_is_caught() -> None:
    made = root_of(2)
    made.ledger.end(Ended(((0, 2),), outcomes.lost("x"), 0, 0))
    with pytest.raises(BrokenInvariantError, match="has finished once every rank has its outcome"):
        made.validate()


def test_machines_tell_what_they_know_of_a_rank() -> None:
    made = node_of()
    end(made)
    assert made.story(0) == [
        "[0, 7) epoch 1, attached, parent 1",
        "task ended; it exited 0; "
        "stdout 5 bytes, 0 acknowledged, closed; stderr 0 bytes, 0 acknowledged, closed",
    ]
    assert made.story(5) == [
        "[0, 7) epoch 1, attached, parent 1",
        "child 2 [4, 7) turn 0, reached, owes it",
    ]
    assert made.story(7) == []
    root = root_of()
    root.handle(events.ChildFrame(1, Output(((0, 1),), STDOUT, 0, b"abc")), 0.1)
    assert root.story(0) == [
        "no outcome, started, (3, 0) bytes of stdout and stderr",
        "child 1 [0, 3) turn 0, answered, owes it",
    ]
