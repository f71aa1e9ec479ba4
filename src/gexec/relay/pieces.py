"""Writing the parts of frames to a transport, in pieces of the right size."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gexec.relay.transports import ClientSocket

#: TLS encrypts into a buffer that never shrinks, so it gets pieces of this size, and no more while that much
#: waits there; otherwise a link would keep megabytes after a large job.
PIECE_BYTES: Final = 256 * 1024
#: Parts up to this size are written together: a write of its own costs more than a copy.
_JOINED_BYTES: Final = 16 * 1024


def write(transport: asyncio.Transport | ClientSocket, parts: list[bytes], size: int) -> None:
    """Write parts of ``size`` bytes at once, without copying the large ones."""
    if size <= _JOINED_BYTES:
        transport.write(b"".join(parts))
        return
    pieces: list[bytes] = []
    small: list[bytes] = []
    for part in parts:
        if len(part) <= _JOINED_BYTES:
            small.append(part)
        else:
            pieces += (b"".join(small), part)
            small = []
    pieces.append(b"".join(small))
    transport.writelines([piece for piece in pieces if piece])


def cut(data: bytes) -> list[bytes]:
    """Return a part in pieces of PIECE_BYTES."""
    return [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
