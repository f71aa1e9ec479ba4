"""The views of jobs that copy files: what receivers report, and what senders send (docs/files.md)."""

from __future__ import annotations

import os
import signal
import sys

from gexec.errors import GexecError
from gexec.files import answers
from gexec.files import report as reports
from gexec.files.answers import Union
from gexec.files.unpacker import Unpacker, folders_of
from gexec.render.fold import fold_bounded
from gexec.render.sentences import LINES_MAX
from gexec.render.text import printable, shown
from gexec.render.wrapped import Wrapped
from gexec.wire import ranks as sets
from gexec.wire.frames import STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gexec.client.feed import Feed
    from gexec.files.answers import ListAnswer
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
_ANSWER = answers.MARK.encode()


def environment() -> dict[str, str]:
    """Return the environment for a job of senders or receivers.

    Its PATH ends with the directory that they are in on this host: gexec may be installed outside of PATH.
    """
    path = os.environ.get("PATH") or os.defpath
    return os.environ | {"PATH": f"{path}:{os.path.dirname(sys.executable)}"}


class Pushed(Wrapped):
    """Takes the receivers' answers and reports out of what they write; ``view`` shows the rest.

    Args:
        view: any.
        ranks: how many.
        on_report: called with each rank's last report, if there is one, before ``view`` gets its outcome.

    Attributes:
        reports: of each rank, None while it has not reported.
        into_directory, into_name: ranks whose destination is a directory, or would be the name of a file,
            where it may be either.
        conflict: it is not the same on all ranks: nothing is copied, and nothing more is shown.
    """

    __slots__ = (
        "_begun", "_feed", "_on_report", "_union", "conflict", "into_directory", "into_name", "reports",
    )  # fmt: skip

    def __init__(
        self, view: View, ranks: int, on_report: Callable[[int, Report], None] | None = None
    ) -> None:
        super().__init__(view)
        self._on_report = on_report
        self.reports: list[Report | None] = [None] * ranks
        self.into_directory: set[int] = set()
        self.into_name: set[int] = set()
        self.conflict = False
        self._begun: dict[int, bytes] = {}
        self._feed: Feed | None = None
        self._union = Union(())

    def ask(self, feed: Feed, ranks: Iterable[int]) -> None:
        """Begin a job: what these ranks answer goes to the sender."""
        self._feed = feed
        self._union = Union(ranks)

    def started(self, ranks: Ranges) -> None:
        """See View. A rank that was lost may start once more: nothing follows what it had begun to say."""
        for rank in sets.members(ranks) if self._begun else ():
            self._begun.pop(rank, None)
        super().started(ranks)

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        if self.conflict:
            self.taken.append((stream, ranks, len(data)))
        elif stream != STDOUT:
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
        self._gone(ranks)
        self._view.ended(ranks, outcome)
        self._move()

    def withheld(self, ranks: Ranges) -> None:
        """See View."""
        for rank in sets.members(ranks):
            self._begun.pop(rank, None)
        self._gone(ranks)
        self._view.withheld(ranks)
        self._move()

    def _gone(self, ranks: Ranges) -> None:
        for union in self._union.gone(sets.members(ranks)):
            self._tell(union)

    def _tell(self, union: ListAnswer) -> None:
        """Pass on what all receivers lack, unless they would not copy to the same place."""
        assert self._feed is not None
        if self.into_directory and self.into_name:
            self.conflict = True
            self._feed.stop()
        else:
            self._feed.tell(f"* {union.words()}\n")

    def _lines(self, rank: int, data: bytes) -> None:
        *lines, rest = (self._begun.pop(rank, b"") + data).split(b"\n")
        passed = []
        for text in lines:
            line = text + b"\n"
            if self._takes(rank, text):
                self.taken.append((STDOUT, ((rank, rank + 1),), len(line)))
            else:
                passed.append(line)
        if len(rest) >= _LINE_MAX_BYTES:
            passed.append(rest)
        elif rest:
            self._begun[rank] = rest
        if passed:
            self._pass(rank, b"".join(passed))

    def _takes(self, rank: int, text: bytes) -> bool:
        """Return True for a line that is none to be shown, and act on it."""
        if text.startswith(_MARK):
            report = reports.parse(text.decode("ascii", "replace"))
            if report is not None:
                self.reports[rank] = report
            return report is not None
        if not text.startswith(_ANSWER):
            return False
        line = text.decode("ascii", "replace")
        if line == answers.ALIVE:
            return True
        if line in (answers.INTO_DIRECTORY, answers.INTO_NAME):
            (self.into_directory if line == answers.INTO_DIRECTORY else self.into_name).add(rank)
            return True
        answer = answers.parse(line)
        if answer is None:
            return False
        union = self._union.answered(rank, answer)
        if union is not None:
            self._tell(union)
        return True

    def _pass(self, rank: int, data: bytes) -> None:
        self._view.output(STDOUT, ((rank, rank + 1),), data)


class Fetched(Wrapped):
    """Unpacks what each rank sends below DIRECTORY/NODE; ``view`` shows what they say on stderr.

    Args:
        view: of stderr.
        directory: absolute, is there.
        names: of the nodes.
        options: how files are written.
        tell: called with lines for senders that ask what is lacking here (gexec.files.answers); None: none
            asks.

    Attributes:
        folders: each rank's directory below the destination.
        reports: of each rank that has ended; None if nothing had come.
        problems: sentences, safe to show: what could not be written, or is not what a sender sends; one for
            all nodes with the same, ``%h`` for the node in its path.
        bytes: of all streams so far.
    """

    __slots__ = (
        "_answers", "_directory", "_left_out", "_problems", "_ranks", "_tell", "_unpacker",
        "bytes", "folders", "reports",
    )  # fmt: skip

    def __init__(
        self,
        view: View,
        directory: str,
        names: Sequence[bytes],
        options: CopyOptions,
        tell: Callable[[bytes], None] | None = None,
    ) -> None:
        super().__init__(view)
        self.folders = folders_of([os.fsdecode(name) for name in names])
        self.reports: list[Report | None] = [None] * len(names)
        self._directory = directory.rstrip("/")
        #: Sentence for all -> (the first one as it came, directories).
        self._problems: dict[str, tuple[str, dict[str, None]]] = {}
        self._left_out = 0
        self.bytes = 0
        self._tell = tell
        self._ranks = {folder: rank for rank, folder in enumerate(self.folders)}
        #: What the ranks whose bytes are taken now lack: the answer -> ranks.
        self._answers: dict[str, list[int]] = {}
        self._unpacker = Unpacker(directory, options, say=self._say, answer=self._answer)

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
        for answer, members in self._answers.items():
            whom = ",".join([f"{low}-{high - 1}" for low, high in sets.of(members)])
            if self._tell is not None:
                self._tell(f"{whom} {answer}\n".encode())
        self._answers.clear()

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

    def _answer(self, folder: str, answer: ListAnswer) -> None:
        self._answers.setdefault(answer.words(), []).append(self._ranks[folder])

    def _say(self, folder: str, sentence: str) -> None:
        general = sentence.replace(f"{self._directory}/{folder}", f"{self._directory}/%h", 1)
        known = self._problems.get(general)
        if known is not None:
            known[1][folder] = None
        elif len(self._problems) < LINES_MAX:
            self._problems[general] = sentence, {folder: None}
        else:
            self._left_out += 1
