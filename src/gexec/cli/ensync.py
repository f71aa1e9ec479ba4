"""``ensync``: files to the same path on all nodes. See ``ensync -h``, docs/ensync.md."""

from __future__ import annotations

import os

from gexec import limits
from gexec.cli.command import run
from gexec.cli.enexec import Wrapper
from gexec.cli.table import options_of
from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.cli.command import Call
    from gexec.cli.filters import Filters
    from gexec.cli.options import Parsed

#: Options that the receivers get as they are.
RECEIVER = [
    option.long for option in options_of("gexec-receive") if not option.argument and option.long != "help"
]


class _Ensync(Wrapper):
    """ensync: options may follow files, as with cp and rsync."""

    __slots__ = ()
    options_anywhere = True


ENSYNC = _Ensync("ensync")


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    return run(ENSYNC, words, _ensync)


def _ensync(call: Call) -> int:
    task = CopyTask(call.parsed)
    from gexec.cli.copying import Copy  # usage errors are reported without it

    return Copy(call, task).run()


class CopyTask:
    """What the arguments ask for, checked.

    Attributes:
        paths: what is copied, or removed.
        filters: which of it.
        via: gexec, ssh or auto (never with --strict, which only gexecd can do).
        deletes: what the source lacks goes.
        removes: the paths are deleted on the nodes; nothing is copied.
        compares: nothing is written; differences are reported.
        names: ``full``: paths stay whole; ``base``: their last parts go below the destination.
        receiver: options for the receivers.
        floor: one more, which only the first attempt has; or "".
        ranked: the destination has the rank in it, so that every node must keep its rank.
        bytes_per_s: 0 = no limit.
        compress: auto, always or never.
        stall_s: a node that takes nothing for so long is given up; 0 = never.
    """

    def __init__(self, parsed: Parsed) -> None:
        self.filters = _filters(parsed)
        if not parsed.rest and not self.filters.has_list:
            raise UsageError("no file: give what to copy, such as ensync /etc/hosts; ensync -h shows more")
        for names in parsed.all("exclude"):
            _check_excluded(names)
        self.paths = parsed.rest
        self.via = "gexec" if parsed.flag("strict") else parsed.value("via", "auto")
        if parsed.all("ssh-option"):
            from gexec.ssh.settings import given

            given(parsed.all("ssh-option"), None)  # errors are reported before anything is copied
        self.deletes = parsed.flag("delete")
        self.removes = parsed.flag("remove")
        self.compares = parsed.flag("checksum") or parsed.flag("dry-run")
        self.bytes_per_s = parsed.size("bwlimit")
        self.compress = parsed.value("compress", "auto")
        self.stall_s = 0.0 if self.removes else _stall_s(parsed)
        dest = parsed.last("dest")
        self.names = "full" if dest is None or parsed.flag("relative") else "base"
        self.ranked = False
        self._dest = dest or ""
        self.receiver = [f"--{long}" for long in RECEIVER if parsed.flag(long)]
        if dest is not None:
            self.ranked = _destination(dest, "0") != _destination(dest, "1")
            self.receiver.append(f"--target={self._target(parsed)}")
        # Also the default: audit logs have the first arguments.
        self.receiver.insert(0, f"--dest={dest or '/'}")
        if parsed.given("max-delete"):
            self.receiver.append(f"--max-delete={parsed.integer('max-delete')}")
        self._extended = [f"--{long}" for long in ("xattrs", "no-xattrs") if parsed.flag(long)]
        least = parsed.size("min-rate")
        # A dry run takes the options of the run that it is for, and writes nothing that could be slow.
        self.floor = f"--min-rate={least}" if least and not self.compares else ""
        if self.removes:
            self._check_removal()

    def neutral(self, names: Sequence[bytes]) -> Callable[[int, bytes], bytes] | None:
        """Return what writes --dest as it was given into a node's line; None if it is the same on all."""
        if "%" not in self._dest:
            return None
        given_parts = os.fsencode(self._dest).rstrip(b"/").split(b"/")

        def line_for_all(rank: int, line: bytes) -> bytes:
            try:
                own = _destination(self._dest, str(rank), os.fsdecode(names[rank]))
            except UsageError:
                return line  # this name cannot be in a path; the node reports that
            parts = os.fsencode(own).rstrip(b"/").split(b"/")
            # Also a directory above, if it is what is wrong.
            for end in range(len(parts), 0, -1):
                if parts[:end] != given_parts[:end]:
                    line = line.replace(b"/".join(parts[:end]), b"/".join(given_parts[:end]), 1)
            return line

        return line_for_all

    def sender(self, by_ssh: bool, *, at_once: bool = True) -> list[str]:
        """Return the sender's arguments; by ssh the receiver is sent first, and nodes may have no zstd.

        ``at_once``: all receivers run at the same time, so that the sender can wait for their answers.
        """
        words = [f"--names={self.names}"]
        words += ["--loader", "--compress=never"] if by_ssh else [f"--compress={self.compress}"]
        words += [*(["--asking"] if at_once else []), *self._extended]
        if self.bytes_per_s:
            words.append(f"--bwlimit={self.bytes_per_s}")
        if self.compares:
            # No receiver takes contents; so files that cannot be read are reported when they are compared.
            words.append("--digests")
        if self.removes:
            words.append("--remove")
        return [*words, *self.filters.words(), "--", *self.paths]

    def _target(self, parsed: Parsed) -> str:
        """Return what --dest is (docs/files.md, --target); UsageError if it cannot be."""
        if parsed.flag("no-target-directory"):
            if len(self.paths) > 1:
                raise UsageError(f"-T: only one file or directory can be called {self._dest[:200]}")
            if self._dest.endswith("/"):
                raise UsageError(f"-T with --dest {self._dest[:200]}: the slash at its end means a directory")
            return "name"
        is_either = len(self.paths) == 1 and not self._dest.endswith("/") and not parsed.flag("relative")
        return "either" if is_either and not _is_directory(self.paths[0]) else "directory"

    def _check_removal(self) -> None:
        for path in self.paths:
            if os.path.normpath(path) != path or not path.startswith("/") or path == "/":
                raise UsageError(f"--remove {path[:200]!r}: expected an absolute path without `.` and `..`")


