"""Node sets: ranges, groups, wildcards, and the operators of ClusterShell's notation. Pure.

    a,b  a b     a and b                        node[001-100,200]   ranges
    a!b          a without b                    @group              a group of the default source
    a&b          those of a that are in b       @source:group       a group of this source
    a^b          those that are in one only     @*  @source:*       all nodes of a source
                                                node1*  n?          wildcards

Operators are done from left to right. Each node comes once, at the place where it was first named.
What a group holds, and which are all nodes, comes from a :class:`Lookup`. The time it takes grows
with the names that are written out, which are bounded, never with their square.
"""

from __future__ import annotations

from gexec import limits
from gexec.errors import UsageError
from gexec.select.nodes import Node, split_port
from gexec.select.ranges import expand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    class Lookup(Protocol):
        """Where groups and "all nodes" come from; each raises UsageError if it cannot tell."""

        def group(self, source: str, name: str) -> str:
            """Return the nodes of a group as text, a node set; ``source`` "" = the default one."""
            ...

        def everything(self, source: str) -> str:
            """Return all nodes of a group source as text, a node set; "" = the default one."""
            ...

        def universe(self) -> list[Node]:
            """Return the nodes among which wildcards choose."""
            ...


#: Stands for a bracket's inside while the text around it is taken apart.
_HOLE = "\0"


def evaluate(text: str, where: str, lookup: Lookup) -> list[Node]:
    """Return the nodes of a node set.

    Args:
        text: see the module.
        where: stands in the sentence of an error, such as ``-w``.
        lookup: groups and all nodes.

    Raises:
        UsageError: malformed, an unknown group, or more names than a job may have.
    """
    return _Evaluation(lookup).text(text, where, "")


def matching(nodes: list[Node], mask: str) -> list[Node]:
    """Return the nodes whose name matches a mask with ``*`` and ``?``."""
    from fnmatch import filter as matching_names

    names = set(matching_names({name for name, _ in nodes}, mask))
    return [node for node in nodes if node[0] in names]


class _Set:
    """Names with their ports, each once, in the order in which they came."""

    __slots__ = ("_ports",)

    def __init__(self) -> None:
        self._ports: dict[str, dict[int, None]] = {}

    def nodes(self) -> list[Node]:
        return [(name, port) for name, ports in self._ports.items() for port in ports]

    def add(self, nodes: list[Node]) -> None:
        ports = self._ports
        for name, port in nodes:
            ports.setdefault(name, {})[port] = None

    def remove(self, nodes: list[Node]) -> None:
        for name, port in nodes:
            ports = self._ports.get(name)
            if ports is None:
                continue
            if port:
                ports.pop(port, None)
            if not port or not ports:
                del self._ports[name]

    def keep(self, nodes: list[Node]) -> None:
        wanted = _Set()
        wanted.add(nodes)
        kept = [node for node in self.nodes() if wanted.covers(node)]
        self._ports = {}
        self.add(kept)

    def toggle(self, nodes: list[Node]) -> None:
        new = [node for node in nodes if not self.covers(node)]
        self.remove(nodes)
        self.add(new)

    def covers(self, node: Node) -> bool:
        """Tell whether the node is in the set, or its name is there without a port."""
        ports = self._ports.get(node[0])
        return ports is not None and (0 in ports or node[1] in ports)


