"""Who may be a parent of a rank: its ancestors by the split, and the host that submitted the job.

Both follow from signed bytes: the ranks' names and the fan-out from the job blob, the submitting host from
the credential. A peer is whoever its certificate says. Source: docs/decisions/0021-parents.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gexec.core import tree
from gexec.security.names import is_everybodys, shown
from gexec.wire.frames import Start
from gexec.wire.jobspec import JobSpec

#: Names that a refusal shows.
_SHOWN: Final = 3


def refusal(host: str, spec: JobSpec, start: Start, holds: Callable[[str], bool]) -> str:
    """Return why a peer may not send this Start, "" if it may.

    A range may be the rank's own by the split, or the rank alone; other ranges would give ranks to a parent
    that is not their ancestor.

    Args:
        host: of the job's credential, the submitting host.
        start: ``low`` is a rank of the job.
        holds: tells whether the peer's certificate holds a name.
    """
    line = tree.lineage(spec.ranks, spec.fanout, start.low)
    _, high = line.pop()
    if start.high not in (high, start.low + 1):
        return (
            f"ranks [{start.low}, {start.high}) are not a part of this job's tree, in which rank {start.low} "
            f"has [{start.low}, {high})"
        )
    if not is_everybodys(host) and holds(host):
        return ""
    names = [spec.names[low].decode("utf-8", "surrogateescape") for low, _ in reversed(line)]
    # A name that every host has stands for the submitting host, which the certificate does not hold.
    names = [name for name in names if not is_everybodys(name)]
    if any(map(holds, names)):
        return ""
    some = [shown(host), *map(shown, names[:_SHOWN])]
    if len(names) > _SHOWN:
        some.append(f"{len(names) - _SHOWN} more above")
    return (
        f"no parent of rank {start.low}: its certificate has none of the names of the submitting host and of "
        f"the nodes on the way from there: {', '.join(some)}"
    )


def not_the_host(host: str, holds: Callable[[str], bool]) -> str:
    """Return why this node may not be the root of a job that ``host`` has signed, "" if it may.

    Args:
        holds: tells whether this node's own certificate holds a name.
    """
    if is_everybodys(host):
        return (
            f"authd signs as the host {shown(host)}, a name that every host has: give this host a name, or "
            "set `host` in authd.toml to a name or an address of this node, and start authd again"
        )
    if holds(host):
        return ""
    return (
        f"the job was signed on the host {shown(host)}, which is none of the names of this gexecd: submit "
        "it to the gexecd of that host; or add the name to `names` in this node's gexecd.toml, or set `host` "
        "in authd.toml to a name of this node, and start the daemon again"
    )
