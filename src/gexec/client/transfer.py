"""The views of jobs that copy files: what receivers report, and what senders send (docs/files.md)."""

from __future__ import annotations

import os
import signal
import sys

from gexec.errors import GexecError
from gexec.files import report as reports
from gexec.files.unpacker import Unpacker, folders_of
from gexec.render.fold import fold_bounded
from gexec.render.sentences import LINES_MAX
from gexec.render.text import printable, shown
from gexec.render.wrapped import Wrapped
from gexec.wire import ranks as sets
from gexec.wire.frames import STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.files.options import CopyOptions
    from gexec.files.report import Report
    from gexec.render.view import View
    from gexec.wire.outcome import Outcome
    from gexec.wire.ranks import Ranges

#: What senders and receivers get at ^C. They end in the same way, but a Python that is just starting would
#: show SIGINT as a traceback.
INTERRUPT = signal.SIGTERM
#: A longer line is none of a receiver's and is passed on in pieces.
_LINE_MAX_BYTES = 64 * 1024
_MARK = reports.MARK.encode()


def environment() -> dict[str, str]:
    """Return the environment for a job of senders or receivers.

    Its PATH ends with the directory that they are in on this host: gexec may be installed outside of PATH.
    """
    path = os.environ.get("PATH") or os.defpath
    return os.environ | {"PATH": f"{path}:{os.path.dirname(sys.executable)}"}


class Pushed(Wrapped):
    """Takes the receivers' reports out of what they write; ``view`` shows the rest.

    Args:
        view: any.
        ranks: how many.
        on_report: called with each rank's last report, if there is one, before ``view`` gets its outcome.

    Attributes:
        reports: of each rank, None while it has not reported.
    """

    __slots__ = ("_begun", "_on_report", "reports")

    def __init__(
        self, view: View, ranks: int, on_report: Callable[[int, Report], None] | None = None
    ) -> None:
        super().__init__(view)
        self._on_report = on_report
        self.reports: list[Report | None] = [None] * ranks
        self._begun: dict[int, bytes] = {}

    def started(self, ranks: Ranges) -> None:
        """See View. A rank that was lost may start once more: nothing follows what it had begun to say."""
        for rank in sets.members(ranks) if self._begun else ():
            self._begun.pop(rank, None)
        super().started(ranks)

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        if stream != STDOUT:
            self._view.output(stream, ranks, data)
        else:
            for rank in sets.members(ranks):
                self._lines(rank, data)
        self._move()

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """See View."""
        for rank in sets.members(ranks):
            begun = self._begun.pop(rank, b"")
            if begun:
                self._pass(rank, begun)
            report = self.reports[rank]
            if report is not None and self._on_report is not None:
                self._on_report(rank, report)
        self._view.ended(ranks, outcome)
        self._move()

    def _lines(self, rank: int, data: bytes) -> None:
        *lines, rest = (self._begun.pop(rank, b"") + data).split(b"\n")
        passed = []
        for text in lines:
            line = text + b"\n"
            if line.startswith(_MARK) and (found := reports.parse(line.decode("ascii", "replace"))):
                self.reports[rank] = found
                self.taken.append((STDOUT, ((rank, rank + 1),), len(line)))
            else:
                passed.append(line)
        if len(rest) >= _LINE_MAX_BYTES:
            passed.append(rest)
        elif rest:
            self._begun[rank] = rest
        if passed:
            self._pass(rank, b"".join(passed))

    def _pass(self, rank: int, data: bytes) -> None:
        self._view.output(STDOUT, ((rank, rank + 1),), data)


class Fetched(Wrapped):
    """Unpacks what each rank sends below DIRECTORY/NODE; ``view`` shows what they say on stderr.

    Args:
        view: of stderr.
        directory: absolute, is there.
        names: of the nodes.
        options: how files are written.

    Attributes:
        folders: each rank's directory below the destination.
        reports: of each rank that has ended; None if nothing had come.
        problems: sentences, safe to show: what could not be written, or is not what a sender sends; one for
            all nodes with the same, ``%h`` for the node in its path.
        bytes: of all streams so far.
    """

    __slots__ = ("_directory", "_left_out", "_problems", "_unpacker", "bytes", "folders", "reports")

    def __init__(self, view: View, directory: str, names: Sequence[bytes], options: CopyOptions) -> None:
        super().__init__(view)
        self.folders = folders_of([os.fsdecode(name) for name in names])
        self.reports: list[Report | None] = [None] * len(names)
        self._directory = directory.rstrip("/")
        #: Sentence for all -> (the first one as it came, directories).
        self._problems: dict[str, tuple[str, dict[str, None]]] = {}
        self._left_out = 0
        self.bytes = 0
        self._unpacker = Unpacker(directory, options, say=self._say, tell=lambda folder, line: None)

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        if stream != STDOUT:
            self._view.output(stream, ranks, data)
            self._move()
            return
        for rank in sets.members(ranks):
            if not self.error:
                try:
                    self._unpacker.feed(self.folders[rank], data)
                except GexecError as error:
                    self.error = str(error)
            self.bytes += len(data)
        self.taken.append((STDOUT, ranks, len(data)))

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """See View."""
        for rank in sets.members(ranks):
            self.reports[rank] = self._unpacker.finish(self.folders[rank])
        self._view.ended(ranks, outcome)
        self._move()

    def finish(self) -> None:
        """See View."""
        self._unpacker.close()
        super().finish()

    @property
    def problems(self) -> list[str]:
        """See above."""
        told = []
        for sentence, (raw, folders) in self._problems.items():
            names = fold_bounded([shown(os.fsencode(folder)) for folder in self.folders if folder in folders])
            told.append(f"{names}: {printable(raw if len(folders) == 1 else sentence)}")
        return [*told, f"and {self._left_out} sentences more"] if self._left_out else told

    def _say(self, folder: str, sentence: str) -> None:
        general = sentence.replace(f"{self._directory}/{folder}", f"{self._directory}/%h", 1)
        known = self._problems.get(general)
        if known is not None:
            known[1][folder] = None
        elif len(self._problems) < LINES_MAX:
            self._problems[general] = sentence, {folder: None}
        else:
            self._left_out += 1
