"""Run one command on all machines of a cluster.

    import gexec

    result = gexec.run(["hostname"], nodes=["node001", "node002"])
    for node in result.results:
        print(node.rank, node.node, node.outcome, node.stdout)

    async with gexec.stream(["vmstat", "1"]) as job:
        async for event in job:
            ...

Everything here is imported when it is first used (PEP 562): ``import gexec`` takes no time, which the command
line relies on.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.client.api import NodeResult as NodeResult
    from gexec.client.api import RunResult as RunResult
    from gexec.client.api import run as run
    from gexec.client.remote import gpid as gpid
    from gexec.client.remote import my_vnn as my_vnn
    from gexec.client.remote import nprocs as nprocs
    from gexec.client.stream import Exited as Exited
    from gexec.client.stream import Job as Job
    from gexec.client.stream import Lost as Lost
    from gexec.client.stream import Started as Started
    from gexec.client.stream import Stderr as Stderr
    from gexec.client.stream import Stdout as Stdout
    from gexec.client.stream import stream as stream
    from gexec.errors import AuthError as AuthError
    from gexec.errors import DaemonError as DaemonError
    from gexec.errors import GexecError as GexecError
    from gexec.errors import ProtocolError as ProtocolError
    from gexec.errors import UsageError as UsageError
    from gexec.wire.outcome import Outcome as Outcome

_HOMES = {
    "AuthError": "gexec.errors",
    "DaemonError": "gexec.errors",
    "Exited": "gexec.client.stream",
    "GexecError": "gexec.errors",
    "Job": "gexec.client.stream",
    "Lost": "gexec.client.stream",
    "NodeResult": "gexec.client.api",
    "Outcome": "gexec.wire.outcome",
    "ProtocolError": "gexec.errors",
    "RunResult": "gexec.client.api",
    "Started": "gexec.client.stream",
    "Stderr": "gexec.client.stream",
    "Stdout": "gexec.client.stream",
    "UsageError": "gexec.errors",
    "gpid": "gexec.client.remote",
    "my_vnn": "gexec.client.remote",
    "nprocs": "gexec.client.remote",
    "run": "gexec.client.api",
    "stream": "gexec.client.stream",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> object:
    if name == "__version__":
        from gexec.version import VERSION

        return VERSION
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gexec' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
