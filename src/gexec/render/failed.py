"""The nodes that failed, as a list of nodes that can be given back to gexec (--failed-to, --rerun). Pure.

    node003  # not started: connection refused
    node007  # exited 1

A comment begins with # at the start of a line or after white space, so a name may hold one.
"""

from __future__ import annotations

from gexec.errors import UsageError
from gexec.limits import NAME_MAX_BYTES, RANKS_MAX
from gexec.render.prefix import printable
from gexec.render.text import printable as printable_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.core.outcome import Outcome

#: ``[name]:port`` is the longest way to write a node.
_WORD_MAX_BYTES = NAME_MAX_BYTES + 8


def failed_lines(names: Sequence[bytes], outcomes: Sequence[Outcome]) -> list[bytes]:
    """Return a line with its newline for each rank that did not exit 0, in rank order.

    Args:
        names: as they are to be given back, with a port where one was given.
        outcomes: in the same order.
    """
    return [
        b"%b  # %b\n" % (name, printable_text(outcome.describe()).encode("utf-8", "backslashreplace"))
        for name, outcome in zip(names, outcomes, strict=True)
        if not outcome.ok
    ]


def parse_failed(data: bytes, source: str) -> list[bytes]:
    """Return the names in such a file, in order, doubled ones kept. Any list of nodes will do.

    Args:
        data: the whole file.
        source: its name, for the sentence of an error.

    Raises:
        UsageError: a line with more than one name, a name that is too long, or too many names.
    """
    names: list[bytes] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        words = line.split()
        comment = next((at for at, word in enumerate(words) if word.startswith(b"#")), len(words))
        if comment > 1:
            raise UsageError(f"{source}, line {number}: {comment} words: expected one node's name a line")
        if comment and len(words[0]) > _WORD_MAX_BYTES:
            start = printable(words[0][:40]).decode()
            raise UsageError(f"{source}, line {number}: {start}... is too long for a node's name")
        names += words[:comment]
    if len(names) > RANKS_MAX:
        raise UsageError(f"{source} names {len(names)} nodes: a job has at most {RANKS_MAX}")
    return names
