"""Names of files that are being written, and have no other name yet. Pure."""

from __future__ import annotations

from hashlib import sha256

_PREFIX = b".gexec-"
_HEX = frozenset(b"0123456789abcdef")


def temporary_name(name: bytes) -> bytes:
    """Return the temporary name of a file."""
    return _PREFIX + sha256(name).hexdigest()[:24].encode()


def is_temporary(name: bytes) -> bool:
    """True for a temporary name, also for one with a number for a second run that writes the same file."""
    if not name.startswith(_PREFIX):
        return False
    digest, dash, number = name[len(_PREFIX) :].partition(b"-")
    return len(digest) == 24 and len(number) == 16 * len(dash) and _HEX.issuperset(digest + number)
