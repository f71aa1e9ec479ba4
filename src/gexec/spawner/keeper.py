"""The starter's part in cells: makes them for the helpers, ends what is in them, and removes them.

The helpers decide (``spawner.cells``, ``spawner.leftovers``). When a helper has ended, what is in its cells
and was not left alone is ended; so is what an earlier gexecd has not ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from gexec.errors import ProtocolError
from gexec.posix import channel, clock, descendants
from gexec.posix.cgroups import Tree
from gexec.posix.channel import MessageLost, Port
from gexec.posix.loop import PollLoop
from gexec.wire.cells import (
    FROM_CELLS,
    TO_CELLS,
    CellsFailed,
    EndCell,
    Home,
    LeaveCell,
    MoreCells,
    NewCell,
    NoCell,
)

#: Cells that are made at a time, and that a helper may have, without those that were left alone.
_BATCH: Final = 4
CELLS_MAX: Final = 256
#: Time between two rounds of SIGKILL; after so many (its storage hangs, perhaps for days) there are fewer.
_ROUND_S: Final = 0.02
_ROUNDS_MAX: Final = 250
_SLOW_ROUND_S: Final = 5.0


class _Kept:
    """The cells of one helper.

    Attributes:
        cells: by number, whether what is in the cell was left alone.
    """

    def __init__(self, port: Port) -> None:
        self.port = port
        self.cells: dict[int, bool] = {}


class Keeper:
    """All cells of one gexecd.

    Args:
        tree: where they are.
        loop: the starter's.
        note: called with sentences for the log of gexecd.
    """

    def __init__(self, tree: Tree, loop: PollLoop, note: Callable[[str], None]) -> None:
        self._tree = tree
        self._loop = loop
        self._note = note
        self._noted: set[str] = set()
        born = descendants.stat_of(os.getpid())
        self._mine = f"{os.getpid()}.{born.born if born else 0}."
        self._made = 0
        self._kept: dict[int, _Kept] = {}  # by the helper's number
        #: Cells that are being ended, and the number of rounds.
        self._dying: dict[str, int] = {}
        #: Cells that were left alone.
        self._left: set[str] = set()
        self._sweep()

    @property
    def is_owing(self) -> bool:
        """True while something must end before the starter may end."""
        return any(rounds < _ROUNDS_MAX for rounds in self._dying.values())

    # -- helpers -----------------------------------------------------------------------------

    def admit(self, helper: int) -> int:
        """Make the first cells of a helper; return the descriptor of its channel, for the caller to close.

        Raises:
            OSError: there is no descriptor.
        """
        self._tidy()
        ours, theirs = channel.pair()
        port = Port(ours, hears=FROM_CELLS, says=TO_CELLS, bounded=True)
        self._kept[helper] = kept = _Kept(port)
        self._loop.watch(ours.fileno(), lambda: self._hear(kept))
        home = self._tree.home()
        try:
            port.say(Home((home,)))
        finally:
            os.close(home)
        self._make(kept)
        return theirs.detach()

    def dismiss(self, helper: int, wait_s: float) -> None:
        """Handle the end of a helper: after ``wait_s``, end what it has neither ended nor left alone."""
        kept = self._kept.pop(helper, None)
        if kept is None:
            return
        while self._loop.watches(kept.port.endpoint.fileno()) and self._hear(kept):
            pass
        self._close(kept)
        names = [self._name(number) for number, is_left in kept.cells.items() if not is_left]
        names = [name for name in names if not self._tree.remove(name)]
        if names:
            self._loop.call_at(clock.now_s() + wait_s, lambda: self._end(names))

    def close(self) -> None:
        """Remove the cells in which nothing runs."""
        for kept in self._kept.values():
            for number in kept.cells:
                self._tree.remove(self._name(number))
        self._tidy()

    def _hear(self, kept: _Kept) -> bool:
        """Handle a helper's next message; False if there is none."""
        try:
            said = kept.port.receive()
            if isinstance(said, MoreCells):
                self._make(kept)
            elif isinstance(said, EndCell) and said.task in kept.cells:
                self._end([self._name(said.task)])
            elif isinstance(said, LeaveCell) and said.task in kept.cells:
                kept.cells[said.task] = True
                self._left.add(self._name(said.task))
                self._tree.leave(self._name(said.task))
            elif isinstance(said, CellsFailed):
                self._note_once(f"commands without control groups of their own: {said.why}")
        except (ConnectionError, ProtocolError, MessageLost, OSError):
            self._close(kept)  # the helper has ended, or goes on without cells
            return False
        return said is not None

    def _close(self, kept: _Kept) -> None:
        endpoint = kept.port.endpoint
        if endpoint.fileno() >= 0:
            self._loop.unwatch(endpoint.fileno())
            endpoint.close()

    def _make(self, kept: _Kept) -> None:
        used = len(kept.cells) - sum(kept.cells.values())
        room = min(_BATCH, CELLS_MAX - used)
        for _ in range(room):
            self._made += 1
            name = self._name(self._made)
            try:
                fd = self._tree.make(name)
            except OSError as error:
                self._note_once(f"no control group for a command: {error.strerror}")
                room = 0
                break
            kept.cells[self._made] = False
            try:
                kept.port.say(NewCell(self._made, name, (fd,)))
            finally:
                os.close(fd)
        if room <= 0:
            kept.port.say(NoCell())

    def _name(self, number: int) -> str:
        return f"{self._mine}{number}"

    # -- ends --------------------------------------------------------------------------------

    def _end(self, names: list[str]) -> None:
        begins = not self._dying
        for name in names:
            self._left.discard(name)
            self._dying.setdefault(name, 0)
        if begins and self._dying:
            self._round()

    def _round(self) -> None:
        for name, rounds in list(self._dying.items()):
            self._dying[name] = rounds + 1
            if self._tree.end(name):
                del self._dying[name]
                self._forget(name)
        if self._dying:
            soon = any(rounds < _ROUNDS_MAX for rounds in self._dying.values())
            self._loop.call_at(clock.now_s() + (_ROUND_S if soon else _SLOW_ROUND_S), self._round)

    def _tidy(self) -> None:
        for name in list(self._left):
            if self._tree.remove(name):
                self._left.remove(name)
                self._forget(name)

    def _forget(self, name: str) -> None:
        if name.startswith(self._mine):
            for kept in self._kept.values():
                kept.cells.pop(int(name.removeprefix(self._mine)), None)

    def _sweep(self) -> None:
        """Handle the cells of earlier gexecds: end what they have not ended, leave alone what they left."""
        found = []
        for name in self._tree.names():
            if self._tree.remove(name):
                continue
            if self._tree.is_left(name):
                self._left.add(name)
            elif not _is_kept(name):
                found.append(name)
        if found:
            self._note(f"ending what {len(found)} commands of an earlier gexecd have left running")
            self._end(found)

    def _note_once(self, text: str) -> None:
        if text not in self._noted and len(self._noted) < _BATCH:
            self._noted.add(text)
            self._note(text)


def _is_kept(name: str) -> bool:
    """Tell whether the starter that has made the cell still runs: then it ends what is in it."""
    pid, _, rest = name.partition(".")
    stat = descendants.stat_of(int(pid)) if pid.isdigit() else None
    return stat is not None and stat.state not in "ZX" and str(stat.born) == rest.partition(".")[0]
