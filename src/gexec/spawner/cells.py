"""A helper's cells: the control groups that its tasks run in, one for each task.

The starter makes them (``spawner.keeper``). The helper moves itself into a cell, starts the task, and moves
back: so the task and all that it starts are in the cell, and none of them can leave it. A cell in which
nothing runs any more is used for another task.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Final

from gexec.errors import ProtocolError
from gexec.posix import cgroups, clock
from gexec.posix.channel import MessageLost, Port
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

#: How long the start of a task waits for the starter to make a cell; then the task gets none.
_PATIENCE_MS: Final = 1000
#: After the answer that there is none, the starter is not asked again for so long.
_PAUSE_S: Final = 10.0


class Cell:
    """One cell.

    Attributes:
        name: as processes in it show it (``cgroups.cell_of``).
        fd: its ``cgroup.threads``; -1 = the starter ends or leaves alone what is in it.
        is_ended: the starter ends it.
    """

    __slots__ = ("fd", "is_ended", "name", "number")

    def __init__(self, number: int, name: str, fd: int) -> None:
        self.number = number
        self.name = name
        self.fd = fd
        self.is_ended = False

    @property
    def is_occupied(self) -> bool:
        """True if something runs in it, and it was neither ended nor left alone."""
        return self.fd >= 0 and bool(cgroups.members(self.fd))

    @property
    def is_due(self) -> bool:
        """True if something may run in it that is not being ended."""
        return self.is_occupied or (self.fd < 0 and not self.is_ended)


class Cells:
    """All cells of one helper.

    Args:
        sock: the channel to the starter.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._port = Port(sock, hears=TO_CELLS, says=FROM_CELLS)
        self._home = -1
        self._free: list[Cell] = []
        self._ask_at_s = 0.0
        self._off = False

    def enter(self) -> Cell | None:
        """Move this process into a free cell; None if there is none. Call ``back`` next."""
        if self._off:
            return None
        if not self._free:
            self._get()
        if not self._free or self._home < 0:
            return None
        cell = self._free.pop()
        try:
            os.write(cell.fd, b"0")
        except OSError as error:
            self._fail(f"a helper cannot enter one: {error.strerror}")
            return None
        return cell

    def back(self) -> bool:
        """Move this process out of the cell that it has entered; False: it is in there, so do not end it."""
        try:
            os.write(self._home, b"0")
        except OSError as error:
            self._fail(f"a helper cannot leave one: {error.strerror}")
            return False
        return True

    def give(self, cell: Cell) -> None:
        """Give a cell back in which nothing runs."""
        if cell.fd >= 0:
            self._free.append(cell)

    def end(self, cell: Cell) -> None:
        """End everything in the cell, with SIGKILL; the starter does it, and repeats it until it is empty."""
        self._release(cell)
        if not cell.is_ended:
            cell.is_ended = True
            self._say(EndCell(cell.number))

    def leave(self, cell: Cell) -> None:
        """Leave alone what is in the cell."""
        if cell.fd >= 0:
            self._release(cell)
            self._say(LeaveCell(cell.number))

    def _release(self, cell: Cell) -> None:
        if cell.fd >= 0:
            os.close(cell.fd)
            cell.fd = -1

    def _get(self) -> None:
        """Take the cells that the starter has made; ask for more if there are none."""
        while self._take():
            pass
        now_s = clock.now_s()
        if self._free or self._off or now_s < self._ask_at_s:
            return
        self._say(MoreCells())
        waiting = select.poll()
        waiting.register(self._port.endpoint.fileno(), select.POLLIN)
        waiting.poll(_PATIENCE_MS)
        while self._take():
            pass
        if not self._free:
            self._ask_at_s = now_s + _PAUSE_S

    def _take(self) -> bool:
        """Read one message; False if there is none."""
        try:
            said = self._port.receive()
        except (ConnectionError, ProtocolError, MessageLost, OSError):
            self._off = True
            return False
        if isinstance(said, NewCell):
            self._free.append(Cell(said.task, said.name, said.fds[0]))
        elif isinstance(said, Home):
            self._home = said.fds[0]
        return said is not None and not isinstance(said, NoCell)

    def _fail(self, why: str) -> None:
        self._off = True
        self._say(CellsFailed(why))

    def _say(self, said: object) -> None:
        try:
            self._port.say(said)
        except (ProtocolError, OSError):
            self._off = True
