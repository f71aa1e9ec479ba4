"""Plain lists of node names; taking the first N or N random ones.

Names are opaque and kept unchanged; a duplicate runs two processes. :mod:`gexec.select.nodeset` handles
ranges, groups, wildcards and operators; it is loaded only if a text contains them (:func:`is_nodeset`). Pure,
part of the thin client.
"""

from __future__ import annotations

from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: A node as given: the name without its port, and the port, 0 if none was given.
Node = tuple[str, int]


def folded(name: str) -> str:
    """Return a name in the form for comparison as in DNS: in lower case, without a trailing dot."""
    return name.lower().removesuffix(".")


def quoted(text: str) -> str:
    """Return the beginning of a text in quotes, for an error; bytes that are not UTF-8 as ``\\xff``."""
    return repr(text[:80]).replace("\\udc", "\\x")


def is_nodeset(text: str) -> bool:
    """True if the text has more than plain names: ranges, groups, operators or wildcards."""
    for mark in "&!^*?":
        if mark in text:
            return True
    if "[" not in text and "@" not in text:
        return "]" in text
    words = text.replace(",", " ").split()
    return any(word[0] == "@" or ("[" in word and not _is_ipv6(word)) for word in words)


def _is_ipv6(word: str) -> bool:
    # A range has no colon: [::1]:77 and me@[::1] are addresses, [1-3]:77 is not.
    before, _, inside = word.partition("[")
    return before[-1:] in ("", "@") and ":" in inside.partition("]")[0]


def parse_names(text: str, source: str) -> list[Node]:
    """Return the nodes of a plain list of names, separated by commas or white space, unchanged.

    ``source`` is named in errors. Raises UsageError for a malformed port.
    """
    words = text.replace(",", " ").split()
    if ":" not in text and "[" not in text:
        return [(word, 0) for word in words]
    return [split_port(word, source) for word in words]


def split_port(word: str, source: str) -> Node:
    """Return (name, port or 0) of ``name``, ``name:port``, ``[ip6]:port``, ``[ip6]`` or a bare IPv6.

    A name may have a user (``user@``), for ssh.
    """
    if word[0] == "[" or "@[" in word:
        user, _, address = word.partition("[")
        name, closing, rest = address.partition("]")
        if not closing or not name or (rest and rest[0] != ":"):
            raise UsageError(f"{source}: {quoted(word)}: expected [IPv6 address]:port")
        return user + name, _port(word, rest[1:], source) if rest else 0
    if word.count(":") != 1:
        return word, 0
    name, _, port = word.partition(":")
    if not name:
        raise UsageError(f"{source}: {quoted(word)}: expected a name before the colon")
    return name, _port(word, port, source)


def spelled(name: str, port: int) -> str:
    """Return a node in its written form: the reverse of :func:`split_port`."""
    if not port:
        return name
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _port(word: str, text: str, source: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535:
        return int(text)
    raise UsageError(f"{source}: {quoted(word)}: expected a port from 1 to 65535 after the colon")


def first(nodes: list[Node], count: int, source: str) -> list[Node]:
    """Return the first ``count`` nodes, 0 = all; UsageError if there are fewer."""
    _enough(nodes, count, source)
    return nodes[:count] if count else nodes


def draw(nodes: list[Node], count: int, source: str, random_bytes: Callable[[int], bytes]) -> list[Node]:
    """Return ``count`` random nodes, in their order; UsageError if there are fewer.

    ``random_bytes(n)`` returns n random bytes (os.urandom): each node gets eight of them, and the smallest
    are taken.
    """
    _enough(nodes, count, source)
    raw = random_bytes(8 * len(nodes))
    by_random = sorted(range(len(nodes)), key=lambda index: raw[8 * index : 8 * index + 8])
    return [nodes[index] for index in sorted(by_random[:count])]


def _enough(nodes: Sequence[Node], count: int, source: str) -> None:
    if count > len(nodes):
        raise UsageError(f"Not enough hosts available: {count} asked, {len(nodes)} known (from {source})")
