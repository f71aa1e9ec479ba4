"""Files of names: node lists, and host files in pssh's form. Pure: text in, nodes out."""

from __future__ import annotations

from gexec.errors import UsageError
from gexec.select.nodes import Node, is_nodeset, split_port


def uncommented(text: str) -> list[str]:
    """Return the lines of a text without their comments and outer white space.

    A comment goes from a # at the beginning of a word to the end of the line. In a name # is a character
    like others: what is left of one that is cut there may name another node. Every line is kept, so that
    the first stands for line 1.
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
    """Return the nodes of a file in pssh's form: ``host[:port]`` on each line, and comments.

    Args:
        text: the whole file.
        name: of the file, for the sentence of an error.

    Raises:
        UsageError: a user is named, which gexec cannot become, a node set, or a line is malformed.
    """
    nodes = []
    for number, line in enumerate(uncommented(text), 1):
        if not line:
            continue
        where = f"{name} line {number}"
        words = line.split()
        if len(words) > 1 or "@" in line or is_nodeset(line):
            raise UsageError(
                f"{where}: {line[:80]!r}: expected host or host:port; node sets are for --nodelist, "
                "and gexec runs as the user who calls it, so a file names no users"
            )
        nodes.append(split_port(words[0], where))
    return nodes
