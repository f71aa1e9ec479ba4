"""The parent's side of one job at one node: its children, who owes which rank's outcome, repair.

A :class:`Subtree` dials all children at once. One that does not answer in time (the *hedge*) no
longer holds its range: what it was to pass on is taken over at once, while it is still awaited as
a leaf. One that is lost in mid-job is asked once more to attach; if it cannot, its own rank is
lost and its children are taken over with a higher epoch (docs/protocol.md, Start and Loss).

The split of a range depends on nothing but the range and the fan-out (core/tree.py), so what is
taken over are the very nodes and ranges that the lost one had made its children.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gexec import limits
from gexec.core import events, frames, tree
from gexec.core import outcome as outcomes
from gexec.core import ranks as ranksets
from gexec.core.flow import Broadcast
from gexec.core.frames import Ended, Frame, Output, Refused, Start, Started, Stdin
from gexec.core.outcome import Outcome


class Child:
    """One child: the range it was asked for and the ranks it still owes an outcome for."""

    __slots__ = (
        "answered",
        "asked_s",
        "attaching",
        "epoch",
        "high",
        "low",
        "number",
        "owes",
        "reason",
        "stale",
    )

    def __init__(self, number: int, low: int, high: int, owes: set[int], epoch: int, asked_s: float) -> None:
        self.number = number
        self.low = low
        self.high = high
        self.owes = owes
        self.epoch = epoch
        self.asked_s = asked_s
        self.answered = False
        #: Why it is asked to attach (never to run): it had the job, and was lost.
        self.attaching = False
        self.reason = ""
        self.stale = 0


class Subtree:
    """The children of one node (or the root) in one job.

    Args:
        credential, blob: forwarded unchanged with every Start.
        emit: takes each effect.
        decide: called with (rank, outcome) when an outcome is decided here, not by the rank's node.
        stdin: what children still need of it; None for a job without stdin.
    """

    def __init__(
        self,
        *,
        fanout: int,
        credential: bytes,
        blob: bytes,
        epoch: int,
        emit: Callable[[events.Effect], None],
        decide: Callable[[int, Outcome], None],
        stdin: Broadcast | None,
    ) -> None:
        self.epoch = epoch
        self.children: dict[int, Child] = {}
        self._fanout = fanout
        self._credential = credential
        self._blob = blob
        self._emit = emit
        self._decide = decide
        self._stdin = stdin
        self._numbers = 0
        self._retries: list[tuple[float, Child]] = []
        self._kill: frames.Kill | None = None
        self._went = False
        self._answers_s: list[float] = []
        self._inner = 0

    # -- asking ---------------------------------------------------------------------------

    def spread(self, ranges: Iterable[tuple[int, int]], now_s: float) -> None:
        """Open a child for each range."""
        for low, high in ranges:
            self._open(low, high, set(range(low, high)), now_s)

    def adopt(self, low: int, high: int, owed: set[int], now_s: float) -> None:
        """Take over the ranks of ``owed`` in [low, high), split as their lost parent had done it."""
        self.epoch += 1
        for start, end in tree.split(low, high, self._fanout):
            owes = owed.intersection(range(start, end))
            if owes:
                self._open(start, end, owes, now_s)

    def _open(self, low: int, high: int, owes: set[int], now_s: float, lost: Child | None = None) -> None:
        self._numbers += 1
        child = Child(self._numbers, low, high, owes, self.epoch, now_s)
        if lost is not None:
            child.attaching, child.reason, child.stale = True, lost.reason, lost.stale
        self.children[child.number] = child
        self._inner += high - low > 1
        self._ask(child)
        if self._stdin is not None:
            self._stdin.add(child.number)
            for offset, data in self._stdin.kept():
                self._emit(events.ToChild(child.number, Stdin(offset, data)))
            if self._stdin.eof:
                self._emit(events.ToChild(child.number, Stdin(self._stdin.end, b"", True)))
        if self._went:
            self._emit(events.ToChild(child.number, frames.Go()))
        if self._kill is not None:
            self._emit(events.ToChild(child.number, self._kill))

    def _ask(self, child: Child) -> None:
        # Once the job is being ended nothing new may start: whoever is still asked may only attach.
        attach_only = child.attaching or self._kill is not None
        start = Start(child.epoch, child.low, child.high, self._credential, self._blob, attach_only)
        self._emit(events.OpenChild(child.number, start))

    # -- what children say ----------------------------------------------------------------

    def heard(self, number: int, frame: Frame, now_s: float, allowed: bool = True) -> Frame | None:
        """Take a child's frame; return what of it is to be passed on.

        Args:
            allowed: this node may still claim its children (it has a parent, or is the root).
        """
        child = self.children.get(number)
        if child is None:
            return None
        if isinstance(frame, Refused):
            self._refused(child, frame, now_s, allowed)
            return None
        if not child.answered:
            child.answered = True
            if child.high - child.low > 1:
                self._answers_s.append(now_s - child.asked_s)
        if isinstance(frame, Output):
            return self._owed_output(child, frame)
        if isinstance(frame, Ended):
            ranges = self._owed(child, frame.ranks)
            child.owes.difference_update(ranksets.members(ranges))
            if not child.owes and self._stdin is not None:
                self._stdin.took(number, Broadcast.ALL)
            return Ended(ranges, frame.outcome, frame.stdout_length, frame.stderr_length) if ranges else None
        if isinstance(frame, Started):  # and Ready
            ranges = self._owed(child, frame.ranks)
            return type(frame)(ranges) if ranges else None
        if isinstance(frame, frames.StdinTaken) and self._stdin is not None:
            self._stdin.took(number, frame.offset)
        return None

    def _owed(self, child: Child, ranges: ranksets.Ranges) -> ranksets.Ranges:
        """Return those ranks that this child answers for (another may have taken some over)."""
        owes = child.owes
        if all(rank in owes for rank in ranksets.members(ranges)):
            return ranges
        return ranksets.of(rank for rank in ranksets.members(ranges) if rank in owes)

    def _owed_output(self, child: Child, frame: Output) -> Output | None:
        ranges = self._owed(child, frame.ranks)
        if ranges is frame.ranks:
            return frame
        return Output(ranges, frame.stream, frame.offset, frame.data) if ranges else None

    def _refused(self, child: Child, frame: Refused, now_s: float, allowed: bool) -> None:
        self._forget(child)
        if frame.code == frames.REFUSED_STALE:
            if not allowed:
                return
            child.stale += 1
            self.epoch = max(self.epoch, frame.epoch)
            if child.stale <= limits.STALE_RETRIES_MAX:
                self._retries.append((now_s + limits.STALE_RETRY_S, child))
                return
        self._settle(child, _refusal(child, frame), now_s)

    # -- loss -----------------------------------------------------------------------------

    def lost(self, number: int, text: str, sent: bool, now_s: float) -> None:
        """The connection to a child ended, or it could not be reached."""
        child = self.children.get(number)
        if child is None:
            return
        self._forget(child)
        if not child.owes:
            return
        if child.attaching:
            self._settle(child, outcomes.lost(child.reason), now_s)
        elif not sent:
            self._settle(child, outcomes.not_started(text), now_s)
        elif child.low in child.owes:
            # It may be only the connection. Ask it to attach; it answers, or refuses at once, or
            # the hedge takes its subtree over while it is awaited.
            child.reason = text
            self.epoch += 1
            self._open(child.low, child.high, child.owes, now_s, lost=child)
        else:
            self._settle(child, outcomes.lost(text), now_s)

    def _settle(self, child: Child, outcome: Outcome, now_s: float) -> None:
        """Give up the child itself and take over what it had below it."""
        owed = set(child.owes)
        if child.low in owed:
            owed.discard(child.low)
            self._decide(child.low, outcome)
        if owed:
            self.adopt(child.low + 1, child.high, owed, now_s)

    def _forget(self, child: Child) -> None:
        del self.children[child.number]
        self._emit(events.DropChild(child.number))
        if self._stdin is not None:
            self._stdin.remove(child.number)

    # -- time -----------------------------------------------------------------------------

    def _hedge_s(self) -> float:
        """Return how long an inner child may take: a few times what half of its siblings took."""
        if 2 * len(self._answers_s) < self._inner or not self._answers_s:
            return limits.HEDGE_MAX_S
        median = sorted(self._answers_s)[len(self._answers_s) // 2]
        return min(limits.HEDGE_MAX_S, max(limits.HEDGE_MIN_S, 4 * median))

    def next_deadline_s(self) -> float | None:
        """Return when ``tick`` has something to do, None if only events matter."""
        waiting = [child.asked_s for child in self.children.values() if self._holds(child)]
        deadlines = [due for due, _ in self._retries]
        if waiting:
            deadlines.append(min(waiting) + self._hedge_s())
        return min(deadlines, default=None)

    @staticmethod
    def _holds(child: Child) -> bool:
        return not child.answered and child.high - child.low > 1

    def tick(self, now_s: float) -> None:
        """Take over from children that hold their subtree too long; ask stale ones again."""
        if self._retries:
            due = [child for at, child in self._retries if at <= now_s]
            self._retries = [(at, child) for at, child in self._retries if at > now_s]
            for child in due:
                self.epoch += 1
                self._open(child.low, child.high, child.owes, now_s, lost=child if child.attaching else None)
        limit = now_s - self._hedge_s() + 1e-6
        for child in [c for c in self.children.values() if self._holds(c) and c.asked_s <= limit]:
            low, high, owed = child.low, child.high, child.owes
            child.high = low + 1
            child.owes = owed & {low}
            self._inner -= 1
            self.adopt(low + 1, high, owed - {low}, now_s)
            child.epoch = self.epoch
            if child.owes:
                self._ask(child)
            else:
                self._emit(events.ToChild(child.number, frames.Release()))
                self._forget(child)

    # -- downward -------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """True when no child owes an outcome."""
        return not self._retries and not any(child.owes for child in self.children.values())

    def send(self, frame: Frame) -> None:
        """Send a frame to every child; Kill and Go also reach those that are opened later."""
        if isinstance(frame, frames.Kill):
            self._kill = frame
        elif isinstance(frame, frames.Go):
            self._went = True
        for number in self.children:
            self._emit(events.ToChild(number, frame))

    def acknowledge(self, entries: Iterable[tuple[int, int, int]]) -> None:
        """Pass acknowledgements on to the children that hold their ranks."""
        entries = list(entries)
        if not entries:
            return
        for child in self.children.values():
            mine = tuple(entry for entry in entries if child.low <= entry[0] < child.high)
            if mine:
                self._emit(events.ToChild(child.number, frames.Ack(mine)))

    def resend(self, ranks: Iterable[int]) -> None:
        """Ask the children of these ranks to send again what is not acknowledged."""
        wanted = set(ranks)
        for child in self.children.values():
            if not wanted.isdisjoint(range(child.low, child.high)):
                self._resync(child)

    def resync(self, epoch: int, low: int, high: int, decided: Iterable[int], now_s: float) -> None:
        """A new parent has this node: have everything sent again, cover what nobody covers.

        Args:
            epoch: the new parent's.
            low, high: the range that this node answers for now.
            decided: ranks whose outcome was decided at this node.
        """
        self.epoch = max(self.epoch, epoch)
        uncovered = set(range(low + 1, high)).difference(decided)
        for child in list(self.children.values()):
            if child.low < low or child.high > high:
                self._emit(events.ToChild(child.number, frames.Release()))
                self._forget(child)
                continue
            uncovered.difference_update(range(child.low, child.high))
            if child.answered:
                self._resync(child)
        self._retries = [(at, child) for at, child in self._retries if child.high <= high]
        for _, child in self._retries:
            uncovered.difference_update(range(child.low, child.high))
        if uncovered:
            self.adopt(low + 1, high, uncovered, now_s)

    def _resync(self, child: Child) -> None:
        child.owes = set(range(child.low, child.high))
        child.epoch = max(child.epoch, self.epoch)
        self._emit(events.ToChild(child.number, frames.Resync(self.epoch)))

    def close(self, frame: Frame) -> None:
        """Send a last frame (Close, or Release) to every child and forget them all."""
        self._retries.clear()
        for child in list(self.children.values()):
            self._emit(events.ToChild(child.number, frame))
            self._forget(child)


def _refusal(child: Child, frame: Refused) -> Outcome:
    if frame.code == frames.REFUSED_DENIED:
        return outcomes.denied(frame.text)
    if frame.code == frames.REFUSED_BUSY and not child.attaching:
        return outcomes.not_started(frame.text)
    return outcomes.lost(child.reason or frame.text)
