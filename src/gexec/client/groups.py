"""Groups of nodes from ClusterShell's configuration: files, and the commands ("upcalls") it names.

The library reads the same groups.conf as clush and nodeset, so that Slurm, genders, xCAT and
whatever else a site has set up works at once. Two things are ours: where the configuration is
looked for (not below Python's own prefix, where the library's package puts its examples, which
would hide those of /etc), and the time and the size that a command may take. Loaded only when a
group or a wildcard is named.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from select import POLLIN, poll
from string import Template
from typing import TypeVar

from ClusterShell.NodeUtils import (
    GroupResolverConfig,
    GroupResolverSourceError,
    GroupSource,
    GroupSourceNoUpcall,
    UpcallGroupSource,
)

from gexec import limits
from gexec.errors import GexecError, UsageError

T = TypeVar("T")

#: ClusterShell's own: a group's name holds none of these.
_ILLEGAL = set("@,!&^*")
#: What a shell takes for itself, in quotes or not. A group's name may come from a file of somebody
#: else's, and the library puts it into the command as it is.
_SHELLS = set("$`\\\"';&|<>(){}[]*?!~#\0")


def config_paths(environ: Mapping[str, str]) -> list[str]:
    """Return where groups.conf may be; later ones go before earlier ones, as with clush."""
    home = os.path.expanduser("~")
    paths = [
        "/etc/clustershell",
        f"{home}/.local/etc/clustershell",
        os.path.join(environ.get("XDG_CONFIG_HOME") or f"{home}/.config", "clustershell"),
    ]
    if environ.get("CLUSTERSHELL_CFGDIR"):
        paths.append(environ["CLUSTERSHELL_CFGDIR"])
    return [os.path.join(path, "groups.conf") for path in paths]


class Groups:
    """The group sources of this user's configuration, which is read when first asked."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._resolver = _Resolver(config_paths(environ))

    def configured(self) -> bool:
        """Tell whether there is a default source."""
        return bool(_said(lambda: self._resolver.default_source_name, "groups"))

    def group(self, source: str, name: str) -> str:
        """Return the nodes of a group as text; ``source`` "" = the default one."""
        shown = f"group @{source}:{name}" if source else f"group @{name}"

        def members() -> list[str]:
            resolver = self._resolver
            default = resolver.default_source_name  # reads the configuration
            place = source or default
            if place in resolver.upcalls:
                # What an empty answer means, only the command itself can say.
                if not name.isprintable() or name.startswith("-") or _SHELLS.intersection(name):
                    raise UsageError(
                        "such a name is not given to a command: a shell would not read it as one"
                    )
            elif place and name not in resolver.grouplist(source):
                raise UsageError(f"there is no such group in {place}")
            nodes: list[str] = resolver.group_nodes(name, source)
            return nodes

        return " ".join(_said(members, shown))

    def everything(self, source: str) -> str:
        """Return all nodes of a source as text; "" = the default one."""
        return " ".join(
            _said(lambda: self._everything(source), f"group @{source}:*" if source else "group @*")
        )

    def _everything(self, source: str) -> list[str]:
        resolver = self._resolver
        try:
            nodes: list[str] = resolver.all_nodes(source)
        except GroupSourceNoUpcall:
            nodes = []
            for group in resolver.grouplist(source):
                nodes += resolver.group_nodes(group, source)
        return nodes


class _Resolver(GroupResolverConfig):  # type: ignore[misc]
    """ClusterShell's own, with upcalls that end. ``upcalls`` are the names of sources that are commands."""

    def __init__(self, paths: list[str]) -> None:
        super().__init__(paths, _ILLEGAL)
        self.upcalls: set[str] = set()

    def add_source(self, group_source: GroupSource) -> None:
        if isinstance(group_source, UpcallGroupSource):
            group_source.__class__ = _Upcall
            self.upcalls.add(group_source.name)
        super().add_source(group_source)


class _Upcall(UpcallGroupSource):  # type: ignore[misc]
    def _upcall_read(self, cmdtpl: str, args: Mapping[str, str] | None = None) -> str:
        return run_upcall(Template(self.upcalls[cmdtpl]).safe_substitute(args or {}), self.cfgdir)


def run_upcall(command: str, cwd: str | None = None, limit_s: float = limits.GROUP_UPCALL_S) -> str:
    """Return the output of a shell command, without outer white space.

    Raises:
        UsageError: it failed, took longer than ``limit_s``, or wrote more than NODE_LIST_MAX_BYTES.
            It and what it started are gone by then.
    """
    process = subprocess.Popen(
        command,
        shell=True,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        process_group=0,  # so that what it started ends with it
    )
    deadline_s = time.monotonic() + limit_s
    try:
        output = _output(process, deadline_s)
        status = process.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"its command takes longer than {limit_s:g} s: {command[:200]}") from error
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
    if status:
        raise UsageError(f"its command ended with status {status}: {command[:200]}")
    return output.decode("utf-8", "surrogateescape").strip()


def _output(process: subprocess.Popen[bytes], deadline_s: float) -> bytes:
    assert process.stdout is not None
    fd = process.stdout.fileno()
    waiting = poll()
    waiting.register(fd, POLLIN)
    pieces: list[bytes] = []
    size = 0
    while (left_s := deadline_s - time.monotonic()) > 0:
        if not waiting.poll(left_s * 1000):
            continue
        piece = os.read(fd, limits.READ_CHUNK_BYTES)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
        if size > limits.NODE_LIST_MAX_BYTES:
            raise UsageError(f"its command wrote over {limits.NODE_LIST_MAX_BYTES} bytes")
    raise subprocess.TimeoutExpired(process.args, 0.0)


def _said(ask: Callable[[], T], what: str) -> T:
    """Return what the library answers; whatever it stumbles over in the configuration is one sentence."""
    try:
        return ask()
    except GroupResolverSourceError as error:
        raise UsageError(_no_source(what, str(error))) from error
    except GroupSourceNoUpcall as error:
        raise UsageError(f"{what[:90]}: its source has no command {str(error)!r}") from error
    except GexecError as error:
        raise UsageError(f"{what[:90]}: {error}") from error
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{what[:90]}: ClusterShell's configuration: {told[:300]}") from error


def _no_source(what: str, source: str) -> str:
    if source == "<default>":
        return f"{what[:90]}: no groups are configured: see groups.conf(5) of ClusterShell"
    return f"{what[:90]}: there is no group source {source[:80]!r} in ClusterShell's groups.conf"
