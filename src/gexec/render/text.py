"""Makes text from other hosts safe for a terminal. Pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return ``text`` with every character that could control a terminal written as an escape.

    Names and reasons come from other hosts; ``\\x1b[2J`` in one must be shown as seven characters. A byte
    that was not UTF-8 (a lone surrogate, see PEP 383) is written as the byte, ``\\xff``.
    """
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else _escape(c) for c in text])


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:x}"
    return ascii(character)[1:-1]


def shown(raw: bytes) -> str:
    """Return bytes (a node's name) as text that is safe to print."""
    return printable(raw.decode("utf-8", "backslashreplace"))


def seconds(elapsed_s: float) -> str:
    """Return a time span with about three significant digits, e.g. ``0.042 s``, ``12.3 s``."""
    return f"{elapsed_s:.3f} s" if elapsed_s < 10 else f"{elapsed_s:.1f} s"


def size(count: float) -> str:
    """Return bytes in the largest unit with a non-zero integer part, e.g. ``4.2 MiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
