"""Expands a path with wildcards on the host that it is about, with the rules of a shell."""

from __future__ import annotations

import errno
import os
import re

from gexec import limits
from gexec.files.reading import unreadable
from gexec.files.wildcards import MAGIC, expression

#: What is no failure: another directory at that level may match.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class TooManyError(Exception):
    """More than ARCHIVE_MATCHES_MAX files match, or directories on the way."""


def has_magic(path: bytes) -> bool:
    """Return True if a path has wildcards."""
    return any(letter.encode() in path for letter in MAGIC)


def expand(pattern: bytes) -> tuple[list[bytes], list[tuple[bytes, str]]]:
    """Return the paths that match, sorted, and directories that cannot be looked into, each with the reason.

    Names that begin with a dot match only a part that begins with one. A part that ends the path with a slash
    matches directories only; links to directories count.

    Args:
        pattern: an absolute path.

    Raises:
        TooManyError: more than ARCHIVE_MATCHES_MAX match.
    """
    problems: list[tuple[bytes, str]] = []
    found = [b"/"]
    *parts, last = [part for part in pattern.split(b"/") if part] or [b""]
    if pattern.endswith(b"/"):
        last += b"/"
    for part in [*parts, last]:
        further: list[bytes] = []
        for folder in found:
            try:
                further += _matches(folder, part)
            except OSError as error:
                if error.errno not in _ABSENT:
                    problems.append((folder.rstrip(b"/") or b"/", unreadable(error)))
            if len(further) > limits.ARCHIVE_MATCHES_MAX:
                raise TooManyError
        found = [path + b"/" for path in further]
    return [path[:-1] for path in found], problems


def _matches(folder: bytes, part: bytes) -> list[bytes]:
    """Return the paths below ``folder``, which ends with a slash, that one part of a pattern means.

    Raises:
        OSError: the directory cannot be read.
    """
    wants_directory = part.endswith(b"/")
    part = part.removesuffix(b"/")
    if not has_magic(part):
        path = folder + re.sub(rb"\\(.)", rb"\1", part, flags=re.DOTALL)
        os.stat(path + b"/") if wants_directory else os.lstat(path)
        return [path + b"/" if wants_directory else path]
    # As text: `?` is one character, also one of several bytes.
    fits = re.compile(expression(os.fsdecode(part)), re.DOTALL).fullmatch
    paths = []
    for entry in sorted(os.listdir(folder)):
        if (entry.startswith(b".") and not part.startswith((b".", b"\\."))) or not fits(os.fsdecode(entry)):
            continue
        if wants_directory and not os.path.isdir(folder + entry):
            continue
        paths.append(folder + entry + (b"/" if wants_directory else b""))
    return paths
