"""A helper's cells and the starter's part in them, each with a stand-in for the other and for the kernel."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from gexec import native
from gexec.posix import channel, clock, descendants
from gexec.posix.loop import PollLoop
from gexec.spawner import cellmaker
from gexec.spawner.cellmaker import CellMaker
from gexec.spawner.cells import END, FAILED, HOME, LEAVE, MORE, NO_CELL, REQUEST, Cell, Cells

pytestmark = pytest.mark.skipif(native.in_use(), reason="compiled code takes no stand-in for a CellTree")


def file() -> int:
    return os.memfd_create("cell")


class Starter:
    """What a helper hears of, and says to, its starter."""

    def __init__(self) -> None:
        self.sock, self.theirs = channel.pair()
        self.cells = Cells(self.theirs)

    def close(self) -> None:
        self.sock.close()
        self.theirs.close()

    def send(self, name: bytes, *fds: int) -> None:
        socket.send_fds(self.sock, [name], fds)
        for fd in fds:
            os.close(fd)

    def asked(self) -> list[tuple[int, int]]:
        found = []
        self.sock.setblocking(False)
        while True:
            try:
                found.append(REQUEST.unpack(self.sock.recv(100)))
            except BlockingIOError:
                return found


@pytest.fixture
def starter() -> Iterator[Starter]:
    made = Starter()
    yield made
    made.close()


def test_a_helper_uses_a_cell_again_and_gives_up_those_that_are_decided(starter: Starter) -> None:
    starter.send(HOME, file())
    starter.send(b"1.2.3", file())
    starter.send(b"1.2.4", file())
    cells = starter.cells
    first = cells.enter()
    assert first is not None
    assert cells.back()
    assert first.is_occupied  # the stand-in keeps what was written
    os.ftruncate(first.fd, 0)
    assert not first.is_occupied
    cells.give(first)
    assert cells.enter() is first
    second = cells.enter()
    assert second is not None
    assert {first.name, second.name} == {"1.2.3", "1.2.4"}
    assert not os.get_inheritable(first.fd)
    cells.end(first)
    cells.end(first)
    cells.leave(second)
    assert (first.is_due, second.is_due) == (False, True)
    cells.end(second)
    numbers = [int(cell.name.rpartition(".")[2]) for cell in (first, second)]
    assert starter.asked() == [(END, numbers[0]), (LEAVE, numbers[1]), (END, numbers[1])]
    cells.give(first)  # it is gone
    starter.send(NO_CELL)
    assert cells.enter() is None
    assert starter.asked() == [(MORE, 0)]
    assert cells.enter() is None
    assert starter.asked() == []  # not again so soon


def test_a_helper_that_cannot_move_uses_no_cells(starter: Starter) -> None:
    reader, writer = os.pipe()
    os.close(writer)
    starter.send(HOME, file())
    starter.send(b"1.2.4", file())
    starter.send(b"1.2.3", reader)
    assert starter.cells.enter() is None
    assert starter.asked() == [(FAILED, errno.EBADF)]
    assert starter.cells.enter() is None
    assert starter.asked() == []


def test_a_helper_whose_starter_has_ended_uses_no_cells(starter: Starter) -> None:
    starter.sock.close()
    assert starter.cells.enter() is None
    starter.cells.end(Cell("1.2.3", file()))


class Memory:
    """A tree in memory: cells, and whether something is in them."""

    def __init__(self, **found: bool) -> None:
        self.full: dict[str, bool] = dict(found)
        self.left: set[str] = set()
        self.ended: list[str] = []
        self.is_broken = False

    def home(self) -> int:
        return file()

    def make(self, name: str) -> int:
        if self.is_broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.full[name] = False
        return file()

    def names(self) -> list[str]:
        return list(self.full)

    def leave(self, name: str) -> None:
        self.left.add(name)

    def is_left(self, name: str) -> bool:
        return name in self.left

    def remove(self, name: str) -> bool:
        if self.full.get(name):
            return False
        self.full.pop(name, None)
        return True

    def end(self, name: str) -> bool:
        self.ended.append(name)
        was_full, self.full[name] = self.full[name], False
        return not was_full and self.remove(name)


class Kept:
    """A cell maker, and one helper's end of its channel."""

    def __init__(self, tree: Memory) -> None:
        self.tree = tree
        self.notes: list[str] = []
        self.loop = PollLoop(lambda signum: None)
        self.maker = CellMaker(tree, self.loop, self.notes.append)  # type: ignore[arg-type]
        self.sock = socket.socket(fileno=self.maker.admit(7))
        self.sock.setblocking(False)

    def close(self) -> None:
        self.sock.close()
        for helper in (7, 8):
            self.maker.dismiss(helper, 0.0)

    def names(self) -> list[str]:
        found: list[str] = []
        while True:
            try:
                name, fds, _, _ = socket.recv_fds(self.sock, 100, 1)
            except BlockingIOError:
                return found
            found.append(name.decode())
            for fd in fds:
                os.close(fd)

    def ask(self, request: int, number: int) -> None:
        self.sock.send(REQUEST.pack(request, number))
        self.loop.turn(clock.now_s())


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept(Memory())
    yield made
    made.close()


