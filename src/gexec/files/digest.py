"""The digest of a file's contents, which skips holes. Pure.

It is the sha256 of the file's bytes without the blocks that are only zeros (of BLOCK_BYTES, counted from the
start; a shorter last block is kept). If any block was left out, the sha256 of their positions is added at the
end. So a sparse file of terabytes is hashed quickly, the digest does not depend on how a file system stores
the zeros, and for most files it equals the output of sha256sum. Two contents with the same digest would have
to differ in size, which is always compared too.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct

from gexec import limits
from gexec.errors import ProtocolError

BLOCK_BYTES = limits.ARCHIVE_BLOCK_BYTES
_RUN = Struct("!QQ")


class ContentHash:
    """Takes a file's data in ascending order (bytes between are zeros); ``finish`` returns the digest."""

    __slots__ = ("_content", "_holes", "_is_sparse", "next")

    def __init__(self) -> None:
        self._content = sha256()
        self._holes = sha256()
        self._is_sparse = False
        #: End of the data so far.
        self.next = 0

    def update(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Take ``data`` at ``offset``; ProtocolError if the gap before it is not whole blocks."""
        if offset != self.next:
            self._skip_to(offset)
        self._content.update(data)
        self.next = offset + len(data)

    def finish(self, size: int) -> bytes:
        """Return the digest of a file of ``size`` bytes; ProtocolError if the data does not fit that size."""
        if size != self.next:
            self._skip_to(size)
        if self._is_sparse:
            self._content.update(self._holes.digest())
        return self._content.digest()

    def _skip_to(self, offset: int) -> None:
        length = offset - self.next
        if length < 0 or length % BLOCK_BYTES or self.next % BLOCK_BYTES:
            raise ProtocolError(f"data at {offset} after data up to {self.next}: the gap is not whole blocks")
        self._is_sparse = True
        self._holes.update(_RUN.pack(self.next, length))
