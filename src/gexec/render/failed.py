"""The failed nodes, as a node list that gexec can read again (--failed-to, --rerun). Pure.

    node003  # not started: connection refused
    node007  # exited 1

It is read like any node list: gexec.select.lists.
"""

from __future__ import annotations

from gexec.render.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.wire.outcome import Outcome


def failed_lines(names: Sequence[bytes], outcomes: Sequence[Outcome]) -> list[bytes]:
    """Return a line with its newline for each rank that did not exit 0, in rank order.

    Args:
        names: as they should be read again, with a port where one was given.
        outcomes: in the same order.
    """
    return [
        b"%b  # %b\n" % (name, printable(outcome.describe()).encode("utf-8", "backslashreplace"))
        for name, outcome in zip(names, outcomes, strict=True)
        if not outcome.ok
    ]
