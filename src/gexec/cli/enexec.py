"""``enexec``: a shell line on all nodes, each line behind its node's name. See ``enexec -h``, docs/enexec.md.

Part of the thin client.
"""

from __future__ import annotations

from gexec.cli.command import Command, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.cli.options import Parsed
    from gexec.client.job import Request

#: What runs when no command is given.
DEFAULT = "uptime"


class Wrapper(Command):
    """A command whose arguments are one line for the node's ``sh -c``; its ``-x`` excludes this host."""

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__(name, prefix="host", administrator=True)

    def argv(self, words: Sequence[str]) -> Sequence[str]:
        """Return the shell that runs the line, ``uptime`` if no argument is given."""
        line = " ".join(words) or DEFAULT
        # Some shells take a line that begins with a hyphen for an option of theirs.
        return ("/bin/sh", "-c", f" {line}" if line.startswith("-") else line)

    def choose(self, parsed: Parsed, request: Request) -> None:
        """Put this command's own options for nodes into the request."""
        if parsed.flag("not-here"):
            from gexec.posix.hostnames import node_names

            request.not_here = node_names()


ENEXEC = Wrapper("enexec")


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    return run(ENEXEC, words)
