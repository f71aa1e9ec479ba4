"""What tests of files share: the digest of a content."""

from __future__ import annotations

from gexec.files.digest import ContentHash


def digest(content: bytes) -> bytes:
    """Return the digest that a file with this content has in a stream."""
    hashed = ContentHash()
    if content:
        hashed.update(0, content)
    return hashed.finish(len(content))