def test_the_starter_makes_cells_on_demand_up_to_a_limit(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    home, *first = kept.names()
    assert home == "home"
    assert len(first) == 4
    assert all(name.startswith(f"{os.getpid()}.") for name in first)
    monkeypatch.setattr(cellmaker, "CELLS_MAX", 6)
    kept.ask(MORE, 0)
    assert len(kept.names()) == 2
    kept.ask(MORE, 0)
    assert kept.names() == ["none"]
    kept.ask(LEAVE, 1)  # what was left alone takes no place
    kept.ask(MORE, 0)
    assert len(kept.names()) == 1
    kept.tree.is_broken = True
    kept.ask(LEAVE, 2)
    for _ in range(2):
        kept.ask(MORE, 0)
        assert kept.names() == ["none"]
    assert kept.notes == ["commands that get no control group of their own: No space left on device"]


def test_the_starter_ends_what_its_own_helper_asks_for_until_it_is_empty(kept: Kept) -> None:
    _, first, second, *_ = kept.names()
    kept.tree.full[first] = True
    kept.ask(END, 99)
    kept.ask(END, int(first.rpartition(".")[2]))
    assert kept.tree.ended == [first]
    assert kept.maker.is_owing
    while kept.maker.is_owing:
        kept.loop.turn(None)
    assert kept.tree.ended == [first, first]
    assert first not in kept.tree.full
    kept.ask(END, 1)  # it is gone
    assert kept.tree.ended == [first, first]
    assert second in kept.tree.full


def test_cells_of_a_helper_that_has_ended(kept: Kept) -> None:
    _, left, busy, *_ = kept.names()
    kept.tree.full[left] = kept.tree.full[busy] = True
    kept.sock.send(REQUEST.pack(LEAVE, int(left.rpartition(".")[2])))  # not read yet
    kept.maker.dismiss(7, 0.0)
    kept.maker.dismiss(7, 0.0)
    assert set(kept.tree.full) == {left, busy}
    kept.loop.turn(None)
    while kept.maker.is_owing:
        kept.loop.turn(None)
    assert set(kept.tree.full) == {left}
    kept.tree.full[left] = False
    os.close(kept.maker.admit(8))
    assert left not in kept.tree.full
    kept.maker.close()
    assert kept.tree.full == {}


def test_a_helper_that_sends_nonsense_is_not_heard_any_more(kept: Kept) -> None:
    kept.sock.send(b"nonsense")
    kept.loop.turn(clock.now_s())
    with pytest.raises(BrokenPipeError):
        kept.ask(MORE, 0)


def test_cells_of_earlier_gexecds() -> None:
    stat = descendants.stat_of(os.getppid())
    assert stat is not None
    living = f"{os.getppid()}.{stat.born}.1"
    tree = Memory(**{"1.0.1": True, "1.0.2": True, "1.0.3": False, living: True, "other": False})
    tree.left.add("1.0.2")
    kept = Kept(tree)
    while kept.maker.is_owing:
        kept.loop.turn(None)
    assert {name for name in tree.full if not name.startswith(f"{os.getpid()}.")} == {"1.0.2", living}
    assert kept.notes == ["ending what 1 commands of an earlier gexecd have left running"]
    kept.close()
