"""All events of a job as JSON, one object per line (docs/output.md). Pure; imported when needed.

An incomplete line is kept and not taken; it is at most half a window, so that the process can continue, and
longer lines are cut there.
"""

from __future__ import annotations

from gexec import limits
from gexec.render.summary import exit_status
from gexec.render.view import View
from gexec.wire import ranks as sets
from gexec.wire.frames import STDOUT
from gexec.wire.outcome import EXITED, KILLED, NAMES, TIMED_OUT, Outcome, lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gexec.wire.ranks import Ranges

#: Raised when a field changes its meaning or is removed; new fields and events may be added at any time.
SCHEMA = 1
#: Most bytes of output in one object; less in jobs of over 512 ranks, whose windows are small.
_TEXT_MAX_BYTES = 64 * 1024
#: Objects that differ only in the rank are joined into pieces of about this size.
_JOIN_BYTES = 64 * 1024

#: The end of one object, and the offset in the output at which it begins: (offset, ``"text":...}``).
_Part = tuple[int, bytes]


class Jsonl(View):
    """One JSON object for each event of each rank, on descriptor 1.

    Args:
        names: one for each rank.
        addresses: one for each rank.
        status: computes the exit status in the last object from all outcomes.
    """

    __slots__ = ("_begun", "_dumps", "_max", "_offsets", "_outcomes", "_status", "_who")

    def __init__(
        self,
        names: Sequence[bytes],
        addresses: Sequence[bytes],
        status: Callable[[Sequence[Outcome]], int] = exit_status,
    ) -> None:
        super().__init__()
        from json import dumps

        self._dumps = dumps
        self._status = status
        self._outcomes: list[Outcome | None] = [None] * len(names)
        self._max = min(_TEXT_MAX_BYTES, limits.window_bytes(len(names)) // 2)
        self._who = [b'"rank":%d,"node":%b' % (rank, self._quoted(name)) for rank, name in enumerate(names)]
        #: For each stream: the incomplete line of each rank, and its offset.
        self._begun: dict[int, dict[int, bytearray]] = {}
        self._offsets: dict[int, list[int]] = {}
        nodes = [
            b"{%b,%b}" % (who, self._addresses(entry))
            for who, entry in zip(self._who, addresses, strict=True)
        ]
        self._write(b'{"event":"job","schema":%d,"nodes":[%b]}\n' % (SCHEMA, b",".join(nodes)))

    def _addresses(self, entry: bytes) -> bytes:
        """Return the fields for a rank's entry of ``JobSpec.addresses``."""
        each = [] if entry.startswith(b"?") else entry.split(b",")
        fields = b'"address":' + self._quoted(each[0] if each else b"")
        if len(each) > 1:
            fields += b',"addresses":[%b]' % b",".join(map(self._quoted, each))
        return fields

    def started(self, ranks: Ranges) -> None:
        """See View. A rank that was lost may start once more: its incomplete line does not continue."""
        self._complete(ranks, is_of_this_job=False)
        self._each(b"started", ranks, b"")

    def responding(self, ranks: Ranges, responds: bool) -> None:
        """See View."""
        self._each(b"responding" if responds else b"not_responding", ranks, b"")

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        begun = self._begun.setdefault(stream, {})
        fresh = None
        for rank in sets.members(ranks):
            before = begun.get(rank)
            if before is None:
                if fresh is None:
                    fresh = self._parts(data)
                self._text(stream, rank, fresh[0], fresh[1])
                if fresh[1] < len(data):
                    begun[rank] = bytearray(data[fresh[1] :])
            elif len(before) + len(data) <= self._max and b"\n" not in data:
                before += data
            else:
                whole = bytes(before) + data
                parts, end = self._parts(whole)
                self._text(stream, rank, parts, end)
                del begun[rank]
                if end < len(whole):
                    begun[rank] = bytearray(whole[end:])

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """See View."""
        self._complete(ranks)
        for rank in sets.members(ranks):
            self._outcomes[rank] = outcome
        self._each(NAMES[outcome.kind].replace(" ", "_").encode(), ranks, self._details(outcome))

    def told(self, event: str, rank: int, fields: Mapping[str, object]) -> None:
        """Write an object of the command's own about one rank."""
        self._each(
            event.encode(),
            ((rank, rank + 1),),
            b"," + self._dumps(fields, separators=(",", ":"))[1:-1].encode(),
        )

    def finish(self) -> None:
        """See View."""
        left = [rank for rank, outcome in enumerate(self._outcomes) if outcome is None]
        if left:
            self.ended(sets.of(left), lost("gexec left before it ended"))
        outcomes = [outcome for outcome in self._outcomes if outcome is not None]
        counts = dict.fromkeys(NAMES, 0)
        for outcome in outcomes:
            counts[NAMES[outcome.kind]] += 1
        tally = b",".join([b'"%b":%d' % (n.replace(" ", "_").encode(), c) for n, c in counts.items()])
        succeeded = sum([outcome.ok for outcome in outcomes])
        status = self._status(outcomes) if self.status is None else self.status
        head = b'{"event":"end","exit_status":%d,"succeeded":%d' % (status, succeeded)
        self._write(head + b',"outcomes":{%b}}\n' % tally)

    def _complete(self, ranks: Ranges, is_of_this_job: bool = True) -> None:
        """Write the incomplete lines of these ranks; bytes of an earlier job do not count as taken now."""
        for stream, begun in self._begun.items():
            for rank in sets.members(ranks) if begun else ():
                last = begun.pop(rank, None)
                if last is not None:
                    self._text(stream, rank, [(0, self._tail(bytes(last), False))], len(last))
                    if not is_of_this_job:
                        self.writes.append((*self.writes.pop()[:2], None))

    # -- lines of output -----------------------------------------------------------------------

    def _parts(self, data: bytes) -> tuple[list[_Part], int]:
        """Split off what can be written: complete lines, and pieces of lines that are too long to keep."""
        parts: list[_Part] = []
        start = 0
        while True:
            newline = data.find(b"\n", start, start + self._max + 1)
            if newline >= 0:
                parts.append((start, self._tail(data[start:newline], True)))
                start = newline + 1
            elif len(data) - start > self._max:
                cut = _between_characters(data, start, start + self._max)
                parts.append((start, self._tail(data[start:cut], False)))
                start = cut
            else:
                return parts, start

    def _tail(self, piece: bytes, newline: bool) -> bytes:
        """Return the end of an object, from its content on."""
        end = b',"newline":true}\n' if newline else b',"newline":false}\n'
        if b"\0" not in piece:
            try:
                return b'"text":%b%b' % (self._dumps(piece.decode()).encode(), end)
            except UnicodeDecodeError:
                pass
        from binascii import b2a_base64

        return b'"base64":"%b"%b' % (b2a_base64(piece, newline=False), end)

    def _text(self, stream: int, rank: int, parts: Sequence[_Part], count: int) -> None:
        """Write these objects, which contain ``count`` bytes of the rank's stream."""
        if not parts:
            return
        offsets = self._offsets.get(stream)
        if offsets is None:
            offsets = self._offsets[stream] = [0] * len(self._who)
        base = offsets[rank]
        offsets[rank] = base + count
        name = b"stdout" if stream == STDOUT else b"stderr"
        head = b'{"event":"%b",%b,"offset":' % (name, self._who[rank])
        text = b"".join([b"%b%d,%b" % (head, base + offset, tail) for offset, tail in parts])
        self.writes.append((STDOUT, text, (stream, ((rank, rank + 1),), count)))

    # -- everything else -----------------------------------------------------------------------

    def _details(self, outcome: Outcome) -> bytes:
        details = b""
        if outcome.kind == EXITED:
            details = b',"status":%d' % outcome.value
        elif outcome.kind in (KILLED, TIMED_OUT):
            details = b',"signal":%d' % outcome.value
        if outcome.cut:
            details += b',"cut":true'
        if outcome.cut or outcome.kind not in (EXITED, KILLED):
            details += b',"reason":%b' % self._dumps(outcome.text).encode()
        return details

    def _each(self, event: bytes, ranks: Ranges, details: bytes) -> None:
        """Write the same object for each of these ranks."""
        step = max(1, _JOIN_BYTES // (len(details) + 64))
        for low, high in ranks:
            for start in range(low, high, step):
                who = self._who[start : min(high, start + step)]
                self._write(b"".join([b'{"event":"%b",%b%b}\n' % (event, one, details) for one in who]))

    def _quoted(self, text: bytes) -> bytes:
        return self._dumps(text.decode("utf-8", "backslashreplace")).encode()

    def _write(self, text: bytes) -> None:
        self.writes.append((STDOUT, text, None))


def _between_characters(data: bytes, start: int, cut: int) -> int:
    """Return ``cut``, or up to three bytes less if that would split a UTF-8 character."""
    for earlier in range(cut, max(start, cut - 4), -1):
        if data[earlier] & 0xC0 != 0x80:
            return earlier
    return cut
