"""What a keeper writes about its rank, and what a node reports of it. Pure.

``job.json`` is written before the command starts, ``end.json`` when it has ended. Without the latter, and
without the keeper, the rank is *lost*. Bytes of arguments and paths that are not UTF-8 are lone surrogates.
"""

from __future__ import annotations

import json
from typing import Any, Final

from gexec.errors import ProtocolError
from gexec.wire import outcome as outcomes
from gexec.wire.outcome import Outcome, is_known

_FORMAT: Final = 1
#: Most bytes of job.json: a command is cut to COMMAND_MAX, a path has 4095 bytes, and JSON escapes them.
RECORD_MAX_BYTES: Final = 64 * 1024
#: Bytes that are reserved for end.json when the command starts: a disk that is full then has room for it.
END_BYTES: Final = 4096
COMMAND_MAX: Final = 4096


class RankRecord:
    """One rank of a background job, as it was started. The fields are those of job.json.

    Attributes:
        job: the job's id in hex.
        rank, ranks: which of how many.
        name: "" = none.
        node: the node's name in the job.
        user: the login name.
        command: program and arguments, cut to COMMAND_MAX characters together.
        cwd: the working directory.
        started_s: UNIX time.
        boot: the kernel's id of this boot.
        keeper: pid and start time (in ticks) of the keeper.
        lease_s: how long it is kept after its end.
        keep_bytes: bytes of each stream that may be kept.
    """

    __slots__ = (
        "boot", "command", "cwd", "job", "keep_bytes", "keeper", "lease_s", "name", "node", "rank", "ranks",
        "started_s", "user",
    )  # fmt: skip

    def __init__(
        self,
        *,
        job: str,
        rank: int,
        ranks: int,
        name: str,
        node: str,
        user: str,
        command: list[str],
        cwd: str,
        started_s: float,
        boot: str,
        keeper: list[int],
        lease_s: float,
        keep_bytes: int,
    ) -> None:
        self.job = job
        self.rank = rank
        self.ranks = ranks
        self.name = name
        self.node = node
        self.user = user
        self.command = command
        self.cwd = cwd
        self.started_s = started_s
        self.boot = boot
        self.keeper = keeper
        self.lease_s = lease_s
        self.keep_bytes = keep_bytes

    def encode(self) -> bytes:
        """Return job.json."""
        told: dict[str, Any] = {"format": _FORMAT}
        told |= {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(told).encode() + b"\n"

    @classmethod
    def decode(cls, raw: bytes) -> RankRecord:
        """Return what ``encode`` wrote. Raises ProtocolError: it is something else, or of another version."""
        told = _object(raw)
        kinds: dict[str, type | tuple[type, ...]] = {
            "job": str, "rank": int, "ranks": int, "name": str, "node": str, "user": str, "command": list,
            "cwd": str, "started_s": (int, float), "boot": str, "keeper": list, "lease_s": (int, float),
            "keep_bytes": int,
        }  # fmt: skip
        _check(told, kinds)
        if not all(isinstance(word, str) for word in told["command"]) or not (
            len(told["keeper"]) == 2 and all(isinstance(number, int) for number in told["keeper"])
        ):
            raise ProtocolError("the record of a background job is malformed")
        return cls(**{name: told[name] for name in kinds})


class RankEnd:
    """How a rank of a background job ended. The fields are those of end.json.

    Attributes:
        outcome: exited, killed or timed out.
        ended_s: UNIX time.
        lengths: bytes that it wrote to stdout and stderr, kept or not.
        dropped: how many of them could not be written to the disk.
        why: the last reason for that, "" = none.
        held: other processes still hold the output: the lengths may grow.
        expires_s: when its lease ends, UNIX time.
    """

    __slots__ = ("dropped", "ended_s", "expires_s", "held", "lengths", "outcome", "why")

    def __init__(
        self,
        outcome: Outcome,
        ended_s: float,
        lengths: tuple[int, int],
        dropped: tuple[int, int] = (0, 0),
        why: str = "",
        held: bool = False,
        expires_s: float = 0.0,
    ) -> None:
        self.outcome = outcome
        self.ended_s = ended_s
        self.lengths = lengths
        self.dropped = dropped
        self.why = why
        self.held = held
        self.expires_s = expires_s

    def encode(self) -> bytes:
        """Return end.json: at most END_BYTES."""
        told = {
            "format": _FORMAT,
            "outcome": packed(self.outcome),
            "ended_s": self.ended_s,
            "lengths": self.lengths,
            "dropped": self.dropped,
            "why": self.why[:200],
            "held": self.held,
            "expires_s": self.expires_s,
        }
        return json.dumps(told).encode() + b"\n"

    @classmethod
    def decode(cls, raw: bytes) -> RankEnd:
        """Return what ``encode`` wrote. Raises ProtocolError for anything else."""
        told = _object(raw)
        numbers = (int, float)
        kinds: dict[str, Any] = {"outcome": list, "ended_s": numbers, "lengths": list, "dropped": list}
        _check(told, kinds | {"why": str, "held": bool, "expires_s": numbers})
        return cls(
            unpacked(told["outcome"]), told["ended_s"], pair(told["lengths"]), pair(told["dropped"]),
            told["why"], told["held"], told["expires_s"],
        )  # fmt: skip


def packed(outcome: Outcome) -> list[Any]:
    """Return an outcome as JSON has it."""
    return [outcome.kind, outcome.value, outcome.text[:500]]


def unpacked(told: Any) -> Outcome:
    """Return the outcome that ``packed`` made. Raises ProtocolError for anything else."""
    if (
        not isinstance(told, list)
        or [type(part) for part in told] != [int, int, str]
        or told[0] < 0
        or not is_known(told[0], told[1], False)
    ):
        raise ProtocolError("the outcome of a background job is malformed")
    return Outcome(told[0], told[1], outcomes.clipped(told[2]))


def pair(told: Any) -> tuple[int, int]:
    """Return two numbers, one for each stream. Raises ProtocolError if these are not."""
    if not isinstance(told, list) or [type(number) for number in told] != [int, int] or min(told) < 0:
        raise ProtocolError("the lengths of a background job's output are malformed")
    return told[0], told[1]


def clipped_command(argv: list[bytes]) -> list[str]:
    """Return arguments as a record has them: as text, cut to COMMAND_MAX characters together."""
    shown: list[str] = []
    left = COMMAND_MAX
    for argument in argv:
        text = argument[: left + 1].decode("utf-8", "surrogateescape")
        if len(text) > left:
            shown.append(text[:left] + "...")
            break
        shown.append(text)
        left -= len(text) + 1
        if left <= 0:
            shown.append("...")
            break
    return shown


def _object(raw: bytes) -> dict[str, Any]:
    try:
        told = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the record of a background job is malformed: {error}") from error
    if not isinstance(told, dict):
        raise ProtocolError("the record of a background job is malformed")
    if told.get("format") != _FORMAT:
        raise ProtocolError("the record of a background job is of another version of gexec")
    return told


def _check(told: dict[str, Any], kinds: dict[str, Any]) -> None:
    for name, kind in kinds.items():
        value = told.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ProtocolError(f"the record of a background job has no valid {name}")
