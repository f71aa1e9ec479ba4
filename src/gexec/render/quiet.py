"""Discards the processes' output (--quiet); only the summary is printed. Pure; imported when needed."""

from __future__ import annotations

from gexec.render.view import View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.wire.ranks import Ranges


class Quiet(View):
    """Takes all output and writes none."""

    __slots__ = ()

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        self.taken.append((stream, ranks, len(data)))
