"""Expands ranges in brackets: ``node[001-003,7]`` is node001 node002 node003 node7. Pure.

Our own code, because ClusterShell expands ``node1[9-10]`` to 92 nodes and needs quadratic time for names with
several numbers (docs/decisions/0012-node-sources.md). Names are counted before they are expanded.
"""

from __future__ import annotations

from gexec import limits
from gexec.errors import UsageError
from gexec.select.nodes import quoted

#: Most digits of a number in a range: no node has more.
_DIGITS_MAX = 18


def expand(pieces: list[str], room: int, source: str) -> list[str]:
    """Return every name that a pattern stands for; the numbers of the last bracket change fastest.

    Args:
        pieces: texts outside and inside of brackets in turn: ``node[1-3]x`` is [node, 1-3, x].
        room: the largest permitted number of names.
        source: is named in errors.

    Raises:
        UsageError: a malformed range, or more names than ``room``.
    """
    shown = "".join([f"[{piece}]" if index % 2 else piece for index, piece in enumerate(pieces)])
    where = f"{source}: {quoted(shown)}"
    ranges = [[_range(part, where) for part in inside.split(",")] for inside in pieces[1::2]]
    count = 1
    for bracket in ranges:
        count *= sum([(high - low) // step + 1 for low, high, step, _ in bracket])
    if count > room:
        raise UsageError(f"{where}: {count} names, more than fit: a job has at most {limits.RANKS_MAX} nodes")
    names = [pieces[0]]
    for bracket, after in zip(ranges, pieces[2::2], strict=True):
        numbers = [
            f"{number:0{width}}{after}"
            for low, high, step, width in bracket
            for number in range(low, high + 1, step)
        ]
        names = [name + number for name in names for number in numbers]
    return names


def _range(text: str, where: str) -> tuple[int, int, int, int]:
    """Return first number, last number, step and width (0 = not padded) of ``3``, ``1-9`` or ``1-9/2``."""
    bounds, slash, step = text.partition("/")
    low, dash, high = bounds.partition("-")
    low, high, step = low.strip(), high.strip() if dash else low.strip(), step.strip() if slash else "1"
    for number in (low, high, step):
        if not (number.isascii() and number.isdigit() and len(number) <= _DIGITS_MAX):
            raise UsageError(
                f"{where}: {quoted(text[:40])}: expected numbers such as 7, 1-9 or 1-9/2, commas between them"
            )
    width = max([len(number) for number in (low, high) if number[0] == "0" and len(number) > 1], default=0)
    if width and len(low) != len(high):
        raise UsageError(
            f"{where}: {quoted(text[:40])}: both ends of a padded range have the same number of digits"
        )
    if int(low) > int(high) or int(step) == 0:
        raise UsageError(f"{where}: {quoted(text[:40])}: a range runs upward, in steps of at least 1")
    return int(low), int(high), int(step), width
