"""Which files a sender reads: --files-from, --exclude-files and --include-files (docs/ensync.md)."""

from __future__ import annotations

import os

from gexec.errors import UsageError
from gexec.files.listing import listed_roots, read_list
from gexec.files.patterns import Rules
from gexec.files.roots import SourceRoot, roots_of
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gexec.cli.options import Parsed


class Filters:
    """What options say about the files.

    Args:
        parsed: the arguments.

    Raises:
        UsageError: a file of patterns cannot be read, or there are too many.
    """

    def __init__(self, parsed: Parsed) -> None:
        self._ends_with_nul = parsed.flag("from0")
        self._list = parsed.last("files-from") or ""
        self._patterns = list(_patterns(parsed))
        self._rules = Rules(self._patterns)

    @property
    def has_list(self) -> bool:
        """Return True if the names of the files come from a list."""
        return self._list != ""

    def keep_list(self) -> None:
        """Read the list now, for all senders: stdin and pipes can be read only once.

        Raises:
            UsageError: it cannot be read.
        """
        if self._list:
            kept = os.memfd_create("gexec-list", 0)  # senders inherit it
            with open(kept, "wb", closefd=False) as file:
                file.write(read_list(self._list))
            self._list = f"/dev/fd/{kept}"

    def words(self) -> list[str]:
        """Return the options for a sender."""
        words = [
            f"--{'exclude' if is_exclude else 'include'}-files={os.fsdecode(pattern)}"
            for is_exclude, pattern in self._patterns
        ]
        if self._list:
            words.append(f"--files-from={self._list}")
            words += ["--from0"] if self._ends_with_nul else []
        return words

    def source(
        self, paths: Sequence[str], naming: str, *, expands: bool = False
    ) -> tuple[list[SourceRoot], Rules]:
        """Return what is sent, and which of it is left out.

        Args:
            paths: of the command line; with a list the one directory that its names are below, default /.
            naming, expands: see roots_of.

        Raises:
            UsageError: they make no sense, or the list cannot be read.
        """
        if not self._list:
            roots = roots_of(paths, naming, expands=expands)
            rules = self._rules.below({root.top for root in roots})
            hidden = _hidden(paths, naming, expands, roots, rules) if rules else ()
            return [*hidden, *roots], rules
        if len(paths) > 1:
            raise UsageError(
                f"--files-from: expected one directory, which its names are below, but {paths[1][:200]!r} is "
                "given, too"
            )
        return listed_roots(
            read_list(self._list),
            os.path.abspath(paths[0] if paths else "/"),
            naming,
            rules=self._rules,
            ends_with_nul=self._ends_with_nul,
        )


def _hidden(
    paths: Sequence[str], naming: str, expands: bool, roots: Sequence[SourceRoot], rules: Rules
) -> Iterator[SourceRoot]:
    """Yield what is named, but is in a directory that is left out, as something to report."""
    names = {root.name for root in roots}
    for path in paths:
        for root in roots_of([path], naming, expands=expands):
            above = root.name
            while above and above not in names:
                above = above.rpartition(b"/")[0]
                if above and rules.excludes(above, True):
                    reason = f"a pattern leaves out {shown(b'/' + above)}, in which it is; copy it on its own"
                    yield SourceRoot(root.path, b"", reason=reason)
                    break


def _patterns(parsed: Parsed) -> Iterator[tuple[bool, bytes]]:
    """Yield (True if it excludes, pattern), in their order."""
    for long, value in parsed.order:
        if long in ("exclude-files", "include-files"):
            yield long == "exclude-files", os.fsencode(value)
        elif long == "exclude-files-from":
            text = read_list(value, f"--{long}")
            for line in text.split(b"\0") if parsed.flag("from0") else text.splitlines():
                if line == b"!":
                    raise UsageError(f"--{long} {value[:200]}: a line with only ! has no meaning; remove it")
                if line and not line.startswith((b"#", b";")):
                    is_marked = line.startswith((b"- ", b"+ "))
                    yield not line.startswith(b"+ "), line[2:] if is_marked else line
