"""Lines compared by difflib with a bound on its work, in the form of ``diff -u``. Pure."""

from __future__ import annotations

from difflib import SequenceMatcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from difflib import Match


class TooMuchWorkError(Exception):
    """The comparison exceeds its limit of steps."""


class Comparison:
    """Two texts as lines.

    Args:
        old: lines, of any bytes.
        new: lines, of any bytes.
        steps_max: about 3 million take a second. Their number is that of equal pairs of lines in every part
            of ``old`` that is searched; texts that differ in every second line are searched for each such
            line.

    Attributes:
        steps: number of steps taken.

    Raises:
        TooMuchWorkError: ``steps_max`` are not enough.
    """

    def __init__(self, old: Sequence[bytes], new: Sequence[bytes], steps_max: int) -> None:
        self._old = old
        self._new = new
        matcher = _Counting(old, new, steps_max)
        self._groups = list(matcher.get_grouped_opcodes())
        self.steps = matcher.steps

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of a unified diff, from the first @@ on, each unchanged after its sign."""
        for group in self._groups:
            old = _place(group[0][1], group[-1][2])
            new = _place(group[0][3], group[-1][4])
            yield f"@@ -{old} +{new} @@\n".encode()
            for tag, old_from, old_to, new_from, new_to in group:
                if tag == "equal":
                    yield from [b" " + line for line in self._old[old_from:old_to]]
                    continue
                yield from [b"-" + line for line in self._old[old_from:old_to]]
                yield from [b"+" + line for line in self._new[new_from:new_to]]


class _Counting(SequenceMatcher[bytes]):
    def __init__(self, old: Sequence[bytes], new: Sequence[bytes], steps_max: int) -> None:
        super().__init__(None, old, new)
        self.steps = 0
        self._steps_max = steps_max
        # The positions of each line in the new text; documented, but without a type.
        places: dict[bytes, list[int]] = self.b2j  # type: ignore[attr-defined]
        #: For each line of the old text: the steps of a search of all lines before it.
        self._sums = [0]
        for line in old:
            self._sums.append(self._sums[-1] + 1 + len(places.get(line, ())))

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> Match:
        self.steps += self._sums[-1 if ahi is None else ahi] - self._sums[alo]
        if self.steps > self._steps_max:
            raise TooMuchWorkError
        return super().find_longest_match(alo, ahi, blo, bhi)


def _place(start: int, stop: int) -> str:
    """Return a range of lines as diff -u counts them: from 1; an empty range has the line before it."""
    length = stop - start
    if length == 1:
        return f"{start + 1}"
    return f"{start + 1 if length else start},{length}"
