"""The state diagrams of docs/protocol.md are drawn from the tables that the machines run on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gexec.core import child, node, task
from gexec.core.states import States
from gexec.relay import linkstates

PROTOCOL = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
MACHINES = (task.STATES, node.STATES, child.STATES, linkstates.STATES)


def drawn(states: States) -> str:
    """Return the diagram of a machine as the document has it; ends are the states that nothing leaves."""
    left = {begin for begin, _, _ in states.moves}
    arrows = [("[*]", states.names[0], "")]
    arrows += [(states.names[begin], states.names[to], cause) for begin, cause, to in states.moves]
    arrows += [(name, "[*]", "") for state, name in enumerate(states.names) if state not in left]
    lines = [f"    {begin} --> {to}{f' : {cause}' if cause else ''}" for begin, to, cause in arrows]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


@pytest.mark.parametrize("states", MACHINES, ids=lambda states: states.machine)
def test_protocol_document_has_every_state_and_change(states: States) -> None:
    text = PROTOCOL.read_text(encoding="utf-8")
    [shown] = re.findall(
        rf"^\*\*{states.machine.capitalize()}\*\*: .*?(```mermaid\n.*?```\n)", text, re.M | re.S
    )
    assert shown == drawn(states)


@pytest.mark.parametrize("states", MACHINES, ids=lambda states: states.machine)
def test_states_have_names_that_are_words_of_a_diagram(states: States) -> None:
    for word in (*states.names, *(cause for _, cause, _ in states.moves)):
        assert re.fullmatch(r"[A-Za-z][A-Za-z, ]*", word)
