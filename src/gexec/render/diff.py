"""Differences from the majority, or from one node, as a unified diff. Pure; imported when needed.

    --- node[001-003] (3)
    +++ node004 (1)
    @@ -1 +1 @@
    -nameserver 10.0.0.1
    +nameserver 10.0.0.2

As with diff(1), there is no output if all nodes that ran wrote the same. Differences of stderr go to
descriptor 2. Binary output, and output that takes long to compare, is shown as length and SHA-256.
"""

from __future__ import annotations

from gexec.errors import UsageError
from gexec.render.distinct import pieces
from gexec.render.gather import LIMIT_BYTES, Gathered, label
from gexec.render.text import shown
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import DENIED, NOT_STARTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gexec.render.distinct import Place
    from gexec.render.gather import Text

#: Longer outputs are not compared line by line.
_SIDE_BYTES = 1024 * 1024
_SIDE_LINES = 10_000
#: Nor outputs for which difflib needs more steps (about 0.3 s); all groups of a job together may take ten
#: times as many.
_STEPS = 1_000_000
_COLOURS = {b"-": b"\x1b[31m", b"+": b"\x1b[32m", b"@": b"\x1b[36m"}
_NO_NEWLINE = b"\n\\ No newline at end of file\n"


class Diff(Gathered):
    """Shows at the end how each group's output differs from the reference, the largest group first.

    Args:
        names: one for each rank.
        node: the node whose output is the reference; b"" = the output of most nodes.
        gathered: show the groups first, like Gathered.
        colour: removed, added and place lines in red, green and cyan.
        limit_bytes: of different content that is kept; above it everything is shown, gathered.

    Raises:
        UsageError: the job has no such node.
    """

    __slots__ = ("_gathered", "_node", "_steps_left")

    def __init__(
        self,
        names: Sequence[bytes],
        node: bytes = b"",
        gathered: bool = False,
        colour: bool = False,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        super().__init__(names, colour=colour, limit_bytes=limit_bytes)
        if node and node not in names:
            raise UsageError(f"--diff: {shown(node)[:80]!r} is none of the job's nodes: name one of them")
        self._node = node
        self._gathered = gathered
        self._steps_left = 10 * _STEPS

    def _report(self) -> Iterator[Text]:
        if self._gathered:
            yield from self._kept()
        groups = self._contents()
        reference = groups[0] if groups else None
        if self._node:
            chosen = [group for group in groups if self._node in [self._names[rank] for rank in group[1]]]
            if not chosen:
                text = f"gexec: {shown(self._node)} did not run: compared with the majority"
                yield STDERR, text.encode() + b"\n"
            else:
                reference = chosen[0]
        for group in groups:
            if reference is not None and group is not reference:
                old, new = label(self._names, reference[1]), label(self._names, group[1])
                for number, fd in enumerate((STDOUT, STDERR)):
                    if reference[0][number] != group[0][number]:
                        tail = " stderr\n" if fd == STDERR else "\n"
                        heading = b"--- %b+++ %b" % ((old + tail).encode(), (new + tail).encode())
                        yield fd, heading + self._difference(reference[0][number], group[0][number])

    def _contents(self) -> list[tuple[tuple[Place, Place], list[int]]]:
        """Return the ranks that ran, grouped by what they wrote, the largest group first."""
        groups: dict[tuple[Place, Place], list[int]] = {}
        for rank, outcome in enumerate(self._outcomes):
            if outcome is None or outcome.kind not in (NOT_STARTED, DENIED):
                key = self._stores[STDOUT].place(rank), self._stores[STDERR].place(rank)
                groups.setdefault(key, []).append(rank)
        return sorted(groups.items(), key=lambda group: (-len(group[1]), group[1][0]))

    def _difference(self, old: Place, new: Place) -> bytes:
        if max(old[1], new[1]) > _SIDE_BYTES:
            return self._told("too long to compare", old, new)
        texts = b"".join(pieces(old)), b"".join(pieces(new))
        if b"\0" in texts[0] or b"\0" in texts[1]:
            return self._told("binary", old, new)
        before, after = _lines(texts[0]), _lines(texts[1])
        if max(len(before), len(after)) > _SIDE_LINES:
            return self._told("too long to compare", old, new)
        from gexec.render.unified import Comparison, TooMuchWorkError

        try:
            comparison = Comparison(before, after, min(_STEPS, self._steps_left))
        except TooMuchWorkError:
            self._steps_left -= min(_STEPS, self._steps_left)
            return self._told("too long to compare", old, new)
        self._steps_left -= comparison.steps
        return b"".join([self._coloured(line) for line in comparison.lines()])

    def _told(self, why: str, old: Place, new: Place) -> bytes:
        lines = [b"@@ %b @@\n" % why.encode(), b"-%b\n" % _digest(old), b"+%b\n" % _digest(new)]
        return b"".join([self._coloured(line) for line in lines])

    def _coloured(self, line: bytes) -> bytes:
        if not line.endswith(b"\n"):
            line += _NO_NEWLINE
        colour = _COLOURS.get(line[:1]) if self._colour else None
        if colour is None:
            return line
        text, newline, rest = line.partition(b"\n")
        return colour + text + b"\x1b[0m" + newline + rest


def _lines(text: bytes) -> list[bytes]:
    """Return the lines with their newlines; a carriage return does not end a line."""
    *lines, last = text.split(b"\n")
    return [line + b"\n" for line in lines] + ([last] if last else [])


def _digest(place: Place) -> bytes:
    from hashlib import sha256

    digest = sha256()
    for piece in pieces(place):
        digest.update(piece)
    return f"{place[1]} bytes, SHA-256 {digest.hexdigest()}".encode()
