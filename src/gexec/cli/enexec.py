"""``enexec``: a shell line on all nodes, each line behind its node's name. See ``enexec -h``, docs/enexec.md.

Part of the thin client.
"""

from __future__ import annotations

from gexec.cli.command import run
from gexec.cli.wrappers import Wrapper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ENEXEC = Wrapper("enexec")


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    return run(ENEXEC, words)
