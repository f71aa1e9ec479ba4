"""Messages between a helper and the starter about cells, the control groups of tasks.

They have a channel of their own (``posix.channel``), because the spawner has no part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gexec.errors import ProtocolError
from gexec.wire.messages import Form, Payload, Table

_NAME_MAX_BYTES: Final = 64
_TEXT_MAX_BYTES: Final = 1024


@dataclass(slots=True)
class MoreCells:
    """The helper needs cells; the answer is one NewCell or more, or NoCell."""


@dataclass(slots=True)
class EndCell:
    """End everything in this cell, and remove it. The helper does not use it any more."""

    task: int


@dataclass(slots=True)
class LeaveCell:
    """Leave alone what is in this cell; remove it when it is empty. The helper does not use it any more."""

    task: int


@dataclass(slots=True)
class CellsFailed:
    """The helper cannot use cells, for this reason; it uses none from now on."""

    why: str


@dataclass(slots=True)
class Home:
    """The descriptor by which the helper leaves a cell."""

    fds: tuple[int, ...]


@dataclass(slots=True)
class NewCell:
    """A cell with this number, and the descriptor by which the helper enters it."""

    task: int
    name: str
    fds: tuple[int, ...]


@dataclass(slots=True)
class NoCell:
    """There are no more cells for this helper now."""


def _pack_name(name: str) -> bytes:
    return name.encode()


def _unpack_name(payload: bytes) -> tuple[str]:
    if not 0 < len(payload) <= _NAME_MAX_BYTES:
        raise ProtocolError(f"the name of a cell has {len(payload)} bytes")
    return (payload.decode("ascii", "replace"),)


def _pack_why(why: str) -> bytes:
    return why.encode("utf-8", "backslashreplace")[:_TEXT_MAX_BYTES]


def _unpack_why(payload: bytes) -> tuple[str]:
    return (payload[:_TEXT_MAX_BYTES].decode("utf-8", "replace"),)


#: What a helper may send to the starter.
FROM_CELLS: Final[Table] = {
    1: Form(MoreCells, of_task=False),
    2: Form(EndCell),
    3: Form(LeaveCell),
    4: Form(CellsFailed, payload=Payload(("why",), _pack_why, _unpack_why), of_task=False),
}
#: What the starter may send.
TO_CELLS: Final[Table] = {
    16: Form(Home, fds=1, of_task=False),
    17: Form(NewCell, payload=Payload(("name",), _pack_name, _unpack_name), fds=1),
    18: Form(NoCell, of_task=False),
}
