"""Prints equal output once, under the names of its nodes. Pure; imported when needed.

    --- node[001-003] (3)
    what each of the three wrote to stdout
    --- node004 (1) exited 7 stderr
    what it wrote to stderr, on descriptor 2

A group is the ranks whose stdout, stderr and outcome are equal. Only different content is kept
(render/distinct.py), up to a limit. Above it, the groups so far are shown, and the rest is shown line by
line, so that nothing is lost and memory stays bounded.
"""

from __future__ import annotations

from gexec.render.distinct import Distinct, pieces
from gexec.render.fold import fold
from gexec.render.prefix import prefixes
from gexec.render.text import shown
from gexec.render.view import Prefixed, View
from gexec.wire import ranks as sets
from gexec.wire.frames import STDERR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gexec.render.distinct import Place
    from gexec.wire.outcome import Outcome
    from gexec.wire.ranks import Ranges

#: Most different content that is kept, stdout and stderr of all ranks together.
LIMIT_BYTES = 256 * 1024 * 1024
#: Bytes returned at a time.
_PART_BYTES = 256 * 1024
_HEADING = b"\x1b[1m%b\x1b[0m\n"

#: What the ranks of a group have in common: stdout, stderr, outcome in words ("" for exited 0).
Key = tuple["Place", "Place", str]
#: A write: descriptor and bytes.
Text = tuple[int, bytes]


