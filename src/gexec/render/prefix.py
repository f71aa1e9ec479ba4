"""What stands in front of every line: nothing, the rank (VNN), the node's name, or its address. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = ("none", "vnn", "host", "ip")


def prefixes(kind: str, names: Sequence[bytes], addresses: Sequence[bytes]) -> list[bytes] | None:
    """Return each rank's prefix with its space, or None for kind ``none``."""
    if kind == "none":
        return None
    if kind == "vnn":
        return [b"%d " % rank for rank in range(len(names))]
    if kind == "host":
        return [name + b" " for name in names]
    return [_ip(address) + b" " for address in addresses]


def _ip(address: bytes) -> bytes:
    """Return the address without its port and brackets."""
    return address.rpartition(b":")[0].strip(b"[]")
