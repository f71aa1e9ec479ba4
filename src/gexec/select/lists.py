"""Files of names: node lists, and host files in pssh's form. Pure: text in, nodes out."""

from __future__ import annotations

from gexec.errors import UsageError
from gexec.select.nodes import Node, split_port


def uncommented(text: str) -> list[str]:
    """Return the lines of a text without their comments (# to the end) and outer white space.

    Every line is kept, so that the first stands for line 1.
    """
    if "#" in text:
        return [line.partition("#")[0].strip() for line in text.split("\n")]
    return [line.strip() for line in text.split("\n")]


def parse_hosts_file(text: str, name: str) -> list[Node]:
    """Return the nodes of a file in pssh's form: ``host[:port]`` on each line, comments from #.

    Args:
        text: the whole file.
        name: of the file, for the sentence of an error.

    Raises:
        UsageError: a user is named, which gexec cannot become, or a line is malformed.
    """
    nodes = []
    for number, line in enumerate(uncommented(text), 1):
        if not line:
            continue
        where = f"{name} line {number}"
        words = line.split()
        if len(words) > 1 or "@" in line:
            raise UsageError(
                f"{where}: {line[:80]!r}: expected host or host:port; "
                "gexec runs as the user who calls it, so a file names no users"
            )
        nodes.append(split_port(words[0], where))
    return nodes
