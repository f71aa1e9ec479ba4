"""Values as bytes: the state of a daemon, which the program that continues its work reads (0030-upgrades.md).

What can be written: None, bool, int, float, bytes, bytearray, str, list, tuple, dict, set, frames and
outcomes. A value is a tag of one byte and its content, and reads back as an equal value of the same type.
Only the programs of one gexecd exchange these bytes, by a sealed memfd.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from gexec.wire import frames
from gexec.wire.frames import Frame
from gexec.wire.outcome import Outcome

_SIZE: Final = Struct("!cQ")
_FLOAT: Final = Struct("!cd")
#: The frames that a state can contain.
_FRAMES: Final[dict[int, Any]] = (
    frames.FROM_PARENT | frames.FROM_CHILD | frames.FROM_ROOT | frames.FROM_CLIENT
)
#: More levels than any state has.
_DEPTH_MAX: Final = 32


def encode(value: object) -> list[bytes]:
    """Return the bytes of a value, in parts: large bytes are not copied.

    Raises:
        TypeError: it contains something that cannot be written.
    """
    parts: list[bytes] = []
    _write(value, parts)
    return parts


def _write(value: Any, parts: list[bytes]) -> None:
    if value is None:
        parts.append(b"N")
    elif value is True:
        parts.append(b"T")
    elif value is False:
        parts.append(b"F")
    elif isinstance(value, int):
        _write_bytes(b"i", value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True), parts)
    elif isinstance(value, float):
        parts.append(_FLOAT.pack(b"f", value))
    elif isinstance(value, bytes):
        _write_bytes(b"b", value, parts)
    elif isinstance(value, bytearray):
        _write_bytes(b"y", bytes(value), parts)
    elif isinstance(value, str):
        _write_bytes(b"s", value.encode("utf-8", "surrogatepass"), parts)
    elif isinstance(value, tuple):
        _write_items(b"t", value, parts)
    elif isinstance(value, list):
        _write_items(b"l", value, parts)
    elif isinstance(value, set):
        _write_items(b"e", sorted(value), parts)
    elif isinstance(value, dict):
        parts.append(_SIZE.pack(b"d", len(value)))
        for key, item in value.items():
            _write(key, parts)
            _write(item, parts)
    elif isinstance(value, Outcome):
        _write_items(b"o", (value.kind, value.value, value.text, value.cut), parts)
    elif isinstance(value, Frame):
        _write_items(b"w", (value.TYPE, b"".join(value.pack_parts())), parts)
    else:
        raise TypeError(f"{type(value).__name__} cannot be part of a saved state")


def _write_bytes(tag: bytes, content: bytes, parts: list[bytes]) -> None:
    parts.append(_SIZE.pack(tag, len(content)))
    parts.append(content)


def _write_items(tag: bytes, items: list[Any] | tuple[Any, ...], parts: list[bytes]) -> None:
    parts.append(_SIZE.pack(tag, len(items)))
    for item in items:
        _write(item, parts)


def decode(raw: bytes | memoryview) -> Any:
    """Return the value of these bytes, of which it keeps copies only.

    Raises:
        ValueError: they are not those of one value.
    """
    reader = _Reader(memoryview(raw))
    try:
        value = reader.value(0)
        if reader.position != len(reader.raw):
            raise ValueError("a saved state has bytes after its end")
    finally:
        reader.raw.release()
    return value


class _Reader:
    def __init__(self, raw: memoryview) -> None:
        self.raw = raw
        self.position = 0

    def value(self, depth: int) -> Any:
        if depth > _DEPTH_MAX:
            raise ValueError("a saved state is nested too deeply")
        tag = self._bytes(1)
        if tag == b"N":
            return None
        if tag == b"T":
            return True
        if tag == b"F":
            return False
        if tag == b"f":
            self.position -= 1
            return _FLOAT.unpack(self._bytes(_FLOAT.size))[1]
        self.position -= 1
        size: int = _SIZE.unpack(self._bytes(_SIZE.size))[1]
        if tag == b"i":
            return int.from_bytes(self._bytes(size), "big", signed=True)
        if tag == b"b":
            return self._bytes(size)
        if tag == b"y":
            return bytearray(self._bytes(size))
        if tag == b"s":
            return self._bytes(size).decode("utf-8", "surrogatepass")
        if size > len(self.raw) - self.position:
            raise ValueError("a saved state is cut short")
        if tag == b"d":
            pairs = {}
            for _ in range(size):
                key = self.value(depth + 1)
                pairs[key] = self.value(depth + 1)
            return pairs
        return _made(tag, [self.value(depth + 1) for _ in range(size)])

    def _bytes(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.raw):
            raise ValueError("a saved state is cut short")
        piece = bytes(self.raw[self.position : end])
        self.position = end
        return piece


def _made(tag: bytes, items: list[Any]) -> Any:
    """Return the value with this tag and these items."""
    if tag == b"l":
        return items
    if tag == b"t":
        return tuple(items)
    if tag == b"e":
        return set(items)
    if tag == b"o":
        kind, value, text, cut = items
        return Outcome(kind, value, text, cut)
    if tag == b"w":
        kind, payload = items
        if kind not in _FRAMES:
            raise ValueError(f"a saved state has a frame of the unknown type {kind}")
        return _FRAMES[kind].unpack(payload)
    raise ValueError(f"a saved state has the unknown tag {tag!r}")
