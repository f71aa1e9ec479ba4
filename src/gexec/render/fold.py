"""Many names as a node set: ``node003 node004 node005`` as ``node[003-005]``. Pure.

Names are folded only if the result expands to exactly the same names, including zero padding.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_DIGITS_MAX = 15
_FOLD_FROM = 3


def fold(names: Iterable[str]) -> str:
    """Return the names, each once, separated by spaces; runs of numbers are folded where that is shorter."""
    groups: dict[tuple[str, str, bool], list[str]] = {}
    for name in dict.fromkeys(names):
        head, digits, tail = _split(name)
        groups.setdefault((head, tail, bool(digits)), []).append(digits)
    return " ".join([_group(head, numbers, tail) for (head, tail, _), numbers in groups.items()])


def fold_bounded(names: Iterable[str], max_chars: int = 1000) -> str:
    """Return ``fold`` cut after whole words at ``max_chars``, with the number of omitted names."""
    folded = fold(names)
    if len(folded) <= max_chars:
        return folded
    kept, space, _ = folded[:max_chars].rpartition(" ")
    return f"{kept} ..." if space else folded[:max_chars] + "..."


def _split(name: str) -> tuple[str, str, str]:
    """Cut a name around its last run of digits; no digits if it has none that may be folded."""
    if not name.isascii() or "[" in name or "]" in name or "," in name or ":" in name:
        return name, "", ""
    end = len(name)
    while end and not name[end - 1].isdigit():
        end -= 1
    start = end
    while start and name[start - 1].isdigit():
        start -= 1
    if start == end or end - start > _DIGITS_MAX:
        return name, "", ""
    return name[:start], name[start:end], name[end:]


def _group(head: str, numbers: list[str], tail: str) -> str:
    plain = " ".join([f"{head}{digits}{tail}" for digits in numbers])
    if len(numbers) < _FOLD_FROM:
        return plain
    numbers.sort(key=lambda digits: (int(digits), len(digits)))
    runs: list[list[str]] = []
    open_runs: dict[str, list[str]] = {}  # the digits that would continue a run -> the run
    for digits in numbers:
        run = open_runs.pop(digits, None)
        if run is None:
            run = [digits]
            runs.append(run)
        else:
            run[1:] = [digits]
        open_runs[str(int(digits) + 1).zfill(len(run[0]))] = run
    folded = f"{head}[{','.join(['-'.join(run) for run in runs])}]{tail}"
    return folded if len(folded) < len(plain) else plain
