"""``gexec``: run one command on many nodes. See ``gexec -h`` and docs/gexec.md. Part of the thin client."""

from __future__ import annotations

from gexec.cli.command import Command, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

GEXEC = Command("gexec", "vnn")


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    return run(GEXEC, words)
