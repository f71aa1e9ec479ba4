"""Messages of an upgrade between the spawner, its relay and the relay's successor; and all of their messages.

The relay hands its state over to the successor on a socket pair that the spawner makes and gives to both
(``relay.handing``): the spawner never reads the state. Source: docs/decisions/0030-upgrades.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from gexec import limits
from gexec.wire import messages
from gexec.wire.messages import Form, Payload, Table


@dataclass(slots=True)
class HandOver:
    """To the relay: send your state on this socket, then wait for HandoverEnds."""

    fds: tuple[int, ...]


@dataclass(slots=True)
class HandoverEnds:
    """To the relay: continue (``stays``), because the successor has failed; or end at once."""

    stays: bool


@dataclass(slots=True)
class GoOn:
    """To the successor: the relay before it has ended."""


@dataclass(slots=True)
class Survivor:
    """To the successor of a relay that died: this task runs, and ``fds`` are its stdout and stderr.

    ``life``: how many relays it has outlived. ``age_s``: how long it has run. ``digest``: SHA-256 of the
    credential with which it was started.
    """

    task: int
    rank: int
    life: int
    age_s: int
    job_id: bytes
    digest: bytes
    fds: tuple[int, ...]


@dataclass(slots=True)
class UpgradeEnded:
    """To the relay: the upgrade that was asked for is done, or not, for the reason in ``text``."""

    done: bool
    text: str


@dataclass(slots=True)
class SuccessorReady:
    """From the successor: everything is loaded, and the state can come.

    ``expires_s``: until when its certificate is valid, UNIX time.
    """

    expires_s: int


@dataclass(slots=True)
class StateTaken:
    """From the successor: it can continue with so many jobs."""

    jobs: int


@dataclass(slots=True)
class HandoverFailed:
    """From the relay or its successor: the state cannot be handed over, or not be used."""

    text: str


@dataclass(slots=True)
class UpgradeWanted:
    """From the relay: its administrator asks for an upgrade; ``forced``: even if the code is the same."""

    forced: bool


def _pack_text(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")[: limits.TEXT_MAX_BYTES]


_SURVIVOR: Final = Struct("!BI16s32s")


def _pack_survivor(life: int, age_s: int, job_id: bytes, digest: bytes) -> bytes:
    return _SURVIVOR.pack(life, age_s, job_id, digest)


def _unpack_survivor(payload: bytes) -> tuple[int, int, bytes, bytes]:
    life, age_s, job_id, digest = _SURVIVOR.unpack(payload)
    return life, age_s, job_id, digest


_TEXT: Final = Payload(("text",), _pack_text, lambda raw: (raw.decode("utf-8", "replace"),))

#: All that a spawner may send to its relay.
FROM_SPAWNER: Final[Table] = {
    **messages.FROM_SPAWNER,
    23: Form(HandOver, fds=1, of_task=False),
    24: Form(HandoverEnds, "stays", 0, 1, of_task=False),
    25: Form(GoOn, of_task=False),
    26: Form(UpgradeEnded, "done", 0, 1, _TEXT, of_task=False),
    27: Form(
        Survivor,
        "rank",
        payload=Payload(("life", "age_s", "job_id", "digest"), _pack_survivor, _unpack_survivor),
        fds=2,
    ),
}
#: All that a relay may send to its spawner.
FROM_RELAY: Final[Table] = {
    **messages.FROM_RELAY,
    31: Form(SuccessorReady, "expires_s", of_task=False),
    32: Form(StateTaken, "jobs", of_task=False),
    33: Form(HandoverFailed, payload=_TEXT, of_task=False),
    34: Form(UpgradeWanted, "forced", 0, 1, of_task=False),
}

#: What concerns an upgrade, from each side.
ToRelay = HandOver | HandoverEnds | GoOn | Survivor | UpgradeEnded
OfRelay = SuccessorReady | StateTaken | HandoverFailed | UpgradeWanted
