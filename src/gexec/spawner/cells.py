"""A helper's cells: the control groups that its tasks run in, one for each task.

The starter makes them (``spawner.cellmaker``). The helper moves itself into a cell, starts the task, and
moves back: so the task and all that it starts are in the cell, and none of them can leave it. A cell in which
nothing runs any more is used for another task.

The two have a channel of their own. A request of the helper is a ``REQUEST``; the starter sends the name of a
cell, or HOME, and a descriptor by which the helper enters it, or NO_CELL.
"""

from __future__ import annotations

import os
import resource
import select
import socket
from array import array
from struct import Struct
from typing import Final

from gexec.posix import cgroups, clock

#: What is asked for, and of which cell; FAILED: cells cannot be used, with the errno.
REQUEST: Final = Struct("!BI")
MORE, END, LEAVE, FAILED = 1, 2, 3, 4
HOME, NO_CELL = b"home", b"none"
_NAME_MAX_BYTES: Final = 64
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4)
_FLAGS: Final = int(socket.MSG_CMSG_CLOEXEC)
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

    __slots__ = ("fd", "is_ended", "name")

    def __init__(self, name: str, fd: int) -> None:
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
        sock.setblocking(False)
        self._sock = sock
        self._home = -1
        self._free: list[Cell] = []
        self._ask_at_s = 0.0
        self._off = False
        # Tasks have the same limit, so it stays as it is; each cell that is in use has a descriptor here.
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._room = soft // 4 if soft != resource.RLIM_INFINITY else 2**31

    def enter(self) -> Cell | None:
        """Move this process into a free cell; None if there is none. Call ``back`` next."""
        if not (self._free or self._off):
            self._get()
        if not self._free or self._off or self._home < 0:
            return None
        cell = self._free.pop()
        return cell if self._moved(cell.fd) else None

    def back(self) -> bool:
        """Move this process out of the cell that it has entered; False: it is in there, so do not end it."""
        return self._moved(self._home)

    def _moved(self, fd: int) -> bool:
        try:
            os.write(fd, b"0")
        except OSError as error:
            self._off = True
            self._ask(FAILED, error.errno or 0)
            return False
        return True

    def give(self, cell: Cell) -> None:
        """Give a cell back in which nothing runs."""
        if cell.fd >= 0:
            self._free.append(cell)

    def end(self, cell: Cell) -> None:
        """End everything in the cell, with SIGKILL; the starter does it, and repeats it until it is empty."""
        if not cell.is_ended:
            cell.is_ended = True
            self._release(cell, END)

    def leave(self, cell: Cell) -> None:
        """Leave alone what is in the cell."""
        if cell.fd >= 0:
            self._release(cell, LEAVE)

    def _release(self, cell: Cell, request: int) -> None:
        if cell.fd >= 0:
            os.close(cell.fd)
            cell.fd = -1
            self._room += 1
        self._ask(request, int(cell.name.rpartition(".")[2]))

    def _get(self) -> None:
        """Take the cells that the starter has made; ask for more if there are none."""
        self._take()
        now_s = clock.now_s()
        if self._free or self._room <= 0 or now_s < self._ask_at_s:
            return
        self._ask(MORE, 0)
        waiting = select.poll()
        waiting.register(self._sock, select.POLLIN)
        waiting.poll(_PATIENCE_MS)
        self._take()
        if not self._free:
            self._ask_at_s = now_s + _PAUSE_S

    def _take(self) -> None:
        """Read what the starter has sent."""
        while True:
            try:
                # Not recv_fds, which ignores the flags.
                name, ancillary, _, _ = self._sock.recvmsg(_NAME_MAX_BYTES, _ANCILLARY_BYTES, _FLAGS)
            except BlockingIOError:
                return
            except OSError:
                name, ancillary = b"", []
            if not name:
                self._off = True  # the starter has ended
                return
            for _, _, raw in ancillary:  # none if there was no descriptor left
                (fd,) = array("i", raw)
                if name == HOME:
                    self._home = fd
                else:
                    cell = Cell(name.decode("ascii", "replace"), fd)
                    self._room -= 1
                    if self._room < 0:  # the answers to several requests came together
                        self.end(cell)
                    else:
                        self._free.append(cell)

    def _ask(self, request: int, number: int) -> None:
        try:
            self._sock.send(REQUEST.pack(request, number))
        except OSError:
            self._off = True  # what is in the cells is ended when this process has ended
