"""Names in certificates: when two are the same, and which of them identify a host. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

#: Put before an address, so that no name of a host is taken for it: no name has a space.
_ADDRESS: Final = " "
#: Every host has these, and the usual hosts files give them to every host.
_EVERYBODYS: Final = frozenset(
    {"", f"{_ADDRESS}127.0.0.1", f"{_ADDRESS}::1", "localhost", "localhost4", "localhost6"}
    | {"ip6-localhost", "ip6-loopback"}
)

#: Of a name in a sentence, at most so much.
_SHOWN_CHARACTERS: Final = 80


def normal(name: str) -> str:
    """Return a name or an address in a form in which equal ones are equal.

    Names are compared as in DNS, ignoring case and a trailing dot, and in full: there are no wildcards. An
    address is not a name, and its zone is ignored: it names an interface of the host that dials.
    """
    folded = name.lower().removesuffix(".")
    if folded[:1].isdigit() or ":" in folded:  # ip_address is slow, and few names look like this
        return _address(folded.partition("%")[0] if ":" in folded else folded) or folded
    return folded


def certified(alternatives: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Return the normal forms of a certificate's (kind, value) pairs; kinds: ``DNS`` and ``IP Address``."""
    held: set[str] = set()
    for kind, value in alternatives:
        if kind == "DNS":
            held.add(value.lower().removesuffix("."))
        elif kind == "IP Address":
            held.add(_address(value.strip()))
    held.discard("")
    return frozenset(held)


def is_everybodys(name: str) -> bool:
    """Tell whether every host has this name or address, so that it identifies none."""
    known = normal(name)
    return known in _EVERYBODYS or known.partition(".")[0] in _EVERYBODYS


def shown(name: str) -> str:
    """Return a name of a peer for a sentence: bounded, and without control characters."""
    text = name[:_SHOWN_CHARACTERS].encode("utf-8", "replace").decode()
    return "".join([character if character.isprintable() else "?" for character in text])


def _address(text: str) -> str:
    """Return the normal form of a numeric address, "" for anything else."""
    try:
        return f"{_ADDRESS}{ip_address(text)}"
    except ValueError:
        return ""
