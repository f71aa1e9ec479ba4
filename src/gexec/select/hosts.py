"""The table of GEXEC_HOSTS: names and their addresses, in the form of /etc/hosts. Pure."""

from __future__ import annotations

from gexec.errors import UsageError

#: 65,536 nodes with two names each fit, and a file that is none at all is refused before it is read.
HOSTS_MAX_BYTES = 16 * 1024 * 1024


def parse(text: str) -> dict[str, str]:
    """Return name -> address. The first line that has a name wins, as in /etc/hosts.

    Names are in lower case and without a trailing dot (``select.nodes.folded``).

    Addresses are not looked at here: only those of a job's own nodes are worth the time.

    Raises:
        UsageError: a line with an address and no name, by its number.
    """
    table: dict[str, str] = {}
    for number, line in enumerate(text.lower().split("\n"), 1):
        if "#" in line:
            line = line.partition("#")[0]
        words = line.split()
        if len(words) == 2:  # nearly all lines
            table.setdefault(words[1].removesuffix("."), words[0])
        elif len(words) == 1:
            raise UsageError(f"line {number} has one field: expected an address and its names")
        else:
            for name in words[1:]:
                table.setdefault(name.removesuffix("."), words[0])
    return table