def _stall_s(parsed: Parsed) -> float:
    stall_s = parsed.seconds("stall", limits.STALL_S)
    if stall_s and not limits.STALL_MIN_S <= stall_s <= limits.STALL_MAX_S:
        raise UsageError(
            f"option --stall: expected 0, or seconds from {limits.STALL_MIN_S:g} to {limits.STALL_MAX_S:g}, "
            f"not {parsed.last('stall')!r}"
        )
    return stall_s


def _filters(parsed: Parsed) -> Filters:
    """Return what options say about the files; UsageError if two things would be read from stdin."""
    readers = [
        f"--{long}"
        for long in ("nodes", "files-from", "exclude-files-from")
        for value in parsed.all(long)
        if value == "-"
    ]
    if len(readers) > 1:
        raise UsageError(f"{readers[0]} - and {readers[1]} -: stdin can be only one of them; use a file")
    from gexec.cli.filters import Filters

    filters = Filters(parsed)
    filters.keep_list()
    return filters


def _check_excluded(names: str) -> None:
    """Raise UsageError for what can only be a pattern of files: --exclude leaves out nodes."""
    for name in names.replace(",", " ").split():
        stem, dot, suffix = name.rpartition(".")
        # *.log and .git, but not *.example.org, and not node[1-3].
        is_suffix = bool(dot) and not stem.strip("*?") and suffix.replace("*", "").replace("?", "").isalnum()
        is_path = "/" in name and not name.startswith("@")
        if is_path or is_suffix or name.endswith("~"):
            raise UsageError(
                f"--exclude {name[:80]!r}: it excludes nodes, not files; for files give --exclude-files, "
                "for nodes a longer pattern, such as node*"
            )


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path.rstrip("/"))


def _destination(text: str, rank: str, node: str = "node") -> str:
    """Return what a node would make of --dest; UsageError, here and once, if it could not."""
    from gexec.files.options import destination

    return destination(text, {"GEXEC_NODE": node, "GEXEC_MY_VNN": rank})
