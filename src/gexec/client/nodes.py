"""Choosing nodes: reads what :mod:`gexec.select.sources` planned, and makes one list of it.

Files, stdin, gmond, groups and the memory of nodes that are down are read here. Part of the thin
client: all but plain names is imported when it is asked for.
"""

from __future__ import annotations

import os

from gexec import limits
from gexec.errors import UsageError
from gexec.select.nodes import draw, first, folded, is_nodeset, parse_names, spelled
from gexec.select.sources import (
    GMOND,
    HOSTS,
    STDIN,
    TEXT,
    Choice,
    flags,
    gmond_servers,
    nothing,
    plan,
    unusable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gexec.client.groups import Groups
    from gexec.select.ganglia import GangliaHost
    from gexec.select.matching import Exclusion
    from gexec.select.nodes import Node
    from gexec.select.sources import Selection, Source


def choose(selection: Selection, environ: Mapping[str, str] = os.environ) -> Choice:
    """Return the nodes that a caller asked for, in rank order.

    First come the nodes of the sources (docs/nodes.md), then -x, --skip-down, and at last -n or
    --pick.

    Raises:
        UsageError: no nodes, fewer than asked, a malformed name, an unknown group, or a source that
            is set and cannot be used. One sentence; a line for each source may follow.
    """
    if selection.count and selection.pick:
        raise UsageError("options --nprocs and --pick: both give a number of nodes; give only one of them")
    return _Chooser(selection, environ).choose()


class _Chooser:
    def __init__(self, selection: Selection, environ: Mapping[str, str]) -> None:
        self._selection = selection
        self._environ = environ
        self._choice = Choice([], "")
        self._hosts: list[GangliaHost] | None = None  # what a gmond said, if one was asked
        self._sets = False  # a node set stands among the names: each node comes once
        self._groups: Groups | None = None
        self._configured: list[list[Node]] = []  # the nodes among which wildcards choose
        self._looking = False

    def choose(self) -> Choice:
        selection, choice = self._selection, self._choice
        named = flags(selection)
        if named:
            self._take_all(named)
        else:
            self._take_first()
        if selection.exclude or selection.not_here:
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
        self._choice.nodes = self._once(nodes)

    def _take_first(self) -> None:
        notes: list[str] = []
        self._choice.nodes, self._choice.source = self._first(
            plan(self._selection.administrator, self._environ), notes
        )
        if not self._choice.nodes:
            raise nothing(notes)

    def _first(self, sources: list[Source], notes: list[str]) -> tuple[list[Node], str]:
        """Return the nodes of the first source that is there and what to call it; [] and notes if none is."""
        for source in sources:
            nodes = self._read(source, notes)
            if nodes:
                return self._once(nodes), source.name
        return [], ""

    def _once(self, nodes: list[Node]) -> list[Node]:
        if not self._sets:
            return nodes
        from gexec.select.matching import once

        return once(nodes)

    def _read(self, source: Source, notes: list[str]) -> list[Node]:
        """Return a source's nodes; when there are none, add to ``notes`` why.

        Raises:
            UsageError: it is set and cannot be read, or names no node.
        """
        if source.value is None:
            notes.append(f"{source.name} is not set")
            return []
        value = source.value
        if source.kind == TEXT:
            nodes = self._names(value, source.name)
        elif source.kind == STDIN:
            self._choice.took_stdin = True
            nodes = self._lines(read_to_end(0, source.name), source.name)
        elif not value.strip():
            nodes = []
        elif source.kind == GMOND:
            return self._ask_gmond(source, notes)
        else:
            try:
                text = read_file(value, source.name)
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
            raise unusable(source)
        return nodes

    def _names(self, text: str, where: str) -> list[Node]:
        if not text.isascii():
            from gexec.select.lists import unmarked

            text = unmarked(text)  # GEXEC_SVRS=$(cat FILE)
        if not is_nodeset(text):
            return parse_names(text, where)
        from gexec.select.nodeset import evaluate

        self._sets = True
        return evaluate(text, where, _Lookup(self._all_groups, self._universes, self._problem))

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
        from gexec.select.ganglia import Hosts

        answer = ask(source.value or "", source.name, Hosts.usable)
        if not answer.server:
            if not source.optional:
                raise unusable(source, answer.notes)
            notes += answer.notes
            return []
        self._hosts = answer.hosts.hosts
        hosts = answer.hosts.usable()
        self._choice.addresses = {folded(host.name): host.address for host in hosts}
        reasons = answer.hosts.reasons()
        left_out = [f"left out of {answer.hosts.entries} hosts: {reasons}"] if reasons else []
        source.name = _with(f"{answer.server}, the least loaded first", left_out + answer.notes)
        return [(host.name, 0) for host in hosts]

    # -- groups and wildcards

    def _all_groups(self) -> Groups:
        if self._groups is None:
            from gexec.client.groups import Groups

            self._groups = Groups(self._environ, self._warn)
        return self._groups

    def _universes(self) -> Iterator[list[Node]]:
        """Yield the nodes among which wildcards choose: those of the sources without flags, then of groups.

        gmond on this host is asked only if there are neither.
        """
        if self._looking:
            raise UsageError("a wildcard stands where all nodes are named: write those names out")
        notes: list[str] = []
        plans = plan(self._selection.administrator, self._environ)
        ways: list[Callable[[], list[Node]]] = [
            lambda: self._first(plans[:-1], notes)[0],
            lambda: self._of_groups(notes),
            lambda: [] if any(self._configured) else self._first(plans[-1:], notes)[0],
        ]
        for index, way in enumerate(ways):
            if index == len(self._configured):
                self._looking = True
                try:
                    self._configured.append(way())
                finally:
                    self._looking = False
            if self._configured[index]:
                yield self._configured[index]
        if not any(self._configured):
            raise nothing(notes)

    def _of_groups(self, notes: list[str]) -> list[Node]:
        """Return all nodes of the default group source, [] and a note if it has none."""
        groups = self._all_groups()
        try:
            nodes = self._names("@*", "group @*") if groups.configured() else []
        except UsageError as error:
            self._warn(f"{error}; wildcards do not look there")
            nodes = []
        if not nodes:
            notes.append("ClusterShell's groups name none")
        return nodes

    # -- what is skipped

    def _warn(self, text: str) -> None:
        if self._selection.warn is not None:
            self._selection.warn(text)
        else:
            from warnings import warn

            warn(text, stacklevel=2)

    def _problem(self, text: str) -> None:
        if self._selection.strict:
            raise UsageError(f"{text} (an error because of --strict)")
        self._warn(text)

    # -- who is left

    def _leave_out(self) -> None:
        from gexec.select.matching import Exclusion

        choice = self._choice
        exclusion = Exclusion(choice.nodes)
        for text in self._selection.exclude:
            self._exclude(text, exclusion)
        exclusion.exactly(self._selection.not_here)
        for sentence in exclusion.ambiguous:
            self._warn(sentence)
        if problem := exclusion.problem(choice.source):
            self._problem(problem)
        choice.nodes = exclusion.left(choice.nodes)
        choice.source += " without -x"
        if not choice.nodes:
            raise UsageError("no node is left: -x leaves out all that were named")

    def _exclude(self, text: str, exclusion: Exclusion) -> None:
        if text == "-":
            raise UsageError("option -x does not read stdin: give names to leave out")
        if not text.isascii():
            from gexec.select.lists import unmarked

            text = unmarked(text)
        if not text.replace(",", " ").strip():
            exclusion.any(text, [])
        elif is_nodeset(text):
            from gexec.select.nodeset import operands

            nodes = self._choice.nodes
            lookup = _Lookup(self._all_groups, lambda: iter((nodes,)), self._problem)
            for word, named, are_names in operands(text, "-x", lookup):
                (exclusion.names if are_names else exclusion.any)(word, named)
        else:
            for node in parse_names(text, "-x"):
                exclusion.names(spelled(*node), [node])

    def _skip_down(self) -> None:
        from gexec.client.down import lately_down
        from gexec.select.ganglia import down

        choice = self._choice
        if self._hosts is None:
            from gexec.client.gmond import ask

            answer = ask(gmond_servers(self._environ), "GEXEC_GMOND_SVRS", lambda found: found.hosts)
            self._hosts = answer.hosts.hosts
            if self._environ.get("GEXEC_GMOND_SVRS"):
                choice.source = _with(choice.source, answer.notes)
        names = down(self._hosts) | lately_down()
        up = [node for node in choice.nodes if folded(node[0]) not in names]
        left_out = len(choice.nodes) - len(up)
        if not up:
            raise UsageError(f"no node is left: --skip-down leaves out all {left_out}, which are down")
        if left_out:
            choice.source += f" without {left_out} that {'is' if left_out == 1 else 'are'} down"
        choice.nodes = up


class _Lookup:
    """What node sets ask for; see :class:`gexec.select.nodeset.Lookup`."""

    __slots__ = ("_groups", "problem", "universes")

    def __init__(
        self,
        groups: Callable[[], Groups],
        universes: Callable[[], Iterator[list[Node]]],
        problem: Callable[[str], None],
    ) -> None:
        self._groups = groups
        self.universes = universes
        self.problem = problem

    def group(self, source: str, name: str) -> str:
        return self._groups().group(source, name)

    def everything(self, source: str) -> list[tuple[str, str]]:
        return self._groups().everything(source)


def _with(source: str, notes: list[str]) -> str:
    return f"{source} ({'; '.join(notes)})" if notes else source


def _bounded(nodes: list[Node], source: str) -> None:
    if len(nodes) > limits.NODESET_NAMES_MAX:
        raise UsageError(
            f"{source}: more than {limits.NODESET_NAMES_MAX} names: a job has {limits.RANKS_MAX}"
        )


def read_file(path: str, name: str) -> str:
    """Return a file's text. Raises FileNotFoundError, or UsageError for everything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    try:
        return read_to_end(fd, name)
    finally:
        os.close(fd)


def read_to_end(fd: int, name: str) -> str:
    """Return the text of an open file; UsageError if it cannot be read, is too large or no text."""
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
    from gexec.select.lists import decoded

    return decoded(b"".join(pieces), name)
