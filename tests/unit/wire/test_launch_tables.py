"""The messages between spawner, starter and helpers keep their bytes.

After an upgrade a new spawner talks to a starter and to helpers of older code, until gexecd ends or their
tasks have ended (docs/decisions/0030-upgrades.md). So a message may be added, for new starters only; none may
change. Whoever must change one has to make upgrades refuse it: raise spawner.upgrades.STATE.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from gexec.wire import launches, messages
from gexec.wire import outcome as outcomes
from gexec.wire.messages import HEAD, Table, encode

SPEC = launches.LaunchSpec(
    b"/bin/true", [b"true", b"-x"], [b"A=1"], b"/", 0o22, True, 2.5, b"j" * 16, 3, False
)
BECOMING = launches.Becoming(7, (8, 9), "ann", (("cpu", 1, 2),), 5, "gexec", ("/bin/*",), ("/bin/sh",))
OLD = launches.OldTask(4, 77, "ab" * 16, 3, 1000, 2000, 1.5, 2.5, True, False)

#: A message of each kind, and the table of its sender.
SAID: list[tuple[Any, Table]] = [
    (launches.Launch(1, SPEC, (0, 1, 2)), launches.TO_HELPER),
    (launches.LaunchCheck(2, SPEC), launches.TO_HELPER),
    (messages.SignalProcess(3, 15), launches.TO_HELPER),
    (messages.KillProcess(4, True), launches.TO_HELPER),
    (messages.ForgetProcess(5), launches.TO_HELPER),
    (messages.ProcessStarted(6, 99), launches.FROM_HELPER),
    (messages.ProcessReady(7), launches.FROM_HELPER),
    (messages.ProcessRefused(8, outcomes.not_started("no", 2)), launches.FROM_HELPER),
    (messages.ProcessEnded(9, outcomes.exited(3), True), launches.FROM_HELPER),
    (launches.ProcessRan(10, 99, outcomes.killed(9), False), launches.FROM_HELPER),
    (messages.ProcessLeft(11, 1, 2, ("5 sleep",)), launches.FROM_HELPER),
    (launches.NewHelper(12, BECOMING, (0,)), launches.TO_STARTER),
    (launches.SignalHelper(13, 18), launches.TO_STARTER),
    (launches.LostTasks(14, 7, [OLD], [("cd" * 16, 2)], [5, 6]), launches.TO_STARTER),
    (launches.HelperGone(15, "why", True), launches.FROM_STARTER),
    (launches.StarterNote("a sentence"), launches.FROM_STARTER),
]
#: Digests of their heads and payloads.
DIGESTS = [
    "c3043ed1813c55e0",
    "f861427e59902a89",
    "d89d873ed2dc6bfd",
    "76e957044c7b2316",
    "cd96f5cb2b344f3a",
    "07288068d59ee3f7",
    "9590b04cd3b69c3b",
    "3ea032b6847d2c8c",
    "1378c905f062327b",
    "84555f3c2200ea5a",
    "1c33fdeefaed9c89",
    "5b1682a22e542851",
    "ca351a61643e04e1",
    "93de9dc45013aa19",
    "894a997cf3d8f7d1",
    "c115e2e15d09d75c",
]


def digest_of(said: Any, table: Table) -> str:
    message = encode(said, table)
    head = HEAD.pack(message.kind, 0, message.task, message.value)
    return sha256(head + message.payload).hexdigest()[:16]


@pytest.mark.parametrize("number", range(len(SAID)))
def test_bytes_of_a_message_do_not_change(number: int) -> None:
    assert digest_of(*SAID[number]) == DIGESTS[number], SAID[number][0]


def test_every_message_of_these_tables_is_here() -> None:
    for table in (launches.TO_HELPER, launches.FROM_HELPER, launches.TO_STARTER, launches.FROM_STARTER):
        said = {form.said for form in table.values()}
        assert said <= {type(message) for message, _ in SAID}
