"""States as tables: which there are, and what leads from one to another (docs/protocol.md, States).

Machines change their state through these tables only. A change that is not in its table, like an
invariant that does not hold, is a defect of the code, whatever a peer sends: it raises.
"""

from __future__ import annotations


class BrokenInvariantError(Exception):
    """Something that must always hold of a machine does not; the sentence says of which, and what."""


def hold(truth: bool, who: str, what: str, *values: object) -> None:
    """Raise BrokenInvariantError unless ``truth``: of ``who`` must hold ``what``, formatted with values."""
    if not truth:
        raise BrokenInvariantError(f"{who}: {what.format(*values)}")


class States:
    """The states of one kind of machine, numbered from 0, which is the first.

    Args:
        machine: what has them, in a word.
        names: of the states, by number.
        moves: (from, cause, to): nothing else ever happens.
    """

    def __init__(self, machine: str, names: tuple[str, ...], moves: tuple[tuple[int, str, int], ...]) -> None:
        self.machine = machine
        self.names = names
        self.moves = moves
        self._after = {(begin, cause): end for begin, cause, end in moves}
        hold(len(self._after) == len(moves), machine, "one cause leads from a state to one other")

    def after(self, state: int, cause: str) -> int:
        """Return the state that ``cause`` leads to. BrokenInvariantError if it leads nowhere."""
        end = self._after.get((state, cause))
        if end is None:
            raise BrokenInvariantError(f"{self.machine}: {cause!r} in state {self.names[state]!r}")
        return end
