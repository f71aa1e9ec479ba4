"""Which files are left out of a copy: patterns with the rules of rsync. Pure.

A pattern is compared with the path of a file from the directory that a FILE of the command line is in: for
FILE /opt/app, files below it are app/... (docs/ensync.md, Leaving files out). The first pattern that matches
decides; a directory that is left out is not entered.
"""

from __future__ import annotations

import re

from gexec import limits
from gexec.errors import ProtocolError, UsageError
from gexec.files.wildcards import MAGIC, expression

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_EXCLUDE, _INCLUDE, _TOP = b"- ", b"+ ", b"/ "


class Rules:
    """Patterns in their order, each with whether it excludes.

    Args:
        patterns: (True if it excludes, pattern) in the order of the command line.
        tops: directories of the FILEs, as paths in the stream: what comes after one of them is compared with
            patterns. b"" is the top of the stream itself, and is always one of them.

    Raises:
        UsageError: there are too many patterns, or one is too long.
    """

    __slots__ = ("_matchers", "_patterns", "_tops")

    def __init__(self, patterns: Iterable[tuple[bool, bytes]] = (), tops: Iterable[bytes] = ()) -> None:
        self._patterns = list(patterns)
        self._tops = {top for top in tops if top}
        if len(self._patterns) > limits.ARCHIVE_PATTERNS_MAX:
            raise UsageError(
                f"more than {limits.ARCHIVE_PATTERNS_MAX} patterns of files: use fewer, longer ones"
            )
        for _, pattern in self._patterns:
            if not pattern or len(pattern) > limits.ARCHIVE_PATTERN_MAX_BYTES or b"\0" in pattern:
                raise UsageError(
                    f"a pattern of files is empty, has a NUL or is longer than "
                    f"{limits.ARCHIVE_PATTERN_MAX_BYTES} bytes: {ascii(pattern[:80])[2:-1]}"
                )
        self._matchers = [(is_exclude, _matcher(pattern)) for is_exclude, pattern in self._patterns]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def below(self, tops: Iterable[bytes]) -> Rules:
        """Return these patterns for FILEs in other directories."""
        return Rules(self._patterns, tops)

    def lines(self) -> list[bytes]:
        """Return them as texts for ``parse``, without NUL."""
        patterns = [
            (_EXCLUDE if is_exclude else _INCLUDE) + pattern for is_exclude, pattern in self._patterns
        ]
        return [*patterns, *[_TOP + top for top in sorted(self._tops)]]

    @classmethod
    def parse(cls, lines: Sequence[bytes]) -> Rules:
        """Return what ``lines`` returned; ProtocolError for anything else."""
        patterns, tops = [], []
        for line in lines:
            kind, rest = line[:2], line[2:]
            if kind not in (_EXCLUDE, _INCLUDE, _TOP) or not rest:
                raise ProtocolError(f"not a rule about files: {ascii(line[:80])[2:-1]}")
            if kind == _TOP:
                tops.append(rest)
            else:
                patterns.append((kind == _EXCLUDE, rest))
        try:
            return cls(patterns, tops)
        except UsageError as error:
            raise ProtocolError(str(error)) from error

    def excludes(self, path: bytes, is_directory: bool) -> bool:
        """Return True if an entry is left out.

        Nothing below a directory that is left out is asked about.

        Args:
            path: in the stream.
            is_directory: the entry is a directory, and not a link to one.
        """
        if not self._matchers:
            return False
        name = self._from_top(path).decode("latin-1")
        for is_exclude, matches in self._matchers:
            if matches(name, is_directory):
                return is_exclude
        return False

    def _from_top(self, path: bytes) -> bytes:
        """Return a path without the directory that its FILE is in; of FILEs in each other, the inner FILE."""
        if not self._tops:
            return path
        end = len(path)
        while (end := path.rfind(b"/", 0, end)) > 0:
            if path[:end] in self._tops:
                return path[end + 1 :]
        return path


def _matcher(pattern: bytes) -> Callable[[str, bool], bool]:
    """Return what compares (a path, whether it is a directory) with a pattern.

    Texts are bytes as characters: like rsync, ``?`` is one byte.
    """
    text = pattern.decode("latin-1")
    only_directories = len(text) > 1 and text.endswith("/")
    if only_directories:
        text = text[:-1]
    slashes = text.count("/")
    has_magic = any(letter in text for letter in MAGIC)
    crosses = has_magic and "**" in text
    # dir/*** is the directory, too.
    takes_slash = crosses and text.endswith("***")
    begins_anywhere = crosses and text.startswith("**")
    is_anchored = text.startswith("/")
    text = text[is_anchored:]
    body = expression(text) if has_magic else re.escape(text)
    #: The last parts of a path that it is compared with; 0: all.
    count = 0 if is_anchored or crosses else slashes + 1
    if crosses and not is_anchored and not begins_anywhere:
        body = f"(?:.*/)?{body}"
    fits = re.compile(body, re.DOTALL).fullmatch

    def matches(path: str, is_directory: bool) -> bool:
        if not path or (only_directories and not is_directory):
            return False
        subject = path
        if count:
            parts = path.rsplit("/", count)
            if len(parts) < count:
                return False
            subject = "/".join(parts[-count:])
        if begins_anywhere:
            subject = "/" + subject
        if takes_slash and is_directory:
            subject += "/"
        return fits(subject) is not None

    return matches


#: Leaves nothing out.
NO_RULES = Rules()
