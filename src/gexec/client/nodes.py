"""Choosing nodes: reads what :mod:`gexec.select.sources` planned, and makes one list of it.

Files, stdin, gmond, groups and the memory of nodes that are down are read here. Part of the thin
client: all but plain names is imported when it is asked for.
"""

from __future__ import annotations

import os

from gexec import limits
from gexec.errors import UsageError
from gexec.select.nodes import draw, first, is_nodeset, parse_names, without
from gexec.select.sources import GMOND, HOSTS, STDIN, TEXT, Choice, flags, gmond_servers, nothing, plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gexec.client.groups import Groups
    from gexec.select.ganglia import Host
    from gexec.select.nodes import Node
    from gexec.select.sources import Selection, Source


def choose(selection: Selection, environ: Mapping[str, str] = os.environ) -> Choice:
    """Return the nodes that a caller asked for, in rank order.

    First come the nodes of the sources (docs/nodes.md), then -x, --skip-down, and at last -n or
    --pick.

    Raises:
        UsageError: no nodes, fewer than asked, a malformed name, or a source that was named and
            cannot be read; one sentence.
    """
    if selection.count and selection.pick:
        raise UsageError("options -n and --pick are both given: take the first N, or N by lot")
    return _Chooser(selection, environ).choose()


class _Chooser:
    def __init__(self, selection: Selection, environ: Mapping[str, str]) -> None:
        self._selection = selection
        self._environ = environ
        self._choice = Choice([], "")
        self._hosts: list[Host] | None = None  # what a gmond said, if one was asked
        self._sets = False  # a node set stands among the names: each node comes once
        self._groups: Groups | None = None
        self._everything: list[Node] | None = None
        self._looking = False

    def choose(self) -> Choice:
        selection, choice = self._selection, self._choice
        named = flags(selection)
        if named:
            self._take_all(named)
        else:
            self._take_first()
        if selection.exclude:
            self._leave_out()
        if selection.skip_down:
            self._skip_down()
        if selection.pick:
            choice.nodes = draw(choice.nodes, selection.pick, choice.source, os.urandom)
        else:
            choice.nodes = first(choice.nodes, selection.count, choice.source)
        return choice

    # -- sources

    def _take_all(self, named: list[Source]) -> None:
        """Take the nodes of all sources that flags name."""
        nodes: list[Node] = []
        for source in named:
            nodes += self._read(source, [])
            _bounded(nodes, source.name)
        self._choice.source = " and ".join(dict.fromkeys([source.name for source in named]))
        if not nodes:
            raise nothing([f"{self._choice.source} names none"], named=True)
        self._choice.nodes = list(dict.fromkeys(nodes)) if self._sets else nodes

    def _take_first(self) -> None:
        self._choice.nodes, self._choice.source = self._first()

    def _first(self) -> tuple[list[Node], str]:
        """Return the nodes of the first source without flags that has any, and what to call it."""
        notes: list[str] = []
        failed: list[str] = []
        for source in plan(self._selection.administrator, self._environ):
            before = len(notes)
            nodes = self._read(source, notes)
            if source.kind == GMOND and source.value:
                failed += notes[before:]
            if nodes:
                return (list(dict.fromkeys(nodes)) if self._sets else nodes), _with(source.name, failed)
        raise nothing(notes, named=False)

    def _read(self, source: Source, notes: list[str]) -> list[Node]:
        """Return a source's nodes; when there are none, add to ``notes`` why."""
        if not source.value and source.kind != STDIN:
            notes.append(f"{source.name} is {'not set' if source.value is None else 'empty'}")
            return []
        value = source.value or ""
        if source.kind == TEXT:
            nodes = self._names(value, source.name)
            if not nodes:
                notes.append(f"{source.name} is empty")
            return nodes
        if source.kind == GMOND:
            return self._ask_gmond(source, notes)
        if source.kind == STDIN:
            self._choice.took_stdin = True
            text = _read_to_end(0, source.name)
        else:
            try:
                text = _read_file(value, source.name)
            except FileNotFoundError:
                if not source.optional:
                    raise UsageError(f"{source.name}: there is no such file") from None
                notes.append(f"there is no {source.name}")
                return []
        if source.kind == HOSTS:
            from gexec.select.lists import parse_hosts_file

            nodes = parse_hosts_file(text, source.name)
        else:
            nodes = self._lines(text, source.name)
        if not nodes:
            notes.append(f"{source.name} names none")
        return nodes

    def _names(self, text: str, where: str) -> list[Node]:
        if not is_nodeset(text):
            return parse_names(text, where)
        from gexec.select.nodeset import evaluate

        self._sets = True
        return evaluate(text, where, _Lookup(self._all_groups, self._universe))

    def _lines(self, text: str, name: str) -> list[Node]:
        from gexec.select.lists import uncommented

        lines = uncommented(text)
        whole = "\n".join(lines)
        if ":" not in whole and not is_nodeset(whole):
            return parse_names(whole, name)
        nodes: list[Node] = []
        for number, line in enumerate(lines, 1):
            if line:
                nodes += self._names(line, f"{name} line {number}")
                _bounded(nodes, name)
        return nodes

    def _ask_gmond(self, source: Source, notes: list[str]) -> list[Node]:
        from gexec.client.gmond import ask
        from gexec.select.ganglia import usable

        answer = ask(source.value or "", source.name, usable, "knows no host that is up and runs gexec")
        notes += answer.notes
        if not answer.server:
            return []
        self._hosts = answer.hosts
        hosts = usable(answer.hosts)
        self._choice.addresses = {host.name.lower(): host.address for host in hosts}
        source.name = f"{answer.server}, the least loaded first"
        return [(host.name, 0) for host in hosts]

    # -- groups and wildcards

    def _all_groups(self) -> Groups:
        if self._groups is None:
            from gexec.client.groups import Groups

            self._groups = Groups(self._environ)
        return self._groups

    def _universe(self) -> list[Node]:
        """Return the nodes among which wildcards choose."""
        if self._everything is None:
            if self._looking:
                raise UsageError("a wildcard stands where all nodes are named: write those names out")
            self._looking = True
            groups = self._all_groups()
            if groups.configured():
                self._everything = self._names(groups.everything(""), "group @*")
            else:
                self._everything = self._first()[0]
            self._looking = False
        return self._everything

    # -- who is left

    def _leave_out(self) -> None:
        choice = self._choice
        left_out: list[Node] = []
        for text in self._selection.exclude:
            if text == "-":
                raise UsageError("option -x does not read stdin: give names to leave out")
            if is_nodeset(text):
                from gexec.select.nodeset import evaluate

                left_out += evaluate(text, "-x", _Lookup(self._all_groups, lambda: choice.nodes))
            else:
                left_out += parse_names(text, "-x")
        choice.nodes = without(choice.nodes, left_out)
        choice.source += " without -x"
        if not choice.nodes:
            raise UsageError("no node is left: -x leaves out all that were named")

    def _skip_down(self) -> None:
        from gexec.client.down import lately_down
        from gexec.select.ganglia import down

        choice = self._choice
        if self._hosts is None:
            from gexec.client.gmond import ask

            answer = ask(gmond_servers(self._environ), "GEXEC_GMOND_SVRS", bool, "knows no host")
            self._hosts = answer.hosts
            if self._environ.get("GEXEC_GMOND_SVRS"):
                choice.source = _with(choice.source, answer.notes)
        names = down(self._hosts) | lately_down()
        up = [node for node in choice.nodes if node[0].lower() not in names]
        left_out = len(choice.nodes) - len(up)
        if not up:
            raise UsageError(f"no node is left: --skip-down leaves out all {left_out}, which are down")
        if left_out:
            choice.source += f" without {left_out} that {'is' if left_out == 1 else 'are'} down"
        choice.nodes = up


