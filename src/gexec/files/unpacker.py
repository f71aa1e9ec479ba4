"""Unpacks the streams of many nodes, each below its own directory."""

from __future__ import annotations

import os

from gexec.errors import GexecError, ProtocolError, UsageError
from gexec.files.directories import reason
from gexec.files.receiver import Receiver
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.files.answers import ListAnswer
    from gexec.files.options import CopyOptions
    from gexec.files.report import Report


def folders_of(nodes: Sequence[str]) -> list[str]:
    """Return a directory's name for each node, in order; a duplicate gets its rank appended (``node1@5``).

    Raises:
        UsageError: a node's name cannot be the name of a directory.
    """
    for node in nodes:
        if not node or "/" in node or "\0" in node or node in (".", ".."):
            raise UsageError(f"the node {node[:200]!r} cannot name a directory: use another name")
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node] = counts.get(node, 0) + 1
    return [node if counts[node] == 1 else f"{node}@{rank}" for rank, node in enumerate(nodes)]


class Unpacker:
    """Writes nodes' streams to DIR/NODE/path. Nodes are not trusted: each stays below its own directory.

    Memory is bounded: some kilobytes for each node's stream under way.

    Args:
        directory: absolute; must exist.
        options: as for a receiver; without ``make_parents`` only files directly below can be written.
        say: called with (folder, sentence) for the user.
        answer: called with (folder, answer), see Receiver.
    """

    def __init__(
        self,
        directory: str,
        options: CopyOptions,
        *,
        say: Callable[[str, str], None],
        answer: Callable[[str, ListAnswer], None],
    ) -> None:
        self._directory = directory
        self._options = options
        self._say = say
        self._answer = answer
        self._receivers: dict[str, Receiver] = {}
        self._broken: set[str] = set()

    def feed(self, folder: str, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of one node's stream. An error in it is reported once, and the rest is ignored.

        Raises:
            GexecError: the directory cannot be created or opened.
        """
        if folder in self._broken:
            return
        receiver = self._receivers.get(folder)
        if receiver is None:
            receiver = self._receivers[folder] = self._begin(folder)
        try:
            receiver.feed(data)
        except (ProtocolError, UsageError) as error:
            self._broken.add(folder)
            self._say(folder, str(error))

    def finish(self, folder: str) -> Report | None:
        """End a node's stream; return its report, None if nothing was received."""
        receiver = self._receivers.pop(folder, None)
        return None if receiver is None else receiver.finish()

    def close(self) -> None:
        """Finish all streams and remove their unfinished files."""
        for folder in list(self._receivers):
            self.finish(folder)

    def _begin(self, folder: str) -> Receiver:
        path = os.path.join(self._directory, folder)
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            if os.path.islink(path):
                raise GexecError(f"{shown(os.fsencode(path))} is a symbolic link: remove it first") from None
        except OSError as error:
            raise GexecError(f"{shown(os.fsencode(path))} cannot be made: {reason(error)}") from error
        return Receiver(
            path,
            self._options,
            say=lambda sentence: self._say(folder, sentence),
            tell=lambda line: None,
            answer=lambda answer: self._answer(folder, answer),
        )
