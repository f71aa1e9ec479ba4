"""The states of a link, from its dial or acceptance to its end."""

from __future__ import annotations

from typing import Final

from gexec.core.states import States

DIALLING: Final = 0  #: it was dialled or accepted, and is not connected yet
REACHED: Final = 1  #: a dialled peer's machine has answered (TCP); TLS follows
GREETING: Final = 2  #: connected, with TLS; the peer's Hello has not arrived
OPENED: Final = 3  #: Hello has arrived: frames go both ways
LEAVING: Final = 4  #: the peer takes no new jobs (it sent Goodbye)
CLOSED: Final = 5  #: it was open, and has ended
FAILED: Final = 6  #: it ended before it was open

STATES: Final = States(
    "link",
    ("dialling", "reached", "greeting", "opened", "leaving", "closed", "failed"),
    (
        (DIALLING, "machine answers", REACHED),
        (DIALLING, "connected", GREETING),
        (REACHED, "connected", GREETING),
        (GREETING, "Hello", OPENED),
        (OPENED, "Goodbye", LEAVING),
        (LEAVING, "Goodbye", LEAVING),
        (DIALLING, "end", FAILED),
        (REACHED, "end", FAILED),
        (GREETING, "end", FAILED),
        (OPENED, "end", CLOSED),
        (LEAVING, "end", CLOSED),
    ),
)
