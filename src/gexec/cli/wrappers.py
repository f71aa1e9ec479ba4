"""What enexec and ensh have in common: the original's command line. Part of the thin client."""

from __future__ import annotations

from gexec.cli.command import Command
from gexec.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.cli.options import Parsed
    from gexec.client.job import Request

LETTERS = {
    "nodes": "nw",
    "not-here": "x",
    "prefix-type": "p",
    "gather": "b",
    "fanout": "f",
    "verbose": "v",
    "help": "h",
    "version": "V",
}
NOT_HERE = Option("", "not-here")
#: What runs when no command is given.
DEFAULT = "uptime"


class Wrapper(Command):
    """A command whose words are one line for the node's ``sh -c``, and whose ``-x`` leaves out this host."""

    __slots__ = ()

    def __init__(self, name: str, options: Sequence[Option], help_: str) -> None:
        super().__init__(name, options, help_, prefix="host", administrator=True)

    def argv(self, words: Sequence[str]) -> Sequence[str]:
        """Return the shell that runs the line; without words it is ``uptime``."""
        line = " ".join(words) or DEFAULT
        # Some shells take a line that begins with a hyphen for an option of theirs.
        return ("/bin/sh", "-c", f" {line}" if line.startswith("-") else line)

    def choose(self, parsed: Parsed, request: Request) -> None:
        """Put into the request what this command's own options say about nodes."""
        if parsed.flag("not-here"):
            from gexec.posix.hostnames import node_names

            request.not_here = node_names()
