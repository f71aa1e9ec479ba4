"""The starter's part in cells: makes them for the helpers, ends what is in them, and removes them.

The helpers decide (``spawner.cells``, ``spawner.leftovers``). When a helper has ended, what is in its cells
and was not left alone is ended; so is what an earlier gexecd has not ended.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Final

from gexec.posix import channel, clock, descendants
from gexec.posix.cgroups import CellTree
from gexec.posix.loop import PollLoop
from gexec.spawner.cells import END, FAILED, HOME, LEAVE, MORE, NO_CELL, REQUEST

#: Cells that are made at a time, and that a helper may have, without those that were left alone.
_BATCH: Final = 4
CELLS_MAX: Final = 256
#: Time between two rounds of SIGKILL; after so many (its storage hangs, perhaps for days) there are fewer.
_ROUND_S: Final = 0.02
_ROUNDS_MAX: Final = 250
_SLOW_ROUND_S: Final = 5.0
_WHY: Final = "commands that get no control group of their own: %s"


class _Kept:
    """The cells of one helper.

    Attributes:
        cells: by number, whether what is in the cell was left alone.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.cells: dict[int, bool] = {}

    def say(self, what: bytes, fds: list[int]) -> None:
        """Send it, or not at all: a helper that does not read has what it asked for."""
        with contextlib.suppress(OSError):
            socket.send_fds(self.sock, [what], fds)


class CellMaker:
    """All cells of one gexecd.

    Args:
        tree: where they are.
        loop: the starter's.
        note: called with sentences for the log of gexecd.
    """

    def __init__(self, tree: CellTree, loop: PollLoop, note: Callable[[str], None]) -> None:
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
        """Make the first cells of a helper.

        Returns:
            The descriptor of its channel, for the caller to close; -1 = it can have no cells.
        """
        self._tidy()
        try:
            home = self._tree.home()
        except OSError as error:
            self._note_once(_WHY % error.strerror)
            return -1
        ours, theirs = channel.pair()
        ours.setblocking(False)
        self._kept[helper] = kept = _Kept(ours)
        self._loop.watch(ours.fileno(), lambda: self._hear(kept))
        kept.say(HOME, [home])
        os.close(home)
        self._make(kept)
        return theirs.detach()

    def dismiss(self, helper: int, wait_s: float) -> None:
        """Handle the end of a helper: after ``wait_s``, end what it has neither ended nor left alone."""
        kept = self._kept.pop(helper, None)
        if kept is None:
            return
        while self._hear(kept):
            pass
        self._close(kept)
        names = [self._name(number) for number, is_left in kept.cells.items() if not is_left]
        names = [name for name in names if not self._tree.remove(name)]
        if names:
            self._loop.call_at(clock.now_s() + wait_s, lambda: self._end(names))

    def close(self) -> None:
        """Remove the cells in which nothing runs."""
        for name in self._tree.names():
            if name.startswith(self._mine):
                self._tree.remove(name)

    def _hear(self, kept: _Kept) -> bool:
        """Handle a helper's next request; False if there is none."""
        try:
            raw = kept.sock.recv(REQUEST.size + 1)
        except BlockingIOError:
            return False
        except OSError:
            raw = b""
        if len(raw) != REQUEST.size:  # it has ended, or sends what no helper sends
            self._close(kept)
            return False
        request, number = REQUEST.unpack(raw)
        if request == MORE:
            self._make(kept)
        elif request == FAILED:
            self._note_once(_WHY % os.strerror(number))
        elif number in kept.cells:
            name = self._name(number)
            if request == END:
                self._end([name])
            elif request == LEAVE and not kept.cells[number]:
                kept.cells[number] = True
                self._left.add(name)
                self._tree.leave(name)
        return True

    def _close(self, kept: _Kept) -> None:
        if kept.sock.fileno() >= 0:
            self._loop.unwatch(kept.sock.fileno())
            kept.sock.close()

    def _make(self, kept: _Kept) -> None:
        room = min(_BATCH, CELLS_MAX - len(kept.cells) + sum(kept.cells.values()))
        try:
            for _ in range(room):
                self._made += 1
                fd = self._tree.make(self._name(self._made))
                kept.cells[self._made] = False
                kept.say(self._name(self._made).encode(), [fd])
                os.close(fd)
        except OSError as error:
            self._note_once(_WHY % error.strerror)
            room = 0
        if room <= 0:
            kept.say(NO_CELL, [])

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
