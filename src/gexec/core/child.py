"""One child in a node's subtree, as core/subtree.py keeps it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final

from gexec.core.saving import Savable, Saved
from gexec.core.states import States, hold
from gexec.wire import frames
from gexec.wire import outcome as outcomes
from gexec.wire import ranks as ranksets
from gexec.wire.frames import Ended, NotResponding, OfRanks, Output, Refused, Responding
from gexec.wire.outcome import Outcome
from gexec.wire.ranks import Ranges

ASKED: Final = 0  #: its Start was sent, or waits for the connection
REACHED: Final = 1  #: its machine has answered, so it is loaded rather than dead
OVERDUE: Final = 2  #: it did not answer in time: the ranks below it are taken over
ANSWERED: Final = 3  #: it has sent a frame since it was asked
RESYNCING: Final = 4  #: asked to send everything again: frames before its Accepted are ignored
GONE: Final = 5  #: not a child any more

STATES: Final = States(
    "child",
    ("asked", "reached", "overdue", "answered", "resyncing", "gone"),
    (
        (ASKED, "machine answers", REACHED),
        (ASKED, "too slow", OVERDUE),
        (REACHED, "too slow", OVERDUE),
        (ASKED, "any frame", ANSWERED),
        (REACHED, "any frame", ANSWERED),
        (OVERDUE, "any frame", ANSWERED),
        (ANSWERED, "Resync sent", RESYNCING),
        (RESYNCING, "Resync sent", RESYNCING),
        (RESYNCING, "Accepted", ANSWERED),
        (ASKED, "forgotten", GONE),
        (REACHED, "forgotten", GONE),
        (OVERDUE, "forgotten", GONE),
        (ANSWERED, "forgotten", GONE),
        (RESYNCING, "forgotten", GONE),
    ),
)


class Child(Savable):
    """One child: the range it was asked for and the ranks it still owes an outcome for.

    Attributes:
        state: one of STATES; changed by ``become`` only.
        turn: which of this node's turns the child's epoch is (core/tree.py, turns).
        attach_only: it was asked to attach, never to run.
        again: why it was lost before it was asked once more; empty the first time.
        silent: it was lost because it was silent.
        losses: how often it was lost in short succession.
        maybe_asked: another node may have started its ranks; with an ``elder``, only if the elder was ever
            reached.
        elder: the slow child whose ranks these were when it did not answer in time.
        reached: whether it was ever reached, and so may have asked the nodes below; None: not known yet.
        unreached: (rank, reason) of ranks that could not be reached and whose outcome depends on this elder:
            *not started* if no node can have started the rank, else *lost*.
    """

    __slots__ = (
        "again", "asked_s", "attach_only", "elder", "high", "losses", "low", "maybe_asked", "number", "owes",
        "reached", "silent", "state", "turn", "unreached",
    )  # fmt: skip
    #: All but ``elder``, which is another child.
    SAVED: ClassVar[str] = (
        "again asked_s attach_only high losses low maybe_asked number owes "
        "reached silent state turn unreached"
    )

    def __init__(self, number: int, low: int, high: int, owes: set[int], turn: int, asked_s: float) -> None:
        self.number = number
        self.low = low
        self.high = high
        self.owes = owes
        self.turn = turn
        self.asked_s = asked_s
        self.state = ASKED
        self.attach_only = False
        self.again = ""
        self.silent = False
        self.losses = 0
        self.maybe_asked = False
        self.elder: Child | None = None
        self.reached: bool | None = None
        self.unreached: list[tuple[int, str]] = []

    def become(self, cause: str) -> None:
        """Change the state according to STATES."""
        self.state = STATES.after(self.state, cause)

    @property
    def answered(self) -> bool:
        """True if it has sent a frame since it was asked."""
        return self.state == ANSWERED or self.state == RESYNCING

    @property
    def inner(self) -> bool:
        """True if it has ranks below it."""
        return self.high - self.low > 1

    @property
    def asked_before(self) -> bool | None:
        """Whether another node may have started its ranks; None while that is not known."""
        if self.elder is None:
            return self.maybe_asked
        return self.elder.reached

    def owed(self, ranges: Ranges) -> Ranges:
        """Return the ranks that this child owes (another child may have taken over some)."""
        owes = self.owes
        if ranges and (ranges[0][0] < self.low or ranges[-1][1] > self.high):
            # Forged, or sent before the hedge: the ranges may be too large to visit every rank.
            ranges = ranksets.intersection(ranges, ((self.low, self.high),))
        if all(map(owes.__contains__, ranksets.members(ranges))):
            return ranges
        return ranksets.of([rank for rank in ranksets.members(ranges) if rank in owes])

    def reported(self, frame: OfRanks) -> OfRanks | None:
        """Return the part of a report that this child may send: of ranks that it owes.

        That nodes do not respond it may also say of ranks that have ended.
        """
        if isinstance(frame, NotResponding | Responding):
            ranges = ranksets.intersection(frame.ranks, ((self.low, self.high),))
        else:
            ranges = self.owed(frame.ranks)
        return type(frame)(ranges) if ranges else None

    def owed_output(self, frame: Output) -> Output | None:
        """Return the output of the ranks that this child owes."""
        ranges = self.owed(frame.ranks)
        if ranges is frame.ranks:
            return frame
        return Output(ranges, frame.stream, frame.offset, frame.data) if ranges else None

    def validate(self) -> None:
        """Check what must always hold of a child that is not gone."""
        who = f"child {self.number}"
        hold(self.low < self.high, who, "[{}, {}) is a range", self.low, self.high)
        hold(self.owes.issubset(range(self.low, self.high)), who, "owes nothing beyond its range")
        hold(self.state != GONE, who, "a child in use is not gone")
        hold(not (self.unreached and self.reached is not None), who, "outcomes wait only while it is unknown")
        hold(bool(self.again) or not self.losses, who, "whoever was lost is asked again")

    def story(self, rank: int) -> str:
        """Return what is known about a rank of its range, on one line."""
        told = [f"child {self.number} [{self.low}, {self.high}) turn {self.turn}", STATES.names[self.state]]
        told.append("owes it" if rank in self.owes else "owes it no more")
        told += ["may only attach"] if self.attach_only else []
        told += [f"asked again: {self.again}"] if self.again else []
        told += [f"waits for child {self.elder.number}"] if self.elder is not None else []
        told += [f"not reached: {text}" for unreached, text in self.unreached if unreached == rank]
        return ", ".join(told)


def saved_children(children: Iterable[Child]) -> list[Saved]:
    """Return the state of these children, and of the elders on which their outcomes depend."""
    known: dict[int, Child] = {}
    waiting = list(children)
    while waiting:
        child = waiting.pop(0)
        if child.number not in known:
            known[child.number] = child
            waiting += [child.elder] if child.elder is not None else []
    return [
        child.save() | {"elder": child.elder.number if child.elder is not None else None}
        for child in known.values()
    ]


def restored_children(saved: list[Any]) -> dict[int, Child]:
    """Return these children and elders, by their numbers."""
    children: dict[int, Child] = {}
    for each in saved:
        child = Child(each["number"], each["low"], each["high"], each["owes"], each["turn"], each["asked_s"])
        child.restore(each)
        children[child.number] = child
    for each in saved:
        if each["elder"] is not None:
            children[each["number"]].elder = children[each["elder"]]
    return children


def refusal(child: Child, frame: Refused, ending: bool) -> Outcome:
    """Return the outcome of the own rank of a child that refused; ``ending``: the job is being ended."""
    if child.again or child.asked_before is not False:
        unasked = ending and frame.code == frames.REFUSED_UNKNOWN
        text = "the job was ended before this node could be asked" if unasked else frame.text
        return outcomes.lost(child.again or text)
    if frame.code == frames.REFUSED_DENIED:
        return outcomes.denied(frame.text)
    if frame.code == frames.REFUSED_UNKNOWN and ending:
        return outcomes.not_started("the job was ended before this node's process started")
    if frame.code == frames.REFUSED_BUSY:
        return outcomes.not_started(frame.text)
    return outcomes.lost(frame.text)


def asked_by_others(ended: Ended) -> Ended:
    """Return the end of a rank as it is true even if others may have started it meanwhile: *lost*."""
    if ended.outcome.kind != outcomes.NOT_STARTED:
        return ended
    return Ended(ended.ranks, outcomes.lost(ended.outcome.text), ended.stdout_length, ended.stderr_length)
