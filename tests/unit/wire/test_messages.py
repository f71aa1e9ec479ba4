"""Messages between relay, spawner and helpers that no other test of a transport covers."""

from __future__ import annotations

import struct

from gexec import limits
from gexec.wire import messages
from gexec.wire import outcome as outcomes


def test_a_text_that_grows_on_the_way_stays_within_its_limit() -> None:
    """A helper, which has its user's rights, may send other bytes than UTF-8: each becomes three."""
    table = messages.OF_PROCESSES
    (kind,) = (kind for kind, form in table.items() if form.said is messages.ProcessRefused)
    head = struct.pack("!Bi", outcomes.NOT_STARTED, 2)
    received = messages.decode(messages.Message(kind, 7, 0, head + b"\xff" * limits.TEXT_MAX_BYTES), table)
    passed_on = messages.decode(messages.encode(received, table), messages.FROM_SPAWNER)
    assert passed_on.outcome.text == "\ufffd" * (limits.TEXT_MAX_BYTES // 3)
