"""What a job blob says about a background job (docs/decisions/0029).

A background job's output and outcome are kept on the nodes for a time, its lease. Pure; loaded by what starts
such a job, and by clients only for one.
"""

from __future__ import annotations

from struct import Struct

from gexec import limits
from gexec.errors import ProtocolError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_HEAD: Final = Struct("!BQI")
_HOLDS: Final = 1
NAME_MAX_BYTES: Final = 64
_FIRST: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_LATER: Final = _FIRST | frozenset(b".-+@:")


class Background:
    """The background part of a job.

    Args:
        name: for people; b"" = none. 1 to 64 letters, digits and ``_.-+@:``, the first none of ``.-+@:``.
        keep_bytes: what a node keeps of each stream, KEEP_MIN_BYTES to KEEP_MAX_BYTES.
        lease_s: how long it is kept after the end, 1 to LEASE_MAX_S, in whole seconds.
        holds: the job's client reads from the beginning: nothing is discarded that it has not read.
    """

    __slots__ = ("holds", "keep_bytes", "lease_s", "name")

    def __init__(
        self,
        name: bytes = b"",
        keep_bytes: int = limits.KEEP_BYTES,
        lease_s: float = limits.LEASE_S,
        holds: bool = False,
    ) -> None:
        self.name = name
        self.keep_bytes = keep_bytes
        self.lease_s = lease_s
        self.holds = holds

    def check(self) -> None:
        """Raise UsageError, which names the value and its limit, if it is not valid."""
        if self.name and not is_name(self.name):
            raise UsageError(
                f"name {self.name[:80]!r}: expected 1 to {NAME_MAX_BYTES} letters, digits and _.-+@:, "
                "a letter, digit or _ first"
            )
        if not limits.KEEP_MIN_BYTES <= self.keep_bytes <= limits.KEEP_MAX_BYTES:
            raise UsageError(
                f"{self.keep_bytes} bytes to keep: expected 0, or {limits.KEEP_MIN_BYTES} to "
                f"{limits.KEEP_MAX_BYTES}"
            )
        if not 1 <= self.lease_s <= limits.LEASE_MAX_S:
            raise UsageError(f"lease {self.lease_s:g} s: expected 1 to {limits.LEASE_MAX_S:.0f} seconds")

    def encode(self) -> bytes:
        """Return its bytes. Raises UsageError if it is not valid."""
        self.check()
        return _HEAD.pack(_HOLDS if self.holds else 0, self.keep_bytes, int(self.lease_s)) + self.name

    @classmethod
    def decode(cls, raw: bytes) -> Background:
        """Return what ``encode`` wrote. Raises ProtocolError for anything else."""
        if len(raw) < _HEAD.size or raw[0] & ~_HOLDS:
            raise ProtocolError("job blob: what it says about the background is not known here")
        flags, keep_bytes, lease_s = _HEAD.unpack_from(raw)
        background = cls(raw[_HEAD.size :], keep_bytes, float(lease_s), bool(flags & _HOLDS))
        try:
            background.check()
        except UsageError as error:
            raise ProtocolError(f"job blob: {error}") from error
        return background


def is_name(name: bytes) -> bool:
    """Tell whether a job may have this name."""
    return 1 <= len(name) <= NAME_MAX_BYTES and name[0] in _FIRST and _LATER.issuperset(name)
