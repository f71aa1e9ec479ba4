"""The parent's side of one job at one node: its children, which child owes which outcome, repair.

A :class:`Subtree` dials all children at once. A child that does not answer in time (the *hedge*) no longer
holds its range: the ranks below it are taken over at once, while this node still waits for the child as a
leaf. A child that is lost during the job is asked once more to attach; if it cannot, its own rank is lost and
its children are taken over with a higher epoch (docs/protocol.md, Start and Loss).

The split of a range depends only on the range and the fan-out (core/tree.py), so a takeover asks exactly the
nodes and ranges that were the lost node's children. The ranges of the children never overlap: for every rank
below, either exactly one child owes the outcome, or the outcome is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import ClassVar, Final

from gexec import limits
from gexec.core import child as childstates
from gexec.core import events, tree
from gexec.core.child import Child, refusal, restored_children, saved_children
from gexec.core.children import Siblings
from gexec.core.deadlines import earlier
from gexec.core.flow import Broadcast
from gexec.core.saving import Savable, Saved
from gexec.core.taken import Taken
from gexec.wire import frames
from gexec.wire import outcome as outcomes
from gexec.wire import ranks as ranksets
from gexec.wire.frames import Ended, Frame, Output, Refused, Start, Stdin
from gexec.wire.jobspec import JobSpec
from gexec.wire.outcome import Outcome

#: A child that is lost more often than this, each time within LOST_AFTER_S of being asked, is given up.
LOSSES_MAX: Final = 3


class Subtree(Savable):
    """The children of one node (or the root) in one job.

    Args:
        first, high: the ranks below, [first, high).
        credential, blob: forwarded unchanged with every Start.
        epoch: the epoch that this node was given; 1 at the root.
        emit: called with each effect.
        decide: called with (rank, outcome) when an outcome is decided here, not by the rank's node.
        stdin: what children still need of it; None for a job without stdin.

    While ``active`` is false (the node has no parent) nothing is repaired or decided: another parent may have
    the children by now, and ``resync`` finds out what is left to do.
    """

    SAVED: ClassVar[str] = "_ended_once _high _kill _maybe_asked _numbers _went active"
    PARTS: ClassVar[str] = "_epochs"

    def __init__(
        self,
        *,
        spec: JobSpec,
        first: int,
        high: int,
        credential: bytes,
        blob: bytes,
        epoch: int,
        emit: Callable[[events.Effect], None],
        decide: Callable[[int, Outcome], None],
        stdin: Broadcast | None,
    ) -> None:
        self.held = Siblings()
        self.children = self.held.all
        self.active = True
        self.topmost = False  #: the root's: no node above it reports ranks that another parent has taken
        self._fanout = spec.fanout
        self._first = first
        self._high = high
        self._credential = credential
        self._blob = blob
        self._epochs = tree.Epochs(spec.ranks, spec.fanout, epoch, high - first)
        self._maybe_asked = epoch != 1  # with epoch 1 it is the very first Start for its ranks
        self._taken = Taken()
        self._emit = emit
        self._decide = decide
        self._stdin = stdin
        self._numbers = 0
        self._kill: frames.Kill | None = None
        self._went = False
        self._ended_once: set[int] = set()  #: reported through this node: they must never be started again

    def save(self) -> Saved:
        """Return its state, without the job's bytes."""
        children = saved_children([*self.children.values(), *self._taken.children()])
        others: Saved = {"children": children, "held": self.held.save(), "taken": self._taken.save()}
        return super().save() | others

    def restore(self, saved: Saved) -> None:
        """Continue with a state that ``save`` returned."""
        super().restore(saved)
        children = restored_children(saved["children"])
        self.held.restore(saved["held"], children)
        self._taken.restore(saved["taken"], children)

    def release(self) -> None:
        """Drop the job's bytes: the job is done, and holders of this machine do not need them."""
        self._credential = self._blob = b""

    # -- asking ---------------------------------------------------------------------------

    def spread(self, now_s: float) -> None:
        """Open the first children."""
        for low, high in tree.split(self._first, self._high, self._fanout):
            child = self._new(low, high, set(range(low, high)), 0, now_s)
            child.maybe_asked = self._maybe_asked
            self._open(child)

    def _new(self, low: int, high: int, owes: set[int], turn: int, now_s: float) -> Child:
        self._numbers += 1
        return Child(self._numbers, low, high, owes, turn, now_s)

    def _open(self, child: Child) -> None:
        self.held.add(child)
        child.attach_only |= child.low not in child.owes or child.low in self._ended_once
        self._ask(child)
        if self._stdin is not None:
            self._stdin.add(child.number)
            for offset, data, eof in self._stdin.kept():
                self._emit(events.ToChild(child.number, Stdin(offset, data, eof)))
        if self._went:
            self._emit(events.ToChild(child.number, frames.Go()))
        if self._kill is not None:
            self._emit(events.ToChild(child.number, self._kill))

    def _ask(self, child: Child) -> None:
        # Once the job is being ended nothing new may start: further children may only attach.
        only = child.attach_only or self._kill is not None
        epoch = self._epochs.of(child.turn)
        start = Start(epoch, child.low, child.high, self._credential, self._blob, only)
        self._emit(events.OpenChild(child.number, start, child.silent, only or bool(child.asked_before)))

    def _adopt(
        self,
        child: Child,
        high: int,
        owed: set[int],
        now_s: float,
        maybe_asked: bool,
        elder: Child | None = None,
    ) -> None:
        """Take over the ranks of ``owed`` below ``child``, split in the same way as the child splits them."""
        if self._epochs.is_last(child.turn):
            for rank in sorted(owed):
                self._decide(rank, outcomes.lost(f"rank {child.low}, on the way to it, was lost too often"))
            return
        for low, end in tree.split(child.low + 1, high, self._fanout):
            owes = owed.intersection(range(low, end))
            if owes:
                heir = self._new(low, end, owes, child.turn + 1, now_s)
                heir.maybe_asked, heir.elder = maybe_asked, elder
                self._open(heir)

    # -- frames from children --------------------------------------------------------------

    def heard(self, number: int, frame: Frame, now_s: float) -> Frame | None:
        """Handle a child's frame; return the part of it to pass on."""
        child = self.children.get(number)
        if child is None:
            return None
        if isinstance(frame, Refused):
            self._refused(child, frame, now_s)
            return None
        if not child.answered:
            self.held.answered(child, now_s)
            self._settle_unreached(child, reached=True)
        if isinstance(frame, frames.Accepted):
            if child.state == childstates.RESYNCING:
                child.become("Accepted")
        elif isinstance(frame, frames.StdinTaken):
            if self._stdin is not None:
                self._stdin.took(number, frame.offset)
        elif child.state == childstates.RESYNCING:
            return None
        elif isinstance(frame, Output):
            return child.owed_output(frame)
        elif isinstance(frame, Ended):
            ranges = child.owed(frame.ranks)
            child.owes.difference_update(ranksets.members(ranges))
            self._ended_once.update(ranksets.members(ranges))
            if not child.owes and self._stdin is not None:
                self._stdin.took(number, Broadcast.ALL)
            return Ended(ranges, frame.outcome, frame.stdout_length, frame.stderr_length) if ranges else None
        elif isinstance(frame, frames.OfRanks):
            return child.reported(frame)
        return None

    def _refused(self, child: Child, frame: Refused, now_s: float) -> None:
        self._forget(child)
        self._settle_unreached(child, reached=True)
        if self.active and frame.code == frames.REFUSED_STALE and not self.topmost:
            # A parent with a higher epoch is nearer to the root, or got its Start from a node that is: it
            # reports these ranks, and this node gets a new parent or is given up; or the child lies.
            self._taken.add(child, now_s)
        elif self.active:
            self._settle(child, refusal(child, frame, self._kill is not None), now_s)

    # -- loss -----------------------------------------------------------------------------

    def lost(
        self, number: int, text: str, sent: bool, now_s: float, silent: bool = False, here: bool = False
    ) -> None:
        """The connection to a child ended, or it could not be reached (``events.ChildLost``)."""
        child = self.children.get(number)
        if child is None:
            return
        answered = child.answered
        self._forget(child)
        if self.active and not sent and not child.again:
            self._never_reached(child, text, now_s)
            return
        self._settle_unreached(child, reached=True)
        if not self.active:
            return
        soon = now_s - child.asked_s < limits.LOST_AFTER_S
        losses = child.losses if here else child.losses + 1 if soon else 1
        # Whoever takes the Start and then ends the link may be upgraded, or get another relay, just now.
        failed = bool(child.again) and not answered and not here and (silent or not sent)
        if failed or losses > LOSSES_MAX or self._epochs.is_last(child.turn):
            self._settle(child, outcomes.lost(child.again or text), now_s)
            return
        # Perhaps only the connection is lost. Ask the child again: it answers, refuses at once, or the hedge
        # takes over its subtree. A child that never answered may start the job now: it starts no rank twice.
        anew = self._new(child.low, child.high, child.owes, child.turn + 1, now_s)
        anew.again, anew.silent = text or "the connection ended", silent
        anew.losses = losses
        anew.attach_only = child.attach_only or answered
        anew.maybe_asked = True
        self._open(anew)

    def _never_reached(self, child: Child, text: str, now_s: float) -> None:
        """A child could not be reached at the first try; whether other nodes started it may be unknown."""
        asked = child.asked_before
        elder = child.elder
        if asked is None and elder is not None:
            elder.unreached += child.unreached
            if child.low in child.owes:
                elder.unreached.append((child.low, text))
            for heir in self.children.values():
                if heir.elder is child:
                    heir.elder = elder
            self._adopt(child, child.high, child.owes - {child.low}, now_s, True, elder)
            return
        asked = bool(asked)
        self._settle_unreached(child, reached=asked)
        outcome = outcomes.lost(text) if asked else outcomes.unreachable(text)
        self._settle(child, outcome, now_s, maybe_asked=asked)

    def _settle_unreached(self, elder: Child, reached: bool) -> None:
        """Decide what depended on whether this child was reached, and so may have asked others."""
        if elder.reached is not None:
            return
        elder.reached = reached
        for rank, text in elder.unreached if self.active else ():
            self._decide(rank, outcomes.lost(text) if reached else outcomes.unreachable(text))
        elder.unreached.clear()

    def _settle(self, child: Child, outcome: Outcome, now_s: float, maybe_asked: bool = True) -> None:
        """Give up the child itself and take over the ranks below it."""
        owed = set(child.owes)
        if child.low in owed:
            owed.discard(child.low)
            self._decide(child.low, outcome)
        self._adopt(child, child.high, owed, now_s, maybe_asked)

    def _forget(self, child: Child) -> None:
        self.held.remove(child)
        self._emit(events.DropChild(child.number))
        if self._stdin is not None:
            self._stdin.remove(child.number)

    # -- time -----------------------------------------------------------------------------

    def next_deadline_s(self) -> float | None:
        """Return when ``tick`` has something to do, None if only events matter."""
        return earlier(self.held.next_deadline_s(), self._taken.next_deadline_s()) if self.active else None

    def tick(self, now_s: float) -> list[Ended]:
        """Take over from children that hold their subtree too long; return the ends of ranks given up."""
        if not self.active:
            return []
        for child in self.held.take_overdue(now_s):
            if not self._epochs.is_last(child.turn):
                self._hedge(child, now_s)
        given_up = self._taken.take_overdue(now_s)
        self._ended_once.update(rank for ended in given_up for rank in ranksets.members(ended.ranks))
        return given_up

    def _hedge(self, child: Child, now_s: float) -> None:
        """Take over the ranks below this child, and wait for it as a leaf."""
        high, owed = child.high, child.owes - {child.low}
        self.held.narrow(child)
        # If no other node can have asked the child, its children's outcomes depend on whether it is reached.
        if child.again or child.attach_only or child.asked_before or not child.owes:
            self._settle_unreached(child, reached=True)
        self._adopt(child, high, owed, now_s, True, child)
        child.turn += 1
        if child.owes:
            self._ask(child)
        else:
            self._emit(events.ToChild(child.number, frames.Release()))
            self._forget(child)

    # -- downward -------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """True when no child owes an outcome."""
        return not any(child.owes or child.unreached for child in self.children.values())

    def send(self, frame: Frame) -> None:
        """Send a frame to every child; Kill and Go are also sent to children that are opened later."""
        if isinstance(frame, frames.Kill):
            self._kill = frame
        elif isinstance(frame, frames.Go):
            self._went = True
        for number in self.children:
            self._emit(events.ToChild(number, frame))

    def acknowledge(self, entries: Iterable[tuple[int, int, int]]) -> None:
        """Pass acknowledgements on to the children that hold their ranks."""
        for number, ack in self.held.routed(entries):
            self._emit(events.ToChild(number, ack))

    def resend(self, ranks: Collection[int]) -> None:
        """Ask the children of these ranks to send again what is not acknowledged."""
        wanted = set(ranks)
        for child in self.children.values():
            if child.state != childstates.RESYNCING and not wanted.isdisjoint(range(child.low, child.high)):
                self._resync(child)

    def resync(self, epoch: int, high: int, decided: Iterable[int], now_s: float) -> None:
        """This node has a new parent: request everything again, and ask for ranks that no child covers.

        Args:
            epoch: what this node was given; its children get new epochs if it is higher.
            high: where this node's range now ends.
            decided: ranks whose outcome was decided at this node.
        """
        higher = self._epochs.renew(epoch, high - self._first)
        self._high = high
        self.active = True
        covered, turn = self._taken.resync(higher), self._epochs.fresh()
        for child in list(self.children.values()):
            if child.high > high:
                self._emit(events.ToChild(child.number, frames.Release()))
                self._forget(child)
                continue
            covered.update(range(child.low, child.high))
            # Its earlier reports may have been lost on the way up.
            child.owes.update(range(child.low, child.high))
            if higher:
                child.turn = 0
                child.maybe_asked, child.elder, child.reached = True, None, True
                child.unreached.clear()
            if child.answered:
                self._resync(child)
            elif higher:
                # On a new channel, so that it gets its stdin after the Start, like any other child.
                self._forget(child)
                anew = self._new(child.low, child.high, child.owes, 0, now_s)
                anew.again, anew.silent = child.again, child.silent
                anew.attach_only, anew.maybe_asked = child.attach_only, True
                self._open(anew)
        # With the same epoch, these have ended and their nodes were lost; perhaps their reports, too.
        uncovered = set(range(self._first, high)).difference(decided, covered)
        for low, end, owes in tree.cover(self._first, high, self._fanout, uncovered, covered):
            child = self._new(low, end, owes, turn, now_s)
            child.maybe_asked = True
            self._open(child)

    def _resync(self, child: Child) -> None:
        child.owes = set(range(child.low, child.high))
        child.become("Resync sent")
        self._emit(events.ToChild(child.number, frames.Resync(self._epochs.of(child.turn))))

    def close(self, frame: Frame) -> None:
        """Send a last frame (Close, or Release) to every child, and forget them all."""
        hurry = not self.complete  # the job is over here: nobody takes its stdin any more
        self._taken.clear()
        for child in self.held.clear():
            self._emit(events.ToChild(child.number, frame, hurry))
            self._emit(events.DropChild(child.number))

    # -- the books ------------------------------------------------------------------------

    def validate(self) -> None:
        """Check what must always hold of the children. Raises BrokenInvariantError."""
        self.held.validate(self._first, self._high, self._stdin)

    def story(self, rank: int) -> list[str]:
        """Return what is known about a rank below, in a few lines."""
        told = [f"rank {rank} has ended here once"] if rank in self._ended_once else []
        return told + self.held.story(rank)