class Gathered(View):
    """Shows each different output once: at the end, the largest group first.

    Live, a group is shown, with a number, as soon as its first rank has ended; if any group has grown since,
    a table follows at the end.

    Args:
        names: one for each rank.
        live: show groups as ranks end.
        colour: headings are bold.
        limit_bytes: of different content that is kept.
    """

    __slots__ = (
        "_colour", "_limit_bytes", "_live", "_names", "_numbers", "_outcomes", "_passing", "_pushed_back",
        "_shown", "_stores", "_texts", "_waiting",
    )  # fmt: skip

    def __init__(
        self,
        names: Sequence[bytes],
        live: bool = False,
        colour: bool = False,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        super().__init__()
        self._names = names
        self._live = live
        self._colour = colour
        self._limit_bytes = limit_bytes
        self._stores = {stream: Distinct(len(names)) for stream in (STDOUT, STDERR)}
        self._outcomes: list[Outcome | None] = [None] * len(names)
        #: Live: each group's number, and how many ranks it had when it was shown.
        self._numbers: dict[Key, int] = {}
        self._shown: dict[Key, int] = {}
        #: Pending writes, in order.
        self._texts: list[Iterator[Text]] = []
        self._pushed_back: Text | None = None
        #: Over the limit: output received while the groups were written; then the view for it.
        self._waiting: list[tuple[int, Ranges, bytes | Outcome]] | None = None
        self._passing: View | None = None

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        if self._passing is not None:
            self._passing.output(stream, ranks, data)
            self._move()
        elif self._waiting is not None:
            self._waiting.append((stream, ranks, data))
        else:
            self._stores[stream].output(ranks, data)
            self.taken.append((stream, ranks, len(data)))
            if sum([store.size_bytes for store in self._stores.values()]) > self._limit_bytes:
                self._give_up()

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """See View."""
        if self._passing is not None:
            self._passing.ended(ranks, outcome)
            self._move()
        elif self._waiting is not None:
            self._waiting.append((0, ranks, outcome))
        else:
            for rank in sets.members(ranks):
                self._outcomes[rank] = outcome
            if self._live:
                self._show_new(ranks)

    def finish(self) -> None:
        """See View."""
        if self._passing is None and self._waiting is None:
            self._show(self._report())

    def refill(self) -> None:
        """See View."""
        if not self.held:
            return
        fd = size = 0
        while size < _PART_BYTES:
            text = self._next_text()
            if text is None:
                break
            if fd not in (0, text[0]):
                self._pushed_back = text  # one descriptor per part: a terminal shows them in order
                break
            fd = text[0]
            size += len(text[1])
            self.writes.append((fd, text[1], None))
        self.held = bool(self._texts) or self._pushed_back is not None
        if not self.held and self._waiting is not None:
            self._pass_on(self._waiting)

    # -- what is shown -------------------------------------------------------------------------

    def _report(self) -> Iterator[Text]:
        """Yield what is shown at the end."""
        return self._kept()

    def _kept(self) -> Iterator[Text]:
        """Yield everything that is kept and was not shown yet."""
        if self._live:
            yield from self._table()
        else:
            for key, ranks in self._groups(range(len(self._names))):
                yield from self._group(key, ranks)

    def _show_new(self, ranks: Ranges) -> None:
        for key, members in self._groups(sets.members(ranks)):
            if key not in self._numbers:
                self._numbers[key] = len(self._numbers) + 1
                self._shown[key] = len(members)
                self._show(self._group(key, members))

    def _table(self) -> Iterator[Text]:
        groups = dict(self._groups(range(len(self._names))))
        if all(len(ranks) == self._shown.get(key) for key, ranks in groups.items()):
            return
        for key, ranks in groups.items():
            if key in self._numbers:
                yield STDOUT, self._heading("===", key, ranks)
            else:
                yield from self._group(key, ranks)  # of ranks that never ended

    def _groups(self, ranks: range | list[int]) -> list[tuple[Key, list[int]]]:
        """Return the groups of these ranks that wrote anything, the largest first."""
        stdout, stderr = self._stores[STDOUT], self._stores[STDERR]
        groups: dict[Key, list[int]] = {}
        for rank in ranks:
            out, err = stdout.place(rank), stderr.place(rank)
            if out[1] or err[1]:
                groups.setdefault((out, err, _word(self._outcomes[rank])), []).append(rank)
        return sorted(groups.items(), key=lambda group: (-len(group[1]), group[1][0]))

    def _group(self, key: Key, ranks: list[int]) -> Iterator[Text]:
        for fd, place in ((STDOUT, key[0]), (STDERR, key[1])):
            if place[1]:
                yield fd, self._heading("---", key, ranks, " stderr" if fd == STDERR else "")
                piece = b""
                for piece in pieces(place):
                    yield fd, piece
                if not piece.endswith(b"\n"):
                    yield fd, b"\n"

    def _heading(self, rule: str, key: Key, ranks: list[int], tail: str = "") -> bytes:
        number = f"[{self._numbers[key]}] " if key in self._numbers else ""
        text = f"{rule} {number}{label(self._names, ranks)}{' ' if key[2] else ''}{key[2]}{tail}"
        encoded = text.encode()
        return _HEADING % encoded if self._colour else encoded + b"\n"

    # -- writing -------------------------------------------------------------------------------

    def _show(self, text: Iterator[Text]) -> None:
        self._texts.append(text)
        self.held = True

    def _next_text(self) -> Text | None:
        if self._pushed_back is not None:
            text, self._pushed_back = self._pushed_back, None
            return text
        while self._texts:
            for text in self._texts[0]:
                return text
            self._texts.pop(0)
        return None

    # -- too much to keep ----------------------------------------------------------------------

    def _give_up(self) -> None:
        """Show what is kept; until it is written, new output is not taken, so windows bound it."""
        size = f"{self._limit_bytes // (1024 * 1024)} MiB"
        notice = f"gexec: over {size} of different output: groups so far follow, then the rest line by line"
        self._show(iter([(STDERR, notice.encode() + b"\n")]))
        self._show(self._kept())
        self._waiting = []

    def _pass_on(self, waiting: list[tuple[int, Ranges, bytes | Outcome]]) -> None:
        self._passing = Prefixed(prefixes("host", self._names, ()), len(self._names))
        self._waiting = None
        self._stores.clear()
        self._numbers.clear()
        for stream, ranks, what in waiting:
            if isinstance(what, bytes):
                self._passing.output(stream, ranks, what)
            else:
                self._passing.ended(ranks, what)
        self._move()

    def _move(self) -> None:
        if self._passing is not None:
            self.writes += self._passing.writes
            self.taken += self._passing.taken
            self._passing.writes.clear()
            self._passing.taken.clear()


def label(names: Sequence[bytes], ranks: Sequence[int]) -> str:
    """Return the folded names of ranks as one word that -w accepts, and the number of ranks."""
    folded = fold([shown(names[rank]) for rank in ranks]).replace(" ", ",")
    return f"{folded} ({len(ranks)})"


def _word(outcome: Outcome | None) -> str:
    """Return the outcome without its reason, because reasons may differ for equal output."""
    if outcome is None:
        return "so far"
    if outcome.ok:
        return ""
    return outcome.summary
