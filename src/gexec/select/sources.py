"""Who says which nodes: what the caller asked, and the order in which sources are asked. Pure.

The one place of the order of precedence (docs/nodes.md). :func:`plan` turns a :class:`Selection`
and the environment into sources; :mod:`gexec.client.nodes` reads them. Part of the thin client.
"""

from __future__ import annotations

from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gexec.select.nodes import Node

DEFAULT_NODELIST = "/etc/gexec/nodelist"
DEFAULT_GMOND = "127.0.0.1:8649"


class Selection:
    """What a caller asks for. The attributes may be set freely.

    Attributes:
        nodes: values of -w, each of one or more names, a node set, or ``-`` for stdin.
        exclude: values of -x.
        nodelist: the file of --nodelist, "" = none.
        hosts_file: the file of --hosts-file, in pssh's form, "" = none.
        count: the first so many nodes, 0 = all.
        pick: so many nodes by lot, 0 = all.
        skip_down: leave out nodes that are known to be down.
        administrator: the order of enexec, ensh and ensync, where the node list file comes first.
    """

    __slots__ = (
        "administrator", "count", "exclude", "hosts_file", "nodelist", "nodes", "pick", "skip_down",
    )  # fmt: skip

    def __init__(self) -> None:
        self.nodes: Sequence[str] = ()
        self.exclude: Sequence[str] = ()
        self.nodelist = ""
        self.hosts_file = ""
        self.count = 0
        self.pick = 0
        self.skip_down = False
        self.administrator = False


class Choice:
    """The chosen nodes.

    Attributes:
        nodes: in rank order.
        source: who chose them, in words for a person.
        addresses: an address for names (lower case) that do not resolve here, as gmond told it.
        took_stdin: stdin was read for names, so that nothing of it is left for the processes.
    """

    __slots__ = ("addresses", "nodes", "source", "took_stdin")

    def __init__(self, nodes: list[Node], source: str) -> None:
        self.nodes = nodes
        self.source = source
        self.addresses: dict[str, str] = {}
        self.took_stdin = False


#: Kinds of sources: what ``Source.value`` is, and how it is read.
TEXT, STDIN, LIST, HOSTS, GMOND = range(5)


class Source:
    """One source of nodes.

    Attributes:
        name: how it is called in words for a person, such as ``GEXEC_SVRS``.
        kind: TEXT (value: names or a node set), STDIN (names), LIST (path of a file of names),
            HOSTS (the same in pssh's form) or GMOND (servers, with white space between).
        value: None if the variable is not set.
        optional: a file that need not be there.
    """

    __slots__ = ("kind", "name", "optional", "value")

    def __init__(self, name: str, kind: int, value: str | None, optional: bool = False) -> None:
        self.name = name
        self.kind = kind
        self.value = value
        self.optional = optional


#: Sources without flags: of gexec, and of the commands in the administrator's order.
_ORDER = ("GEXEC_SVRS", "SLURM_JOB_NODELIST", "PBS_NODEFILE", "GEXEC_GMOND_SVRS", "nodelist", "gmond")
_ADMINISTRATORS_ORDER = (
    "nodelist",
    "GEXEC_SVRS",
    "SLURM_JOB_NODELIST",
    "PBS_NODEFILE",
    "GEXEC_GMOND_SVRS",
    "gmond",
)


def flags(selection: Selection) -> list[Source]:
    """Return the sources that flags name, [] if none does; their nodes are taken together."""
    found = [
        Source("-w -", STDIN, "") if text == "-" else Source("-w", TEXT, text) for text in selection.nodes
    ]
    if sum([source.kind == STDIN for source in found]) > 1:
        raise UsageError("option -w - stands twice: stdin can be read once")
    if selection.nodelist:
        found.append(Source(f"node list {selection.nodelist}", LIST, selection.nodelist))
    if selection.hosts_file:
        found.append(Source(f"hosts file {selection.hosts_file}", HOSTS, selection.hosts_file))
    return found


def plan(administrator: bool, environ: Mapping[str, str]) -> list[Source]:
    """Return the sources without flags in their order; the first that names a node is taken."""
    order = _ADMINISTRATORS_ORDER if administrator else _ORDER
    found = []
    for name in order:
        value = environ.get(name)
        if name == "nodelist":
            found.append(_nodelist(environ))
        elif name == "gmond":
            found.append(Source("gmond", GMOND, DEFAULT_GMOND))
        elif name == "GEXEC_SVRS":
            found.append(Source(name, TEXT, value))
        elif name == "GEXEC_GMOND_SVRS":
            found.append(Source(name, GMOND, value))
        elif value:  # only inside of an allocation; elsewhere nobody needs to hear of it
            found.append(Source(name, TEXT if name == "SLURM_JOB_NODELIST" else LIST, value))
    return found


def _nodelist(environ: Mapping[str, str]) -> Source:
    path = environ.get("GEXEC_NODELIST")
    if path:
        return Source(f"node list {path} (GEXEC_NODELIST)", LIST, path)
    return Source(f"node list {DEFAULT_NODELIST}", LIST, DEFAULT_NODELIST, optional=True)


def gmond_servers(environ: Mapping[str, str]) -> str:
    """Return the servers that know which nodes are down."""
    return environ.get("GEXEC_GMOND_SVRS") or DEFAULT_GMOND


def nothing(looked_at: Sequence[str], named: bool) -> UsageError:
    """Return the error of a choice without nodes.

    Args:
        looked_at: what was found at each source, in words.
        named: whether flags named the sources.
    """
    told = ", ".join(looked_at)
    if named:
        return UsageError(f"no nodes: {told}: give names, such as -w node001,node002")
    return UsageError(f"no nodes: {told}; set GEXEC_SVRS to the nodes' names, or name nodes with -w")
