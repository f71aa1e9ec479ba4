"""Files of names: node lists, and hosts files in pssh's format. Pure: text in, nodes out."""

from __future__ import annotations

from gexec.errors import UsageError
from gexec.select.nodes import Node, is_nodeset, quoted, split_port

#: Byte order marks of Windows and some editors: in decoded text, and in a variable with LC_ALL=C.
_MARKS = ("\ufeff", "\udcef\udcbb\udcbf")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BINARY = bytes([byte for byte in range(32) if byte not in b"\t\n\v\f\r"]) + b"\x7f"


def decoded(raw: bytes, name: str) -> str:
    """Return the text of a list of names, without byte order marks.

    Bytes that are not UTF-8 are kept: they may be part of a name. Lines may end with CR LF; all readers of
    the text treat CR as white space.

    Raises:
        UsageError: UTF-16 or 32, or control characters; the sentence begins with ``name``.
    """
    head = raw[:64]
    if raw.startswith(_UTF16) or (len(head) > 3 and not (any(head[1::2]) and any(head[0::2]))):
        raise UsageError(f"{name} is UTF-16 text: convert it with `iconv -f UTF-16 -t UTF-8`")
    if len(raw.translate(None, _BINARY)) < len(raw):
        raise UsageError(f"{name} is binary: expected a text with names")
    return unmarked(raw.decode("utf-8", "surrogateescape"))


def unmarked(text: str) -> str:
    """Return the text without byte order marks, including those in the middle of joined files."""
    for mark in _MARKS:
        text = text.replace(mark, "")
    return text


def uncommented(text: str) -> list[str]:
    """Return the lines of a text without their comments and outer white space.

    A comment goes from a # at the beginning of a word to the end of the line. Inside a name # is an ordinary
    character: a name that is cut there might be another node's. Every line is kept, so that line numbers stay
    correct.
    """
    if "#" in text:
        return [_before_comment(line).strip() for line in text.split("\n")]
    return [line.strip() for line in text.split("\n")]


def _before_comment(line: str) -> str:
    at = line.find("#")
    while at > 0 and not (line[at - 1].isspace() or line[at - 1] == ","):
        at = line.find("#", at + 1)
    return line if at < 0 else line[:at]


def parse_hosts_file(text: str, name: str) -> list[Node]:
    """Return the nodes of a file in pssh's format: ``host[:port]`` on each line, and comments.

    Args:
        text: the whole file.
        name: of the file, for errors.

    Raises:
        UsageError: a user, which gexec cannot become, a node set, or a malformed line.
    """
    nodes = []
    for number, line in enumerate(uncommented(text), 1):
        if not line:
            continue
        where = f"{name} line {number}"
        words = line.split()
        if len(words) > 1 or "@" in line or is_nodeset(line):
            raise UsageError(
                f"{where}: {quoted(line)}: expected host or host:port; node sets are for --nodelist, "
                "and gexec runs as the user who calls it, so a file names no users"
            )
        nodes.append(split_port(words[0], where))
    return nodes
