"""Patterns with wildcards, as regular expressions. Pure.

``*`` is any text without a slash, ``**`` any text, ``?`` one character that is no slash, ``[a-z]`` one of
these (``[!a-z]`` and ``[^a-z]``: another one, ``[[:digit:]]``: a class of ASCII); a backslash takes away the
meaning of what follows. The rules are those of rsync's wildmatch.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Characters that make a text a pattern.
MAGIC = "*?["
_NEVER = "(?!)"
_ONE = "[^/]"
_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \\t-\\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


def expression(pattern: str) -> str:
    """Return a regular expression for ``re.fullmatch`` with ``re.DOTALL``.

    One that matches nothing for a pattern that is not complete: a ``[`` without ``]``, a last backslash.
    """
    pieces: list[str] = []
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "*":
            begin = at - 1
            while pattern[at : at + 1] == "*":
                at += 1
            pieces.append("*" if at - begin == 1 else "**")
        elif letter == "?":
            pieces.append(_ONE)
        elif letter == "[":
            piece, at = _bracket(pattern, at)
            pieces.append(piece)
        elif letter == "\\":
            pieces.append(re.escape(pattern[at]) if at < len(pattern) else _NEVER)
            at += 1
        else:
            pieces.append(re.escape(letter))
    return _joined(pieces)


def _joined(pieces: Sequence[str]) -> str:
    """Return the pieces as one expression that needs no long search.

    Between two stars of one part of a path, the first place that fits is as good as any other.
    """
    joined = []
    at = 0
    while at < len(pieces):
        piece = pieces[at]
        at += 1
        if piece == "**":
            joined.append(".*")
        elif piece == "*":
            end = at
            while end < len(pieces) and pieces[end] not in ("*", "**", "/"):
                end += 1
            fixed = "".join(pieces[at:end])
            if pieces[end : end + 1] == ["*"]:
                joined.append(f"(?>[^/]*?{fixed})")
            else:
                joined.append(f"[^/]*{fixed}")
            at = end
        else:
            joined.append(piece)
    return "".join(joined)


def _bracket(pattern: str, at: int) -> tuple[str, int]:
    """Return the expression of a ``[`` whose contents begin at ``at``, and where it ends."""
    never = _NEVER, len(pattern)
    is_negative = pattern[at : at + 1] in ("!", "^")
    at += is_negative
    members: list[str] = []
    before = ""  # may begin a range
    is_first = True
    while is_first or pattern[at : at + 1] != "]":
        is_first = False
        letter = pattern[at : at + 1]
        if not letter:
            return never
        end = pattern.find("]", at + 2) if pattern.startswith("[:", at) else -2
        if letter == "\\":
            at += 1
            before = pattern[at : at + 1]
            if not before:
                return never
            members.append(re.escape(before))
        elif letter == "-" and before and pattern[at + 1 : at + 2] not in ("", "]"):
            at += 1 + (pattern[at + 1] == "\\")
            last = pattern[at : at + 1]
            if not last:
                return never
            if before <= last:
                members.append(f"{re.escape(before)}-{re.escape(last)}")
            before = ""
        elif end == -1:
            return never
        elif end > at + 2 and pattern[end - 1] == ":":
            if pattern[at + 2 : end - 1] not in _CLASSES:
                return never
            members.append(_CLASSES[pattern[at + 2 : end - 1]])
            before, at = "", end
        else:
            members.append(re.escape(letter))
            before = letter
        at += 1
    inside = "".join(members)
    if is_negative:
        return (f"(?![{inside}]){_ONE}" if inside else _ONE), at + 1
    return (f"(?!/)[{inside}]" if inside else _NEVER), at + 1
