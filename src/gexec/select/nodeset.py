"""Node sets: ranges, groups, wildcards, and the operators of ClusterShell's notation. Pure.

    a,b  a b     a and b                        node[001-100,200]   ranges
    a!b          a without b                    @group              a group of the default source
    a&b          those of a that are in b       @source:group       a group of this source
    a^b          those that are in one only     @*  @source:*       all nodes of a source
                                                node1*  n?          wildcards

Operators are evaluated from left to right. Each node is returned once, at its first position; names are
compared as in :mod:`gexec.select.matching`. A :class:`Lookup` provides the nodes of a group and all nodes.
The time is proportional to the number of expanded names, which is bounded, and never to its square.
"""

from __future__ import annotations

from gexec import limits
from gexec.errors import UsageError
from gexec.select.matching import Nodes, glob_hint, some
from gexec.select.nodes import Node, folded, quoted, spelled, split_port
from gexec.select.ranges import expand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    class Lookup(Protocol):
        """Provides groups and "all nodes"; each method raises UsageError if it fails."""

        def group(self, source: str, name: str) -> str:
            """Return the nodes of a group as text, a node set; ``source`` "" = the default one."""
            ...

        def everything(self, source: str) -> list[tuple[str, str]]:
            """Return all nodes of a group source; "" = the default one.

            The result is one or more parts: the name of each for a person, and its nodes as text, a node set.
            """
            ...

        def universes(self) -> Iterator[list[Node]]:
            """Yield the lists of nodes from which wildcards select; the next one if the last has no match."""
            ...

        def problem(self, text: str) -> None:
            """Report parts that are skipped or match nothing; may raise UsageError."""
            ...


#: Replaces a bracket's content while the text around it is parsed.
_HOLE = "\0"
_OPERATORS = ("!", "&", "^")


def evaluate(text: str, where: str, lookup: Lookup) -> list[Node]:
    """Return the nodes of a node set.

    Args:
        text: see the module.
        where: is named in errors, for example ``-w``.
        lookup: groups and all nodes.

    Raises:
        UsageError: malformed, an unknown group, or more names than a job may have.
    """
    return _Evaluation(lookup).text(text, where, "")


def operands(text: str, where: str, lookup: Lookup) -> list[tuple[str, list[Node], bool]]:
    """Return each word of a node set, its nodes, and whether the word lists these by name.

    Groups, wildcards and operators do not list nodes by name. A text with operators is one word. Arguments
    and errors are those of :func:`evaluate`.
    """
    evaluation = _Evaluation(lookup, quiet=True)
    words = list(_words(text, where))
    if any(word[0] in _OPERATORS for word in words):
        return [(text, evaluation.text(text, where, ""), False)]
    found = []
    for pieces in words:
        nodes = evaluation.operand(pieces, where, "", lookup.universes)
        found.append((_written(pieces), nodes, _is_names(pieces)))
    return found


def matching(nodes: list[Node], mask: str) -> list[Node]:
    """Return the nodes whose name matches a mask with ``*`` and ``?``."""
    from fnmatch import filter as matching_names

    names = set(matching_names({folded(name) for name, _ in nodes}, folded(mask)))
    return [node for node in nodes if folded(node[0]) in names]


