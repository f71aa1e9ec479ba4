"""The prefix of each line: none, the rank (VNN), the node's name, or its address. Pure."""

from __future__ import annotations

from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Longer prefixes exceed the column.
_ALIGN_MAX = 32
#: Foreground colours that are readable on light and dark; neighbours in a cluster get different ones.
_PALETTE = (b"36", b"33", b"32", b"35", b"34", b"31", b"96", b"93", b"92", b"95", b"94", b"91")


def prefixes(kind: str, names: Sequence[bytes], addresses: Sequence[bytes]) -> list[bytes] | None:
    """Return each rank's prefix with its space, or None for kind ``none``."""
    if kind == "none":
        return None
    if kind == "vnn":
        return [b"%d " % rank for rank in range(len(names))]
    if kind == "host":
        return [printable(name) + b" " for name in names]
    return [_ip(address) + b" " for address in addresses]


def styled(
    plain: Sequence[bytes], names: Sequence[bytes], colour: bool = False, align: bool = False
) -> list[bytes]:
    """Return prefixes for a terminal.

    Args:
        plain: of ``prefixes``.
        names: the nodes' names in the same order; a name always has the same colour.
        colour: colour each prefix.
        align: pad all to the longest, at most 32 characters; numbers are right-aligned.
    """
    texts = [prefix[:-1] for prefix in plain]
    if align:
        widths = [len(text) if text.isascii() else len(text.decode()) for text in texts]
        width = min(_ALIGN_MAX, max(widths, default=0))
        pads = [b" " * (width - own) for own in widths]
        texts = [pad + text if text.isdigit() else text + pad for text, pad in zip(texts, pads, strict=True)]
    if colour:
        hues = [_PALETTE[sum(name) % len(_PALETTE)] for name in names]
        texts = [b"\x1b[%bm%b\x1b[0m" % pair for pair in zip(hues, texts, strict=True)]
    return [text + b" " for text in texts]


def wants_colour(when: str, terminal: bool, environ: Mapping[str, str]) -> bool:
    """True if colours should be used.

    Args:
        when: the value of --color: auto, always or never.
        terminal: whether the descriptor is a terminal; with ``auto``, colours are used only on terminals, and
            not if NO_COLOR is set (no-color.org) or TERM is unset, empty or ``dumb``.
    """
    if when != "auto":
        return when == "always"
    return terminal and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") not in ("", "dumb")


def printable(name: bytes) -> bytes:
    """Return a name that is safe for a terminal; ASCII is unchanged, as names contain no control bytes.

    Only C1 controls remain, which are two bytes in UTF-8, or one byte that is not UTF-8.
    """
    return name if name.isascii() else shown(name).encode()


def _ip(address: bytes) -> bytes:
    """Return the (first) address without its port and brackets."""
    return address.partition(b",")[0].rpartition(b":")[0].strip(b"[]")
