"""What receivers answer to the lists of a stream, and what all of them together lack. Pure.

A receiver writes a line to its stdout for each list, and one more where digests came for it. The sender gets
one line for all receivers. Sets of files are numbers in hex: bit N is the file with index N in the list.
"""

from __future__ import annotations

from gexec import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: The beginning of a receiver's lines; the number is the format's version.
MARK = "gexec-answer 2"
#: A sign of life: a receiver works on something that takes long.
ALIVE = f"{MARK} alive"
#: What the destination is on this node, where it may be a directory or the name of a file.
INTO_DIRECTORY, INTO_NAME = f"{MARK} into directory", f"{MARK} into name"
_DIGITS_MAX = (limits.ARCHIVE_LIST_MAX + 3) // 4


class ListAnswer:
    """One answer.

    Attributes:
        number: of the list.
        phase: 0: to the list; 1: to digests of its files.
        lacks: files whose contents are needed, a bit for each index.
        doubts: files whose digests are needed.
    """

    __slots__ = ("doubts", "lacks", "number", "phase")

    def __init__(self, number: int, phase: int, lacks: int, doubts: int) -> None:
        self.number = number
        self.phase = phase
        self.lacks = lacks
        self.doubts = doubts

    def line(self) -> str:
        """Return a receiver's line, without a newline."""
        return f"{MARK} {self.words()}"

    def words(self) -> str:
        """Return ``NUMBER.PHASE LACKS DOUBTS``, as after the mark, and after the ranks in a sender's line."""
        return f"{self.number}.{self.phase} {self.lacks:x} {self.doubts:x}"


def parse(line: str) -> ListAnswer | None:
    """Return a line's answer; None if it is none."""
    words = line.split(" ")
    if len(words) != 5 or " ".join(words[:2]) != MARK:
        return None
    number, dot, phase = words[2].partition(".")
    if not (dot and number.isascii() and number.isdigit() and len(number) <= 9 and phase in ("0", "1")):
        return None
    sets = []
    for word in words[3:]:
        if not 0 < len(word) <= _DIGITS_MAX or word.strip("0123456789abcdef"):
            return None
        sets.append(int(word, 16))
    return ListAnswer(int(number), int(phase), sets[0], sets[1])


def answer_for(rank: str, line: str) -> ListAnswer | None:
    """Return what a line says to the sender of this rank; None if nothing.

    Args:
        rank: a number; empty: the only sender.
        line: ranks such as ``0-7,9-9``, or ``*`` for the only sender; then an answer's words.
    """
    ranks, _, rest = line.partition(" ")
    if ranks != "*" and not (rank.isdigit() and _has(ranks, int(rank))):
        return None
    return parse(f"{MARK} {rest}")


def _has(ranks: str, rank: int) -> bool:
    for part in ranks.split(","):
        low, _, high = part.partition("-")
        high = high or low
        if low.isdigit() and high.isdigit() and int(low) <= rank <= int(high):
            return True
    return False


class Union:
    """The answers of several receivers: an answer is complete when none of them is awaited any more.

    Args:
        ranks: of the receivers; each answers, or is gone.
    """

    __slots__ = ("_answers", "_awaited", "_complete")

    def __init__(self, ranks: Iterable[int]) -> None:
        self._awaited = set(ranks)
        #: (number, phase) -> (who has answered, the union so far), of answers that are not complete.
        self._answers: dict[tuple[int, int], tuple[set[int], ListAnswer]] = {}
        self._complete: set[tuple[int, int]] = set()

    def answered(self, rank: int, answer: ListAnswer) -> ListAnswer | None:
        """A receiver has answered; return the union if it was the last one."""
        key = answer.number, answer.phase
        if key in self._complete or rank not in self._awaited:
            return None
        known = self._answers.get(key)
        if known is None:
            if len(self._answers) >= 2 * limits.ARCHIVE_LISTS_MAX:
                return None  # it answers what nobody asked
            known = self._answers[key] = set(), ListAnswer(*key, 0, 0)
        ranks, union = known
        ranks.add(rank)
        union.lacks |= answer.lacks
        union.doubts |= answer.doubts
        return self._completed(key)

    def gone(self, ranks: Iterable[int]) -> list[ListAnswer]:
        """Receivers have ended: they are not awaited. Return the unions that are complete now."""
        self._awaited.difference_update(ranks)
        completed = [self._completed(key) for key in list(self._answers)]
        return [union for union in completed if union is not None]

    def _completed(self, key: tuple[int, int]) -> ListAnswer | None:
        ranks, union = self._answers[key]
        if not self._awaited <= ranks:
            return None
        del self._answers[key]
        self._complete.add(key)
        return union
