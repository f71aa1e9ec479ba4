"""Sets of nodes whose names are compared as DNS compares them. Pure.

Case and a trailing dot are ignored. A name without a port matches every port, one without a user for every
user, and a short name for the full names that begin with it, unless the set has the short name itself. Nodes
keep their first spelling. Loaded for node sets and -x.
"""

from __future__ import annotations

from gexec.select.nodes import Node, folded, quoted, spelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Names listed in a warning.
SHOWN_MAX = 5


def _key(node: Node) -> Node:
    return folded(node[0]), node[1]


def once(nodes: Iterable[Node]) -> list[Node]:
    """Return each node once, at its first position and in its first spelling."""
    found: dict[Node, Node] = {}
    for node in nodes:
        found.setdefault(_key(node), node)
    return list(found.values())


class Nodes:
    """Nodes, each once, in the order in which they were added."""

    __slots__ = ("_index", "_labels", "_nodes")

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self._nodes: dict[Node, Node] = {}
        # Folded name -> keys of its nodes, and first label of full names -> keys; built when first needed.
        self._index: dict[str, dict[Node, None]] | None = None
        self._labels: dict[str, dict[Node, None]] = {}
        self.add(nodes)

    def nodes(self) -> list[Node]:
        """Return all of them."""
        return list(self._nodes.values())

    def add(self, nodes: Iterable[Node]) -> None:
        """Append nodes that are not in the set."""
        for node in nodes:
            key = _key(node)
            if key not in self._nodes:
                self._nodes[key] = node
                if self._index is not None:
                    self._enter(key)

    def find(self, node: Node) -> list[Node]:
        """Return the nodes that a name matches, in the spelling of this set."""
        return [self._nodes[key] for key in self._keys(node)]

    def remove(self, nodes: Iterable[Node]) -> list[Node]:
        """Remove the nodes that the names match; return the names without a match."""
        gone: dict[Node, None] = {}
        unmatched = []
        for node in nodes:
            keys = self._keys(node)
            gone.update(dict.fromkeys(keys))
            if not keys:
                unmatched.append(node)
        for key in gone:
            del self._nodes[key]
            for place, name in self._places(key):
                del place[name][key]
        return unmatched

    def keep(self, nodes: Iterable[Node]) -> None:
        """Keep only the nodes that the names match."""
        kept = {key for node in nodes for key in self._keys(node)}
        self._nodes = {key: node for key, node in self._nodes.items() if key in kept}
        self._index = None

    def toggle(self, nodes: list[Node]) -> None:
        """Remove the nodes that the names match, and add the other names."""
        new = [node for node in nodes if not self._covers(node)]
        self.remove(nodes)
        self.add(new)

    def _covers(self, node: Node) -> bool:
        name, port = _key(node)
        return (name, port) in self._nodes or (name, 0) in self._nodes

    def _keys(self, node: Node) -> list[Node]:
        if self._index is None:
            self._index, self._labels = {}, {}
            for key in self._nodes:
                self._enter(key)
        name, port = _key(node)
        keys = self._index.get(name) or self._labels.get(name) or ()
        return [key for key in keys if not port or key[1] == port]

    def _enter(self, key: Node) -> None:
        for place, name in self._places(key):
            place.setdefault(name, {})[key] = None

    def _places(self, key: Node) -> list[tuple[dict[str, dict[Node, None]], str]]:
        assert self._index is not None
        name = key[0]
        places = [(self._index, name)]
        host = name.rpartition("@")[2]
        if host != name:
            places.append((self._index, host))
        label, dot, rest = host.partition(".")
        # The last label of a name is not a number; that of an IPv4 address is.
        if dot and label and ":" not in host and not rest.rpartition(".")[2].isdigit():
            places.append((self._labels, label))
        return places


class Exclusion:
    """The nodes that -x excludes, and its names without a match."""

    __slots__ = ("_gone", "_hints", "_nodes", "_vain", "ambiguous")

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes = Nodes(nodes)
        self._gone: dict[Node, None] = {}
        self._vain: dict[str, None] = {}
        self._hints: dict[str, None] = {}
        #: A sentence about each short name that matches hosts of several domains.
        self.ambiguous: dict[str, None] = {}

    def names(self, word: str, nodes: list[Node]) -> None:
        """Exclude names that were written as ``word``; each must match."""
        vain = [node for node in nodes if not self._leave_out(node)]
        if not vain:
            return
        if len(nodes) == 1 or len(vain) == len(nodes):
            self._vain[word] = None
        else:
            self._vain |= dict.fromkeys([spelled(*node) for node in vain])
        if hint := glob_hint(word):
            self._hints[hint] = None
        for name, port in vain[:SHOWN_MAX]:
            label = name.partition(".")[0]
            if label and label != name and (short := self._nodes.find((label, port))):
                self._hints[f"the list has {quoted(short[0][0])}"] = None

    def any(self, word: str, nodes: list[Node]) -> None:
        """Exclude the nodes of a group, wildcard or expression; at least one must match."""
        if not [node for node in nodes if self._leave_out(node)]:
            self._vain[word] = None

    def exactly(self, names: Iterable[str]) -> None:
        """Exclude nodes with these full names; missing ones are ignored."""
        wanted = {folded(name) for name in names}
        for node in self._nodes.nodes():
            if folded(node[0]).rpartition("@")[2] in wanted:
                self._gone[_key(node)] = None

    def left(self, nodes: Iterable[Node]) -> list[Node]:
        """Return the nodes that are not excluded."""
        return [node for node in nodes if _key(node) not in self._gone]

    def problem(self, source: str) -> str:
        """Return a sentence about names without a match, or ""; ``source`` is where the nodes come from."""
        if not self._vain:
            return ""
        hints = "".join([f"; {hint}" for hint in list(self._hints)[:2]])
        verb = "excludes" if len(self._vain) == 1 else "exclude"
        return f"-x {some(list(self._vain))} {verb} nothing: not among the nodes from {source}{hints}"

    def _leave_out(self, node: Node) -> bool:
        found = self._nodes.find(node)
        self._gone |= dict.fromkeys([_key(one) for one in found])
        hosts = {folded(name).rpartition("@")[2] for name, _ in found}
        if len(hosts) > 1:
            self.ambiguous[f"-x {quoted(node[0])} excludes {some(sorted(hosts))}: give full names"] = None
        return bool(found)


def glob_hint(word: str) -> str:
    """Return a hint for a word with a bracket as in a shell, "" if it has none."""
    inside = word.partition("[")[2].partition("]")[0]
    if len(inside) < 2 or not (inside.isascii() and inside.isdigit()):
        return ""
    return f"[{inside}] is the number {inside}, write [{','.join(inside[:3])}{',...' if inside[3:] else ''}]"


def some(words: list[str]) -> str:
    """Return the first few words, quoted, and how many more there are."""
    shown = ", ".join([quoted(word) for word in words[:SHOWN_MAX]])
    return shown if len(words) <= SHOWN_MAX else f"{shown} and {len(words) - SHOWN_MAX} more"
