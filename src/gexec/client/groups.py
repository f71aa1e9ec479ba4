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
    GroupResolverConfigError,
    GroupResolverSourceError,
    GroupSource,
    GroupSourceNoUpcall,
    UpcallGroupSource,
)

from gexec import limits
from gexec.errors import GexecError, UsageError
from gexec.select.matching import some

T = TypeVar("T")

#: Where a distribution's package has its configuration; tests look elsewhere.
SYSTEM_FOLDER = "/etc/clustershell"

#: ClusterShell's own: a group's name holds none of these.
_ILLEGAL = set("@,!&^*")
#: What a shell takes for itself, in quotes or not. A group's name may come from a file of somebody
#: else's, and the library puts it into the command as it is.
_SHELLS = set("$`\\\"';&|<>(){}[]*?!~#\0")


def config_paths(environ: Mapping[str, str]) -> list[str]:
    """Return where groups.conf may be; later ones go before earlier ones, as with clush."""
    home = os.path.expanduser("~")
    paths = [
        SYSTEM_FOLDER,
        f"{home}/.local/etc/clustershell",
        os.path.join(environ.get("XDG_CONFIG_HOME") or f"{home}/.config", "clustershell"),
    ]
    if environ.get("CLUSTERSHELL_CFGDIR"):
        paths.append(environ["CLUSTERSHELL_CFGDIR"])
    return [os.path.join(path, "groups.conf") for path in paths]


class Groups:
    """The group sources of this user's configuration, which is read when first asked.

    ``warn`` takes a sentence about each part of it that cannot be used; the others can.
    """

    def __init__(self, environ: Mapping[str, str], warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._resolver = _Resolver(config_paths(environ), warn)

    def configured(self) -> bool:
        """Tell whether there is a default source."""
        return bool(self._asked(lambda: self._resolver.default_source_name, "groups"))

    def group(self, source: str, name: str) -> str:
        """Return the nodes of a group as text; ``source`` "" = the default one.

        Raises:
            UsageError: there is no such group or source, or it cannot be asked.
        """
        return self._asked(lambda: self._members(source, name), _shown(source, name))

    def everything(self, source: str) -> list[tuple[str, str]]:
        """Return all nodes of a source, "" = the default one, as parts of it: name, and nodes as text."""
        return self._asked(lambda: self._everything(source), _shown(source, "*"))

    def _members(self, source: str, name: str) -> str:
        resolver = self._resolver
        default = resolver.default_source_name  # reads the configuration
        place = source or default
        if place in resolver.upcalls:
            if not name.isprintable() or name.startswith("-") or _SHELLS.intersection(name):
                raise UsageError("such a name is not passed to a command: a shell would not read it as one")
        elif place and name not in resolver.grouplist(source):
            raise UsageError(f"there is no such group in {place}")
        nodes: list[str] = resolver.group_nodes(name, source)
        if not nodes and place in resolver.upcalls:
            # A command may exit with 0 for a group that it does not have: sed -n does.
            try:
                known = resolver.grouplist(source)
            except GroupSourceNoUpcall:
                raise UsageError(
                    f"the command of {place} prints no node and there is none that lists its groups: "
                    "check the name"
                ) from None
            if name not in known:
                raise UsageError(f"there is no such group in {place}")
        return " ".join(nodes)

    def _everything(self, source: str) -> list[tuple[str, str]]:
        resolver = self._resolver
        try:
            return [(_shown(source, "*"), " ".join(resolver.all_nodes(source)))]
        except GroupSourceNoUpcall:
            pass
        parts = []
        failed: list[UsageError] = []
        for name in resolver.grouplist(source):
            try:
                parts.append((_shown(source, name), self.group(source, name)))
            except UsageError as error:
                failed.append(error)
        if failed and not parts:
            raise failed[0]
        for problem in failed:
            self._warn(f"{problem}; this group is skipped")
        return parts

    def _asked(self, ask: Callable[[], T], what: str) -> T:
        """Return what the library answers; whatever is wrong in the configuration is one sentence."""
        try:
            return ask()
        except GexecError as error:
            if str(error).startswith("group @"):
                raise
            raise UsageError(f"{what[:90]}: {error}") from error
        except GroupResolverSourceError as error:
            raise UsageError(_no_source(what, str(error))) from error
        except GroupSourceNoUpcall as error:
            raise UsageError(f"{what[:90]}: its source has no command {str(error)!r}") from error
        except Exception as error:
            sentence = self._resolver.broken or f"ClusterShell's configuration: {_sentence(error)}"
            raise UsageError(f"{what[:90]}: {sentence}") from error


def _shown(source: str, name: str) -> str:
    return f"group @{source}:{name}" if source else f"group @{name}"


def _sentence(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


class _Resolver(GroupResolverConfig):  # type: ignore[misc]
    """ClusterShell's own, with upcalls that end, and where a bad part does not hide the others.

    Attributes:
        upcalls: the names of sources that are commands.
        broken: a sentence about the first YAML file that cannot be used, "" if there is none.
    """

    def __init__(self, paths: list[str], warn: Callable[[str], None]) -> None:
        super().__init__(paths, _ILLEGAL)
        self.upcalls: set[str] = set()
        self.broken = ""
        self._warn = warn
        self._told: set[str] = set()

    def _late_init(self) -> None:
        try:
            super()._late_init()
        except BaseException:  # half of a configuration is none: the next call fails alike
            self._initialized = False
            self._sources.clear()
            raise

    def _sources_from_yaml(self, filepath: str) -> None:
        try:
            super()._sources_from_yaml(filepath)
        except (GroupResolverConfigError, ValueError) as error:
            text = _sentence(error).removeprefix(f"{filepath}: ")
            sentence = f"ClusterShell's configuration: {filepath} is skipped, correct it: {text}"
            self.broken = self.broken or sentence
            if filepath not in self._told:
                self._told.add(filepath)
                self._warn(sentence)

    def _list_groups(self, source: GroupSource, what: str, *args: str) -> list[str]:
        """Return the groups of a source whose names are legal, and warn once of the others."""
        answer = getattr(source, f"resolv_{what}")(*args)
        lines = answer.splitlines() if isinstance(answer, str) else answer
        names = [name for line in lines for name in line.split()]
        bad = [name for name in names if _ILLEGAL.intersection(name)]
        if bad and source.name not in self._told:
            self._told.add(source.name)
            self._warn(
                f"group source {source.name}: {some(bad)} cannot be a group's name "
                f"(it holds one of {' '.join(sorted(_ILLEGAL))}) and is skipped"
            )
        return [name for name in names if not _ILLEGAL.intersection(name)]

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


def _no_source(what: str, source: str) -> str:
    if source == "<default>":
        return f"{what[:90]}: no groups are configured: see groups.conf(5) of ClusterShell"
    return f"{what[:90]}: there is no group source {source[:80]!r} in ClusterShell's groups.conf"
