"""Who says which nodes: what the caller asked, and the order in which sources are asked. Pure.

The one place of the order of precedence (docs/nodes.md). :func:`plan` turns a :class:`Selection`
and the environment into sources; :mod:`gexec.client.nodes` reads them. Part of the thin client.
"""

from __future__ import annotations

from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gexec.select.nodes import Node

DEFAULT_NODELIST = "/etc/gexec/nodelist"
#: What GEXEC_NODELIST says where no list counts, this machine's own neither.
NO_NODELIST = "/dev/null"
DEFAULT_GMOND = "127.0.0.1:8649"


class Selection:
    """What a caller asks for. The attributes may be set freely.

    Attributes:
        nodes: values of -w, each of one or more names, a node set, or ``-`` for stdin.
        exclude: values of -x.
        nodelist: the file of --nodelist, "" = none.
        hosts_file: the file of --hosts-file, in pssh's form, "" = none.
        count: the first so many nodes, 0 = all.
        pick: this many random nodes, 0 = all.
        skip_down: leave out nodes that are known to be down.
        not_here: full names and addresses of this host, which is left out if it is among the nodes.
        administrator: the order of enexec, ensh and ensync, where the node list file comes first.
        strict: a name to exclude, a wildcard or a group that comes to nothing is an error.
        warn: takes a sentence about each of these otherwise, and about what a group source has
            that is not usable; None = Python's warnings.
    """

    __slots__ = (
        "administrator", "count", "exclude", "hosts_file", "nodelist", "nodes", "not_here", "pick",
        "skip_down", "strict", "warn",
    )  # fmt: skip

    def __init__(self) -> None:
        self.nodes: Sequence[str] = ()
        self.exclude: Sequence[str] = ()
        self.nodelist = ""
        self.hosts_file = ""
        self.count = 0
        self.pick = 0
        self.skip_down = False
        self.not_here: Sequence[str] = ()
        self.administrator = False
        self.strict = False
        self.warn: Callable[[str], object] | None = None


class Choice:
    """The chosen nodes.

    Attributes:
        nodes: in rank order.
        source: who chose them, in words for a person.
        addresses: an address for names (folded) that do not resolve here, as gmond told it.
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
        value: None if the variable is not set. One that is set has to be usable: a job that was
            meant for its nodes must not run on those of the next source.
        optional: a file that may be missing, a server that may not run.
        remedy: what to do if it names no node.
    """

    __slots__ = ("kind", "name", "optional", "remedy", "value")

    def __init__(
        self,
        name: str,
        kind: int,
        value: str | None,
        optional: bool = False,
        remedy: str = "put names into it, or unset it",
    ) -> None:
        self.name = name
        self.kind = kind
        self.value = value
        self.optional = optional
        self.remedy = remedy


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
    remedy = "give names, such as -w node001,node002"
    found = [
        Source("-w -", STDIN, "", remedy=remedy) if text == "-" else Source("-w", TEXT, text, remedy=remedy)
        for text in selection.nodes
    ]
    if sum([source.kind == STDIN for source in found]) > 1:
        raise UsageError("option -w - is given twice: stdin can be read once")
    for what, kind, path in (
        ("node list", LIST, selection.nodelist),
        ("hosts file", HOSTS, selection.hosts_file),
    ):
        if path:
            found.append(Source(f"{what} {path}", kind, path, remedy="put names into it"))
    return found


def plan(administrator: bool, environ: Mapping[str, str]) -> list[Source]:
    """Return the sources without flags in their order; the first that is there is taken."""
    order = _ADMINISTRATORS_ORDER if administrator else _ORDER
    found = []
    for name in order:
        value = environ.get(name)
        if name == "nodelist":
            if environ.get("GEXEC_NODELIST") != NO_NODELIST:
                found.append(_nodelist(environ))
        elif name == "gmond":
            found.append(Source("gmond", GMOND, DEFAULT_GMOND, optional=True))
        elif name == "GEXEC_SVRS":
            found.append(Source(name, TEXT, value))
        elif name == "GEXEC_GMOND_SVRS":
            found.append(Source(name, GMOND, value, remedy="check the servers, or unset it"))
        elif value is not None:  # only inside of an allocation; elsewhere it need not be mentioned
            if name == "PBS_NODEFILE":
                found.append(Source(f"{name} {value}".rstrip(), LIST, value))
            else:
                found.append(Source(name, TEXT, value))
    return found


def _nodelist(environ: Mapping[str, str]) -> Source:
    path = environ.get("GEXEC_NODELIST")
    if path is not None:
        return Source(f"node list {path} (GEXEC_NODELIST)", LIST, path)
    return Source(
        f"node list {DEFAULT_NODELIST}",
        LIST,
        DEFAULT_NODELIST,
        optional=True,
        remedy="put names into it, or remove it",
    )


def gmond_servers(environ: Mapping[str, str]) -> str:
    """Return the servers that know which nodes are down."""
    return environ.get("GEXEC_GMOND_SVRS") or DEFAULT_GMOND


def unusable(source: Source, notes: Sequence[str] = ()) -> UsageError:
    """Return the error of a source that is set and names no node; a line for each note follows."""
    what = "names none" if source.value or source.kind == STDIN else "is set but empty"
    if source.kind == TEXT and source.name == "-w":
        what = "names none"
    return UsageError(f"no nodes: {source.name} {what}: {source.remedy}", notes)


def nothing(looked_at: Sequence[str]) -> UsageError:
    """Return the error of no source without flags; a line for each says what was found there."""
    return UsageError("no nodes: set GEXEC_SVRS to their names, or give them with -w", looked_at)
