"""What a node reports of one rank of a background job: one line of JSON. Pure.

The client reads these lines from nodes, so it checks every field.
"""

from __future__ import annotations

import json
from typing import Any, Final

from gexec.errors import ProtocolError
from gexec.jobs.records import RankEnd, RankRecord, packed, pair, unpacked
from gexec.limits import RANKS_MAX
from gexec.wire.outcome import Outcome, lost

#: Bytes of one line, at most.
LINE_MAX_BYTES: Final = 64 * 1024
RESTARTED: Final = "the node was restarted while it ran"
UNKEPT: Final = "its keeper has ended without a word; the command may still run"
_TEXT_MAX: Final = 5000
_FIELDS: Final = (
    "job", "rank", "ranks", "name", "node", "user", "uid", "command", "cwd", "started_s", "lease_s",
    "keep_bytes", "runs", "outcome", "ended_s", "lengths", "kept_bytes", "dropped", "held",
)  # fmt: skip


class RankState:
    """One rank of a background job, now.

    Attributes, beside those of ``records.RankRecord``:
        uid: of its user.
        runs: its keeper runs, and its command has not ended.
        outcome: how it ended; None = it runs.
        ended_s: UNIX time of the end; 0 = not known.
        lengths: bytes of stdout and stderr so far.
        kept_bytes: how many of both are on the disk.
        dropped: how many could not be written.
        held: the command has ended, and other processes hold its output.
    """

    __slots__ = _FIELDS
    job: str
    rank: int
    ranks: int
    name: str
    node: str
    user: str
    uid: int
    command: list[str]
    cwd: str
    started_s: float
    lease_s: float
    keep_bytes: int
    runs: bool
    outcome: Outcome | None
    ended_s: float
    lengths: tuple[int, int]
    kept_bytes: int
    dropped: tuple[int, int]
    held: bool

    def __init__(self, **told: Any) -> None:
        for name in _FIELDS:
            setattr(self, name, told[name])

    @classmethod
    def of(
        cls,
        record: RankRecord,
        end: RankEnd | None,
        *,
        uid: int,
        is_kept: bool,
        boot: str,
        lengths: tuple[int, int],
        kept_bytes: int,
    ) -> RankState:
        """Return the state of a rank.

        Args:
            is_kept: its keeper runs.
            boot: of the node now.
            lengths: as far as the files go; the end knows better.
            kept_bytes: see above.
        """
        outcome: Outcome | None = None
        if end is not None:
            outcome = end.outcome
        elif not is_kept:
            outcome = lost(UNKEPT if record.boot == boot else RESTARTED)
        told = {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        return cls(
            **told,
            uid=uid,
            runs=outcome is None,
            outcome=outcome,
            ended_s=0.0 if end is None else end.ended_s,
            lengths=lengths if end is None else end.lengths,
            kept_bytes=kept_bytes,
            dropped=(0, 0) if end is None else end.dropped,
            held=end is not None and end.held and is_kept,
        )

    def fields(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        told = {name: getattr(self, name) for name in _FIELDS}
        told["outcome"] = None if self.outcome is None else packed(self.outcome)
        return told

    def line(self) -> bytes:
        """Return its line, with the newline."""
        return json.dumps(self.fields()).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> RankState:
        """Return what a line of a node says. Raises ProtocolError for anything else."""
        try:
            told = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"a node's line about a background job is malformed: {error}") from error
        if not isinstance(told, dict) or set(told) != set(_FIELDS):
            raise ProtocolError("a node's line about a background job has other fields")
        _check(told)
        told["lengths"], told["dropped"] = pair(told["lengths"]), pair(told["dropped"])
        if told["outcome"] is not None:
            told["outcome"] = unpacked(told["outcome"])
        if told["runs"] is not (told["outcome"] is None):
            raise ProtocolError("a background job that runs has no outcome, and any other has one")
        return cls(**told)


def _check(told: dict[str, Any]) -> None:
    for name in ("job", "name", "node", "user", "cwd"):
        if not isinstance(told[name], str) or len(told[name]) > _TEXT_MAX:
            raise ProtocolError(f"a node's line about a background job has no valid {name}")
    for name in ("rank", "ranks", "uid", "keep_bytes", "kept_bytes"):
        if type(told[name]) is not int or not 0 <= told[name] < 2**63:
            raise ProtocolError(f"a node's line about a background job has no valid {name}")
    for name in ("started_s", "lease_s", "ended_s"):
        if type(told[name]) not in (int, float) or not 0 <= told[name] < 1e12:
            raise ProtocolError(f"a node's line about a background job has no valid {name}")
    for name in ("runs", "held"):
        if not isinstance(told[name], bool):
            raise ProtocolError(f"a node's line about a background job has no valid {name}")
    command = told["command"]
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise ProtocolError("a node's line about a background job has no valid command")
    is_hex = len(told["job"]) == 32 and set("0123456789abcdef").issuperset(told["job"])
    if not is_hex or not told["rank"] < told["ranks"] <= RANKS_MAX:
        raise ProtocolError("a node's line about a background job has no valid job and rank")
