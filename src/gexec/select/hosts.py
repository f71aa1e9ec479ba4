"""The table of GEXEC_HOSTS: names and their addresses, in the format of /etc/hosts. Pure."""

from __future__ import annotations

from gexec import limits
from gexec.errors import UsageError

#: Enough for 65,536 nodes with two names each; a larger (wrong) file is refused before it is read.
HOSTS_MAX_BYTES = 16 * 1024 * 1024


def parse(text: str) -> dict[str, str]:
    """Return name -> addresses, in the order of the lines, separated by spaces.

    Names are in lower case and without a trailing dot (``select.nodes.folded``). The first
    ``limits.ADDRESSES_MAX`` addresses of a name are kept.

    Addresses are not validated here: that is only worthwhile for a job's own nodes.

    Raises:
        UsageError: a line has an address and no name; the error has its number.
    """
    table: dict[str, str] = {}
    written = text.split("\n") if "%" in text else None  # an interface's name has its case
    for number, line in enumerate(text.lower().split("\n"), 1):
        if "#" in line:
            line = line.partition("#")[0]
        words = line.split()
        if len(words) == 1:
            raise UsageError(f"line {number} has one field: expected an address and its names")
        if written and words and "%" in words[0]:
            words[0] = written[number - 1].split()[0]
        for name in words[1:]:
            name = name.removesuffix(".")
            known = table.setdefault(name, words[0])
            if known is not words[0]:
                addresses = known.split(" ")
                if words[0] not in addresses and len(addresses) < limits.ADDRESSES_MAX:
                    table[name] = f"{known} {words[0]}"
    return table


def line_of(text: str, name: str, address: str) -> int:
    """Return the number of the line that gives an address to a name of the table, 0 if none does."""
    for number, line in enumerate(text.lower().split("\n"), 1):
        words = line.partition("#")[0].split()
        if words and words[0] == address.lower() and name in [word.removesuffix(".") for word in words[1:]]:
            return number
    return 0
