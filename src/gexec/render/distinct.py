"""One stream (stdout or stderr) of all ranks, equal content kept once. Pure.

A tree of branches: a branch begins where a rank first wrote something different from its parent branch. A
rank's branch depends only on what it wrote, not on the pieces in which that arrived, so two ranks wrote the
same if and only if they are at the same place. Time is proportional to the output, memory to the different
output.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gexec.wire.ranks import Ranges

#: Memory of a branch beyond its content.
_BRANCH_BYTES = 512
_PIECE_BYTES = 64 * 1024


class Branch:
    """Content of a stream from the offset ``start`` on; the content before it is that of ``parent``."""

    __slots__ = ("children", "content", "parent", "start")

    def __init__(self, parent: Branch | None, start: int) -> None:
        self.parent = parent
        self.start = start
        self.content = bytearray()
        #: The offsets where ranks diverge from this branch, and the byte that differs.
        self.children: dict[tuple[int, int], Branch] = {}


#: What a rank wrote: the content of a branch up to an offset of the stream. Equal for equal content.
Place = tuple[Branch, int]


class Distinct:
    """What every rank wrote to one stream.

    Attributes:
        size_bytes: approximate size of what is kept.
    """

    __slots__ = ("_places", "size_bytes")

    def __init__(self, ranks: int) -> None:
        self._places: list[Place] = [(Branch(None, 0), 0)] * ranks
        self.size_bytes = 0

    def output(self, ranks: Ranges, data: bytes) -> None:
        """Each of these ranks wrote ``data`` next."""
        places = self._places
        moved: dict[Place, Place] = {}
        for low, high in ranks:
            for rank in range(low, high):
                here = places[rank]
                there = moved.get(here)
                if there is None:
                    there = moved[here] = self._walk(here, data)
                places[rank] = there

    def place(self, rank: int) -> Place:
        """Return a rank's place: a key for what it wrote."""
        return self._places[rank]

    def _walk(self, place: Place, data: bytes) -> Place:
        branch, offset = place
        at = 0
        while at < len(data):
            here = offset - branch.start
            if here == len(branch.content):
                branch.content += data[at:] if at else data
                self.size_bytes += len(data) - at
                return branch, offset + len(data) - at
            same = _same(branch.content, here, data, at)
            at += same
            offset += same
            if at < len(data) and here + same < len(branch.content):
                branch = self._child(branch, offset, data[at])
        return branch, offset

    def _child(self, branch: Branch, offset: int, byte: int) -> Branch:
        child = branch.children.get((offset, byte))
        if child is None:
            child = branch.children[offset, byte] = Branch(branch, offset)
            self.size_bytes += _BRANCH_BYTES
        return child


def pieces(place: Place) -> Iterator[bytes]:
    """Yield the content of a place in pieces of at most 64 KiB; the branch may still grow after the place."""
    spans: list[tuple[Branch, int]] = []
    branch: Branch | None = place[0]
    end = place[1]
    while branch is not None:
        spans.append((branch, end))
        end = branch.start
        branch = branch.parent
    for part, stop in reversed(spans):
        length = stop - part.start
        for start in range(0, length, _PIECE_BYTES):
            yield bytes(part.content[start : min(length, start + _PIECE_BYTES)])


def _same(content: bytearray, here: int, data: bytes, at: int) -> int:
    """Return how many bytes of ``content`` from ``here`` and ``data`` from ``at`` are equal."""
    low, high = 0, min(len(content) - here, len(data) - at)
    if content.startswith(data[at : at + high], here):
        return high
    while high - low > 1:  # equal before low, not all equal before high
        middle = (low + high) // 2
        if content.startswith(data[at + low : at + middle], here + low):
            low = middle
        else:
            high = middle
    return low
