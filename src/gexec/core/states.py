"""States as tables: the states of a machine, and what leads from one to another (docs/protocol.md, States).

Machines change their state only through these tables. A change that is not in its table is a defect of the
code, whatever a peer sends, and so is a broken invariant: both raise.
"""

from __future__ import annotations


class BrokenInvariantError(Exception):
    """An invariant of a machine does not hold; the message names the machine and the invariant."""


def hold(truth: bool, who: str, what: str, *values: object) -> None:
    """Raise BrokenInvariantError unless ``truth``: what must hold is ``what``, formatted with ``values``."""
    if not truth:
        raise BrokenInvariantError(f"{who}: {what.format(*values)}")


class States:
    """The states of one kind of machine, numbered from 0, which is the first.

    Args:
        machine: the kind of machine, in one word.
        names: the states' names, by number.
        moves: (from, cause, to): all changes that are possible.
    """

    def __init__(self, machine: str, names: tuple[str, ...], moves: tuple[tuple[int, str, int], ...]) -> None:
        self.machine = machine
        self.names = names
        self.moves = moves
        self._after = {(begin, cause): end for begin, cause, end in moves}
        hold(len(self._after) == len(moves), machine, "one cause leads from a state to one other")

    def after(self, state: int, cause: str) -> int:
        """Return the state to which ``cause`` leads. BrokenInvariantError if the table has none."""
        end = self._after.get((state, cause))
        if end is None:
            raise BrokenInvariantError(f"{self.machine}: {cause!r} in state {self.names[state]!r}")
        return end
