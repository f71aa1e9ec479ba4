"""The sources of nodes: what the caller requested, and the order of precedence. Pure.

Only this module defines the order of precedence (docs/nodes.md). :func:`plan` turns a :class:`Selection` and
the environment into sources; :mod:`gexec.client.nodes` reads them. Part of the thin client.
"""

from __future__ import annotations

from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gexec.select.nodes import Node

DEFAULT_NODELIST = "/etc/gexec/nodelist"
#: The value of GEXEC_NODELIST for no list at all, not even this machine's own.
NO_NODELIST = "/dev/null"
DEFAULT_GMOND = "127.0.0.1:8649"


class Selection:
    """What a caller requests. The attributes may be set freely.

    Attributes:
        nodes: values of -w, each of one or more names, a node set, or ``-`` for stdin.
        exclude: values of -x.
        nodelist: the file of --nodelist, "" = none.
        hosts_file: the file of --hosts-file, in pssh's format, "" = none.
        count: how many of the first nodes, 0 = all.
        pick: how many random nodes, 0 = all.
        skip_down: leave out nodes that are known to be down.
        not_here: full names and addresses of this host, which is excluded if it is among the nodes.
        administrator: the order of precedence of enexec, ensh and ensync: the node list file first.
        strict: a name to exclude, a wildcard or a group without a match is an error.
        warn: otherwise called with a sentence about each of these, and about unusable parts of a group
            source; None = Python's warnings.
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
        source: where they come from, in words for a person.
        addresses: gmond's address for names (folded) that do not resolve here.
        took_stdin: stdin was read for names, so nothing is left for the processes.
    """

    __slots__ = ("addresses", "nodes", "source", "took_stdin")

    def __init__(self, nodes: list[Node], source: str) -> None:
        self.nodes = nodes
        self.source = source
        self.addresses: dict[str, str] = {}
        self.took_stdin = False


#: Kinds of sources: the meaning of ``Source.value``, and how it is read.
TEXT, STDIN, LIST, HOSTS, GMOND = range(5)


class Source:
    """One source of nodes.

    Attributes:
        name: its name for a person, such as ``GEXEC_SVRS``.
        kind: TEXT (value: names or a node set), STDIN (names), LIST (path of a file of names), HOSTS (the
            same in pssh's format) or GMOND (servers, separated by white space).
        value: None if the variable is not set. A value that is set must be usable: a job that is meant for
            its nodes must not run on those of the next source.
        optional: a file that may be missing, or a server that need not run.
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


#: Sources without flags: for gexec, and for the commands with the administrator's order.
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
    """Return the sources that flags name, [] if there are none; their nodes are combined."""
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
    """Return the sources without flags in order; the first one that is set is used."""
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
        elif value is not None:  # set only inside an allocation; elsewhere errors do not mention it
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
    """Return the error for a source that is set and names no node; a line for each note follows."""
    what = "names none" if source.value or source.kind == STDIN else "is set but empty"
    if source.kind == TEXT and source.name == "-w":
        what = "names none"
    return UsageError(f"no nodes: {source.name} {what}: {source.remedy}", notes)


def nothing(looked_at: Sequence[str]) -> UsageError:
    """Return the error for no source at all; a line for each source says what was found there."""
    return UsageError("no nodes: set GEXEC_SVRS to their names, or give them with -w", looked_at)
