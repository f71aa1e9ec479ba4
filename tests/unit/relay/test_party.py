"""The peer of one connection: its jobs learn whether it responds, each once."""

from __future__ import annotations

from typing import cast

import pytest

from gexec import native
from gexec.core import events
from gexec.relay.job import RelayJob
from gexec.relay.party import Party


class Told:
    """Takes what a job is told."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []

    def tell(self, event: events.Event) -> None:
        self.events.append(event)


@pytest.mark.skipif(native.in_use(), reason="compiled code takes no stand-in for a RelayJob")
def test_each_channel_is_told_once_also_one_that_was_opened_later() -> None:
    party, early, late = Party(), Told(), Told()
    party.children[1] = (cast(RelayJob, early), 7)
    party.note_quiet(True)
    party.children[2] = (cast(RelayJob, late), 8)
    party.note_quiet(True)
    assert early.events == [events.ChildQuiet(7, True)]
    assert late.events == [events.ChildQuiet(8, True)]
    del party.children[1]
    party.note_quiet(False)
    party.note_quiet(False)
    assert early.events == [events.ChildQuiet(7, True)]
    assert late.events == [events.ChildQuiet(8, True), events.ChildQuiet(8, False)]