class _Evaluation:
    """One evaluation: what groups were found to hold, and how much may still be written out."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._groups: dict[str, list[Node]] = {}
        self._open: list[str] = []
        self._names_left = limits.NODESET_NAMES_MAX
        self._masks_left = limits.NODESET_MASKS_MAX

    def text(self, text: str, where: str, source: str) -> list[Node]:
        """Evaluate one text; ``source`` is that of groups which name none."""
        found = _Set()
        operator = ","
        begun = False
        for pieces in _words(text, where):
            word = pieces[0]
            if word in ("!", "&", "^"):
                if not begun or operator != ",":
                    raise UsageError(f"{where}: {text[:80]!r}: expected a name before {word!r}")
                operator = word
                continue
            universe = found.nodes if operator in ("!", "&") else self._lookup.universe
            nodes = self._operand(pieces, where, source, universe)
            if operator == ",":
                found.add(nodes)
            elif operator == "!":
                found.remove(nodes)
            elif operator == "&":
                found.keep(nodes)
            else:
                found.toggle(nodes)
            operator = ","
            begun = True
        if operator != ",":
            raise UsageError(f"{where}: {text[:80]!r}: expected a name after {operator!r}")
        return found.nodes()

    def _operand(
        self, pieces: list[str], where: str, source: str, universe: Callable[[], list[Node]]
    ) -> list[Node]:
        names = expand(pieces, limits.RANKS_MAX, where) if len(pieces) > 1 else pieces
        if names[0][0] == "@":
            return [node for name in names for node in self._group(name, where, source)]
        if any("*" in piece or "?" in piece for piece in pieces[::2]):
            return [node for name in names for node in self._wildcard(name, where, universe)]
        self._spend(len(names), where)
        if ":" in "".join(pieces):
            return [split_port(name, where) for name in names]
        return [(name, 0) for name in names]

    def _wildcard(self, mask: str, where: str, universe: Callable[[], list[Node]]) -> list[Node]:
        self._masks_left -= 1
        if self._masks_left < 0:
            raise UsageError(f"{where}: {mask[:80]!r}: more than {limits.NODESET_MASKS_MAX} wildcards")
        mask, port = split_port(mask, where)
        found = matching(universe(), mask)
        return [(name, port) for name, _ in found] if port else found

    def _group(self, word: str, where: str, source: str) -> list[Node]:
        before, colon, name = word[1:].partition(":")
        if not colon:
            before, name = source, before
        if not name or "@" in name or (name != "*" and ("*" in name or "?" in name)):
            raise UsageError(f"{where}: {word[:80]!r}: expected @group, @source:group or @source:*")
        group = f"@{before}:{name}" if before else f"@{name}"
        known = self._groups.get(group)
        if known is None:
            known = self._groups[group] = self._look_up(group, before, name, where)
        self._spend(len(known), where)
        return known

    def _look_up(self, group: str, source: str, name: str, where: str) -> list[Node]:
        if group in self._open or len(self._open) >= limits.GROUP_DEPTH_MAX:
            chain = " ".join([*self._open[:5], group])
            raise UsageError(f"{where}: groups that hold each other, or too deep a chain: {chain[:200]}")
        held = self._lookup.everything(source) if name == "*" else self._lookup.group(source, name)
        self._open.append(group)
        nodes = self.text(held, f"group {group[:80]}", source)
        self._open.pop()
        return nodes

    def _spend(self, count: int, where: str) -> None:
        self._names_left -= count
        if self._names_left < 0:
            raise UsageError(
                f"{where}: more than {limits.NODESET_NAMES_MAX} names are written out: name fewer at a time"
            )


def _words(text: str, where: str) -> Iterator[list[str]]:
    """Yield each word as its pieces outside and inside of brackets in turn; operators are words."""
    if _HOLE in text:
        raise UsageError(f"{where}: a NUL byte stands among the names")
    outside, *opened = text.split("[")
    inside = []
    for piece in opened:
        content, closing, after = piece.partition("]")
        if not closing:
            raise UsageError(f"{where}: {('[' + piece)[:80]!r}: the bracket is not closed")
        inside.append(content)
        outside += _HOLE + after
    if "]" in outside:
        before = outside.partition("]")[0].replace(_HOLE, "[...]")
        raise UsageError(f"{where}: {before[-80:] + ']'!r}: a bracket is closed that was not opened")
    for mark in "!&^":
        outside = outside.replace(mark, f" {mark} ")
    contents = iter(inside)
    for word in outside.replace(",", " ").split():
        first, *rest = word.split(_HOLE)
        pieces = [first]
        for after in rest:
            pieces += (next(contents), after)
        if rest and first[-1:] in ("", "@") and ":" in pieces[1]:  # an IPv6 address, not a range
            pieces = [first + "[" + "]".join(pieces[1:3])]
        yield pieces
