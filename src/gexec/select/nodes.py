"""Which nodes, in which order, and who said so.

Names are opaque and kept to the letter; a name may stand twice (one process each). Ranges such
as ``node[1-3]`` and Ganglia come later: until then they are refused in clear words. Pure.
"""

from __future__ import annotations

from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: A node as it was named: the name without its port, and the port or 0 if none was given.
Node = tuple[str, int]


class Choice:
    """The chosen nodes in rank order, and ``source``: who chose them, in words for a person."""

    __slots__ = ("nodes", "source")

    def __init__(self, nodes: list[Node], source: str) -> None:
        self.nodes = nodes
        self.source = source


def choose(
    configured: str | None,
    wanted: Sequence[str] = (),
    excluded: Sequence[str] = (),
    count: int = 0,
) -> Choice:
    """Return the job's nodes in rank order.

    Args:
        configured: the value of GEXEC_SVRS (names separated by white space), or None.
        wanted: the values of -w, each of one or more names; they take the place of GEXEC_SVRS.
        excluded: the values of -x; every node of such a name is left out.
        count: the first so many; 0 = all.

    Raises:
        UsageError: no nodes at all, a malformed name or port, or fewer nodes than ``count``.
    """
    if wanted:
        nodes = [node for text in wanted for node in parse_names(text, "-w")]
        source = "-w"
    else:
        nodes = parse_names(configured or "", "GEXEC_SVRS", commas=False)
        source = "GEXEC_SVRS"
    if not nodes:
        raise UsageError(_nothing(configured, bool(wanted)))
    left_out = [node for text in excluded for node in parse_names(text, "-x")]
    if left_out:
        nodes = _without(nodes, left_out)
        source += " without -x"
        if not nodes:
            raise UsageError("no node is left: -x leaves out all that were named")
    if count > len(nodes):
        raise UsageError(f"Not enough hosts available: {count} asked, {len(nodes)} known (from {source})")
    return Choice(nodes[:count] if count else nodes, source)


def _nothing(configured: str | None, wanted: bool) -> str:
    if wanted:
        return "option -w names no node: give names, such as -w node001,node002"
    state = "is not set" if configured is None else "is empty"
    return f"no nodes: GEXEC_SVRS {state}; set it to the nodes' names, or name nodes with -w"


def _without(nodes: list[Node], left_out: list[Node]) -> list[Node]:
    # A name without a port leaves out every node of that name, one with a port only that one.
    names = {name for name, port in left_out if not port}
    exact = {node for node in left_out if node[1]}
    return [node for node in nodes if node[0] not in names and node not in exact]


def parse_names(text: str, source: str, commas: bool = True) -> list[Node]:
    """Return the nodes of a list of names; ``source`` stands in the sentence of an error."""
    if "[" in text:
        _refuse_ranges(text, source, commas)
    if commas:
        text = text.replace(",", " ")
    words = text.split()
    if ":" not in text:
        return [(word, 0) for word in words]
    return [split_port(word, source) for word in words]


def _refuse_ranges(text: str, source: str, commas: bool) -> None:
    for word in (text.replace(",", " ") if commas else text).split():
        if "[" in word and not (word[0] == "[" and ":" in word.partition("]")[0]):
            raise UsageError(
                f"{source}: {word[:80]!r}: ranges in brackets are not understood yet; write the names out"
            )


def split_port(word: str, source: str) -> Node:
    """Return (name, port or 0) of ``name``, ``name:port``, ``[ip6]:port``, ``[ip6]`` or a bare IPv6."""
    if word[0] == "[":
        name, closing, rest = word[1:].partition("]")
        if not closing or not name or (rest and rest[0] != ":"):
            raise UsageError(f"{source}: {word[:80]!r}: expected [IPv6 address]:port")
        return (name, _port(word, rest[1:], source)) if rest else (name, 0)
    if word.count(":") != 1:
        return word, 0
    name, _, port = word.partition(":")
    if not name:
        raise UsageError(f"{source}: {word[:80]!r}: expected a name before the colon")
    return name, _port(word, port, source)


def _port(word: str, text: str, source: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535:
        return int(text)
    raise UsageError(f"{source}: {word[:80]!r}: expected a port from 1 to 65535 after the colon")