class _Evaluation:
    """One evaluation: the content of groups, and how many names may still be expanded."""

    def __init__(self, lookup: Lookup, quiet: bool = False) -> None:
        self._lookup = lookup
        self._quiet = quiet  # the caller itself reports words without a match
        self._groups: dict[str, list[Node]] = {}
        self._open: list[str] = []
        self._names_left = limits.NODESET_NAMES_MAX
        self._masks_left = limits.NODESET_MASKS_MAX

    def text(self, text: str, where: str, source: str) -> list[Node]:
        """Evaluate one text; ``source`` is the default for groups that name none."""
        found = Nodes()
        operator = ","
        begun = False
        for pieces in _words(text, where):
            word = pieces[0]
            if word in _OPERATORS:
                if not begun or operator != ",":
                    raise UsageError(f"{where}: {quoted(text)}: expected a name before {word!r}")
                operator = word
                continue
            within = operator in ("!", "&")
            universes = (lambda: iter((found.nodes(),))) if within else self._lookup.universes
            nodes = self.operand(pieces, where, source, universes)
            told = not (self._open or self._quiet)  # a group's own text may name nodes that do not exist
            if told and not (nodes or within or _is_names(pieces) or pieces[0][:1] == "@"):
                self._lookup.problem(f"{where}: {quoted(_written(pieces))} matches none of the known nodes")
            if operator == ",":
                found.add(nodes)
            elif operator == "!":
                vain = found.remove(nodes)
                if told:
                    self._removed(pieces, nodes, vain, where)
            elif operator == "&":
                found.keep(nodes)
            else:
                found.toggle(nodes)
            operator = ","
            begun = True
        if operator != ",":
            raise UsageError(f"{where}: {quoted(text)}: expected a name after {operator!r}")
        return found.nodes()

    def operand(
        self, pieces: list[str], where: str, source: str, universes: Callable[[], Iterator[list[Node]]]
    ) -> list[Node]:
        """Return the nodes of a word that is not an operator."""
        names = expand(pieces, limits.RANKS_MAX, where) if len(pieces) > 1 else pieces
        if names[0][0] == "@":
            return [node for name in names for node in self._group(name, where, source)]
        if not _is_names(pieces):
            return [node for name in names for node in self._wildcard(name, where, universes)]
        self._spend(len(names), where)
        if ":" in "".join(pieces):
            return [split_port(name, where) for name in names]
        return [(name, 0) for name in names]

    def _removed(self, pieces: list[str], nodes: list[Node], vain: list[Node], where: str) -> None:
        """Report names to remove that had no match."""
        word = _written(pieces)
        if len(vain) == len(nodes):
            shown = quoted(word)
        elif vain and _is_names(pieces):
            shown = some([spelled(*node) for node in vain])
        else:
            return
        hint = glob_hint(word)
        self._lookup.problem(
            f"{where}: {shown} after '!' matches no node before it{'; ' + hint if hint else ''}"
        )

    def _wildcard(self, mask: str, where: str, universes: Callable[[], Iterator[list[Node]]]) -> list[Node]:
        self._masks_left -= 1
        if self._masks_left < 0:
            raise UsageError(f"{where}: {quoted(mask)}: more than {limits.NODESET_MASKS_MAX} wildcards")
        mask, port = split_port(mask, where)
        for nodes in universes():
            found = matching(nodes, mask)
            if found:
                return [(name, port) for name, _ in found] if port else found
        return []

    def _group(self, word: str, where: str, source: str) -> list[Node]:
        before, colon, name = word[1:].partition(":")
        if not colon:
            before, name = source, before
        if not name or "@" in name or (name != "*" and ("*" in name or "?" in name)):
            raise UsageError(f"{where}: {quoted(word)}: expected @group, @source:group or @source:*")
        group = f"@{before}:{name}" if before else f"@{name}"
        known = self._groups.get(group)
        if known is None:
            known = self._groups[group] = self._look_up(group, before, name, where)
        self._spend(len(known), where)
        return known

    def _look_up(self, group: str, source: str, name: str, where: str) -> list[Node]:
        if group in self._open or len(self._open) >= limits.GROUP_DEPTH_MAX:
            chain = " ".join([*self._open[:5], group])
            raise UsageError(f"{where}: groups contain each other, or are nested too deeply: {chain[:200]}")
        self._open.append(group)
        try:
            if name != "*":
                return self.text(self._lookup.group(source, name), f"group {quoted(group)[1:-1]}", source)
            parts = self._lookup.everything(source)
            return [node for label, held in parts for node in self._part(label, held, source, len(parts) > 1)]
        finally:
            self._open.pop()

    def _part(self, label: str, held: str, source: str, one_of_many: bool) -> list[Node]:
        """Return the nodes of a part of a source; a malformed part does not hide the others."""
        try:
            return self.text(held, label, source)
        except UsageError as error:
            if not one_of_many or self._names_left < 0 or self._masks_left < 0:
                raise
            self._lookup.problem(f"{error}; this group is skipped")
            return []

    def _spend(self, count: int, where: str) -> None:
        self._names_left -= count
        if self._names_left < 0:
            raise UsageError(
                f"{where}: more than {limits.NODESET_NAMES_MAX} names in total: name fewer at a time"
            )


def _is_names(pieces: list[str]) -> bool:
    """True if a word is expanded to names: neither groups nor wildcards."""
    return pieces[0][:1] != "@" and not any("*" in piece or "?" in piece for piece in pieces[::2])


def _written(pieces: list[str]) -> str:
    """Return a word as it was written."""
    return "".join([f"[{piece}]" if index % 2 else piece for index, piece in enumerate(pieces)])


def _words(text: str, where: str) -> Iterator[list[str]]:
    """Yield each word as its pieces, alternately outside and inside brackets; operators are words."""
    if _HOLE in text:
        raise UsageError(f"{where}: the names contain a NUL byte")
    outside, *opened = text.split("[")
    inside = []
    for piece in opened:
        content, closing, after = piece.partition("]")
        if not closing:
            raise UsageError(f"{where}: {quoted('[' + piece)}: the bracket is not closed")
        inside.append(content)
        outside += _HOLE + after
    if "]" in outside:
        before = outside.partition("]")[0].replace(_HOLE, "[...]")
        raise UsageError(f"{where}: {quoted(before[-79:] + ']')}: a bracket is closed that was not opened")
    for mark in _OPERATORS:
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