class _Lookup:
    """What node sets ask for; see :class:`gexec.select.nodeset.Lookup`."""

    __slots__ = ("_groups", "universe")

    def __init__(self, groups: Callable[[], Groups], universe: Callable[[], list[Node]]) -> None:
        self._groups = groups
        self.universe = universe

    def group(self, source: str, name: str) -> str:
        return self._groups().group(source, name)

    def everything(self, source: str) -> str:
        return self._groups().everything(source)


def _with(source: str, notes: list[str]) -> str:
    return f"{source} ({'; '.join(notes)})" if notes else source


def _bounded(nodes: list[Node], source: str) -> None:
    if len(nodes) > limits.NODESET_NAMES_MAX:
        raise UsageError(
            f"{source}: more than {limits.NODESET_NAMES_MAX} names: a job has {limits.RANKS_MAX}"
        )


def _read_file(path: str, name: str) -> str:
    """Return a file's text. Raises FileNotFoundError, or UsageError for everything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    try:
        return _read_to_end(fd, name)
    finally:
        os.close(fd)


def _read_to_end(fd: int, name: str) -> str:
    pieces = []
    room = limits.NODE_LIST_MAX_BYTES
    try:
        while piece := os.read(fd, 1024 * 1024):
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                raise UsageError(f"{name}: over {limits.NODE_LIST_MAX_BYTES} bytes: is it a list of names?")
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error
    return b"".join(pieces).decode("utf-8", "surrogateescape")
