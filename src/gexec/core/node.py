"""One node of one job's tree: its own process, its children, and its current parent.

    handle(event, now_s) -> effects          next_deadline_s() -> when to send Tick

A node collects its reports (core/outbox.py) and sends them up when the subtree is complete, when there are
enough, or after a delay of at least GATHER_S. A node without a parent sends nothing, keeps its process and
its unacknowledged output, and waits ORPHAN_GRACE_S for a parent with a higher epoch; then it ends its process
and its children. Source: docs/protocol.md, Life of a job.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from gexec import limits
from gexec.core import events
from gexec.core.child import asked_by_others
from gexec.core.deadlines import earlier
from gexec.core.flow import TOO_MUCH, Broadcast
from gexec.core.outbox import Outbox
from gexec.core.quiet import QuietRanks
from gexec.core.saving import Savable
from gexec.core.states import States, hold
from gexec.core.subtree import Subtree
from gexec.core.task import Task
from gexec.errors import ProtocolError
from gexec.wire import frames, jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import Ended, Frame, Output, RanksStarted, Ready, Start, StdinTaken
from gexec.wire.jobspec import JobSpec
from gexec.wire.outcome import Outcome

ATTACHED: Final = 0  #: it has a parent
ORPHANED: Final = 1  #: it waits for another one
CLOSING: Final = 2  #: the job is over here; its process may still run
FINISHED: Final = 3  #: nothing is left of the job

STATES: Final = States(
    "node",
    ("attached", "orphaned", "closing", "finished"),
    (
        (ATTACHED, "Start", ATTACHED),
        (ATTACHED, "parent lost, Release", ORPHANED),
        (ORPHANED, "Start", ATTACHED),
        (ATTACHED, "Close", CLOSING),
        (ORPHANED, "nobody came", CLOSING),
        (CLOSING, "Close", CLOSING),
        (CLOSING, "process ended", FINISHED),
    ),
)


class Node(Savable):
    """The machine for one (job, low) at one daemon.

    Args:
        job_id: 16 bytes.
        spec: the decoded ``start.blob``, whose credential the caller has verified.
        start: the Start that named this node.
        parent: the caller's number for the connection that it came from.
        orphan_grace_s: how long to wait for a new parent.
    """

    SAVED: ClassVar[str] = (
        "_decided _flush_at_s _maybe_asked _orphan_until_s _told_stdin epoch finished high parent state"
    )
    PARTS: ClassVar[str] = "_outbox _quiet _stdin _subtree _task"

    def __init__(
        self,
        *,
        job_id: bytes,
        spec: JobSpec,
        start: Start,
        parent: int,
        orphan_grace_s: float = limits.ORPHAN_GRACE_S,
    ) -> None:
        self.job_id = job_id
        self.low, self.high, self.epoch = start.low, start.high, start.epoch
        self.parent: int | None = parent
        self.state = ATTACHED
        #: This machine is not used any more: it has finished, or its daemon gives it up.
        self.finished = False
        self._spec = spec
        self._orphan_grace_s = orphan_grace_s
        self._orphan_until_s: float | None = None
        self._flush_at_s: float | None = None
        self._told_stdin = 0
        self._decided: dict[int, Ended] = {}
        # With epoch 1 no node can have asked this node's daemon before.
        self._maybe_asked = start.epoch != 1
        self._effects: list[events.Effect] = []
        self._emit: Callable[[events.Effect], None] = self._effects.append
        self._outbox = Outbox()
        self._quiet = QuietRanks(self._to_parent)
        self._stdin = None if spec.flags & (jobspec.NO_STDIN | jobspec.DETACHED) else Broadcast()
        self._task = Task(rank=self.low, spec=spec, emit=self._emit, outbox=self._outbox, stdin=self._stdin)
        self._subtree = Subtree(
            spec=spec,
            first=start.low + 1,
            high=start.high,
            credential=start.credential,
            blob=start.blob,
            epoch=start.epoch,
            emit=self._emit,
            decide=self._decide,
            stdin=self._stdin,
        )

    # -- driving --------------------------------------------------------------------------

    def release(self) -> None:
        """Drop the job's bytes; this machine is not used any more."""
        self._subtree.release()

    def begin(self, now_s: float, life: int = 0, age_s: float = 0.0) -> list[events.Effect]:
        """Ask the children first, so that they start meanwhile; for ``life`` and ``age_s`` see ``Task``."""
        if self.high - self.low > 1:
            self._to_parent(frames.Accepted(self.job_id))
        self._subtree.spread(now_s)
        self._task.begin(now_s, life, age_s)
        return self._leave(now_s)

    def handle(self, event: events.Event, now_s: float) -> list[events.Effect]:
        """Take one event; return what to do, in order.

        Raises:
            ProtocolError: the parent's frame is invalid; the caller closes its connection and reports
                ParentLost.
        """
        if isinstance(event, events.ParentFrame):
            self._heard_parent(event.parent, event.frame, now_s)
        elif isinstance(event, events.ChildFrame):
            self._heard_child(event.child, event.frame, now_s)
        elif isinstance(event, events.OutputRead):
            self._task.output(event.stream, event.data)
        elif isinstance(event, events.OutputClosed):
            self._task.output_closed(event.stream)
        elif isinstance(event, events.TaskStarted):
            self._task.started(now_s)
        elif isinstance(event, events.TaskEnded):
            outcome = event.outcome
            if outcome.kind == outcomes.DENIED and self._maybe_asked:
                # The denial may be because it already ran here, or because it was signed before this gexecd
                # started.
                outcome = outcomes.lost(outcome.text)
            self._task.process_ended(event, outcome, now_s)
        elif isinstance(event, events.TaskLeft):
            self._task.left(event.holders)
        elif isinstance(event, events.OutputDrained):
            self._task.drained(now_s)
        elif isinstance(event, events.TaskReady):
            self._task.ready()
        elif isinstance(event, events.Tick):
            self._tick(now_s)
        elif isinstance(event, events.StdinWritten):
            self._task.intake.wrote(event.count)
        elif isinstance(event, events.StdinBroken):
            self._task.intake.broken()
        elif isinstance(event, events.StdinMeasured):
            self._task.stdin_measured(event.unread, now_s)
        elif isinstance(event, events.ChildReached):
            self._subtree.held.reached(event.child)
        elif isinstance(event, events.ChildQuiet):
            self._quiet.child(self._subtree.children.get(event.child), event.quiet, now_s)
        elif isinstance(event, events.ChildLost):
            self._quiet.lost(self._subtree.children.get(event.child), now_s)
            self._subtree.lost(event.child, event.text, event.sent, now_s, event.silent, event.here)
        elif event.parent == self.parent:
            self._orphaned(now_s)
        return self._leave(now_s)

    def next_deadline_s(self) -> float | None:
        """Return when Tick is due at the latest, None if only events matter."""
        due_s = earlier(self._task.next_deadline_s(), self._subtree.next_deadline_s())
        return earlier(due_s, earlier(self._flush_at_s, self._orphan_until_s))

    def _leave(self, now_s: float) -> list[events.Effect]:
        """After every event: send the parent what is due; finish if everything is over."""
        self._tell_stdin()
        if self._outbox:
            if self.parent is None:
                self._outbox.clear()
            elif self._complete or self._outbox.size_bytes >= limits.GATHER_BYTES:
                self._flush()
            else:
                due_s = now_s + self._outbox.delay_s(self.high - self.low)
                if self._flush_at_s is None or due_s < self._flush_at_s:
                    self._flush_at_s = due_s
        if self.state == CLOSING and not self._task.runs:
            self._become("process ended")
            self.finished = True
            self._emit(events.CloseOutput())
            self._emit(events.Finish())
        effects, self._effects[:] = list(self._effects), []
        return effects

    @property
    def _complete(self) -> bool:
        return self._task.ended is not None and self._subtree.complete

    def _flush(self) -> None:
        self._flush_at_s = None
        for frame in self._outbox.take():
            self._to_parent(frame)

    def _to_parent(self, frame: Frame) -> None:
        if self.parent is not None:
            self._emit(events.ToParent(self.parent, frame))

    def _tick(self, now_s: float) -> None:
        if self._flush_at_s is not None and self._flush_at_s <= now_s:
            self._flush()
        self._task.tick(now_s)
        for ended in self._subtree.tick(now_s):
            self._outbox.ended(ended)
        if self._orphan_until_s is not None and self._orphan_until_s <= now_s:
            self._close("nobody came")

    # -- the parent -----------------------------------------------------------------------

    def _heard_parent(self, parent: int, frame: Frame, now_s: float) -> None:
        if isinstance(frame, Start):
            self._attach(parent, frame, now_s)
            return
        if parent != self.parent:
            return  # a former parent; it has got Refused
        if isinstance(frame, frames.Ack):
            self._acknowledged(frame)
        elif isinstance(frame, frames.Stdin):
            self._stdin_came(frame)
        elif isinstance(frame, frames.Close):
            self._close("Close")
        elif isinstance(frame, frames.Signal):
            self._task.signal(frame.signum)
            self._subtree.send(frame)
        elif isinstance(frame, frames.Kill):
            self._kill(frame)
        elif isinstance(frame, frames.Go):
            self._subtree.send(frame)
            self._task.run(now_s)
        elif isinstance(frame, frames.Resync):
            if self.state < CLOSING:  # with a higher epoch, a new parent of the parent sends stdin again
                self._resync(frame.epoch, frame.epoch > self.epoch, now_s)
        elif isinstance(frame, frames.Release):
            self._orphaned(now_s)
        else:
            raise ProtocolError(f"{type(frame).__name__} is not expected from a parent")

    def _attach(self, parent: int, start: Start, now_s: float) -> None:
        """A Start for a job that runs here already: a parent with a higher epoch takes this node."""
        if self.state >= CLOSING or start.epoch <= self.epoch:
            refused = frames.Refused(frames.REFUSED_UNKNOWN, "the job is being ended on this node")
            if self.state < CLOSING:
                text = f"the job has a parent with epoch {self.epoch}"
                refused = frames.Refused(frames.REFUSED_STALE, text, self.epoch)
            self._emit(events.ToParent(parent, refused))
            return
        if self.parent is not None and self.parent != parent:
            refused = frames.Refused(frames.REFUSED_STALE, "another parent has this node", start.epoch)
            self._to_parent(refused)
        # A new parent sends the stdin that processes here may need after its Start; a parent that asks again
        # on the same channel has already sent it.
        another = parent != self.parent
        self.parent = parent
        self._become("Start")
        self._orphan_until_s = None
        self.high = start.high
        self._resync(start.epoch, another, now_s)

    def _resync(self, epoch: int, stdin_anew: bool, now_s: float) -> None:
        # Frames sent before this answer are ignored by the parent; all of it is sent again after it.
        self._to_parent(frames.Accepted(self.job_id))
        self.epoch = max(self.epoch, epoch)
        if stdin_anew and self._stdin is not None:
            self._stdin.restart()
        self._told_stdin = 0
        self._quiet.again()
        self._outbox.clear()
        self._flush_at_s = None
        self._task.resend()
        for rank, ended in self._decided.items():
            if stdin_anew:  # there is another ancestor, and the former one may have asked the rank itself
                ended = self._decided[rank] = asked_by_others(ended)
            self._outbox.ended(ended)
        self._subtree.resync(epoch, self.high, self._decided, now_s)

    def _orphaned(self, now_s: float) -> None:
        self.parent = None
        self._subtree.active = False
        self._flush_at_s = None
        if self.state == ATTACHED:
            self._become("parent lost, Release")
            self._orphan_until_s = now_s + self._orphan_grace_s

    def _stdin_came(self, frame: frames.Stdin) -> None:
        if self._stdin is None:
            raise ProtocolError("stdin for a job without stdin")
        passed = self._stdin.resume(frame.offset, frame.data, frame.eof)
        if self._stdin.overfull:
            # Perhaps not this parent, but a captured relay above it has begun that: end only this job.
            self._to_parent(frames.Refused(frames.REFUSED_UNKNOWN, TOO_MUCH))
            self.parent, self._subtree.active, self._flush_at_s = None, False, None
            self._close("Close")
        elif passed is not None:
            self._subtree.send(frames.Stdin(*passed))
            self._task.stdin(*passed, self._stdin.differs_at)

    def _tell_stdin(self) -> None:
        taken = self._stdin.taken() if self._stdin is not None else 0
        if taken > self._told_stdin and self.parent is not None:
            self._told_stdin = taken
            self._to_parent(StdinTaken(taken))

    def _acknowledged(self, frame: frames.Ack) -> None:
        below = []
        for entry in frame.entries:
            rank, stream, offset = entry
            if rank == self.low:
                self._task.acknowledged(stream, offset)
            else:
                below.append(entry)
        self._subtree.acknowledge(below)

    def _kill(self, frame: frames.Kill) -> None:
        if not self._task.end_unstarted("the job was ended before this node's process started"):
            self._task.kill(frame.now)
        self._subtree.send(frame)

    def _become(self, cause: str) -> None:
        self.state = STATES.after(self.state, cause)

    def _close(self, cause: str) -> None:
        """The job is over for this node: end its process, close the children, finish."""
        self._become(cause)
        self._orphan_until_s = None
        self._subtree.close(frames.Close())
        # A process whose end was not reported yet was not released: its leftovers are ended too.
        self._task.kill(False)

    # -- the children ---------------------------------------------------------------------

    def _heard_child(self, child: int, frame: Frame, now_s: float) -> None:
        self._quiet.child(self._subtree.children.get(child), False, now_s)
        passed = self._subtree.heard(child, frame, now_s)
        self._quiet.passed(passed, now_s)
        if isinstance(passed, Output):
            self._outbox.output(passed)
        elif isinstance(passed, Ended):
            self._outbox.ended(passed)
        elif isinstance(passed, Ready):
            self._outbox.ready(passed.ranks)
        elif isinstance(passed, RanksStarted):
            self._outbox.started(passed.ranks)

    def _decide(self, rank: int, outcome: Outcome) -> None:
        self._quiet.decided(rank)
        ended = Ended(((rank, rank + 1),), outcome, frames.LENGTH_UNKNOWN, frames.LENGTH_UNKNOWN)
        self._decided[rank] = ended
        self._outbox.ended(ended)

    @property
    def retained_bytes(self) -> int:
        """Output of this node's process that is not acknowledged yet."""
        return self._task.retained_bytes

    # -- checks and diagnosis --------------------------------------------------------------

    def validate(self) -> None:
        """Check what must always hold after ``begin`` and ``handle``. Raises BrokenInvariantError."""
        who = f"node of rank {self.low} ({STATES.names[self.state]})"
        waits = self._orphan_until_s is not None
        hold(not self._effects, who, "all effects were handed out")
        hold(self.state != ATTACHED or self.parent is not None, who, "has a parent")
        hold(self.state != ORPHANED or self.parent is None, who, "has no parent")
        hold(waits == (self.state == ORPHANED), who, "waits for a parent while it has none")
        hold(self._subtree.active == (self.parent is not None), who, "repairs only what it can report")
        hold(self.parent is not None or not self._outbox, who, "collects nothing without a parent")
        told = not self._outbox or (self._flush_at_s is not None and not self._complete)
        hold(told, who, "collected reports are sent at once or have a deadline")
        hold(self.state < CLOSING or not self._subtree.children, who, "has closed its children")
        hold(self.state != FINISHED or not self._task.runs, who, "its process has ended")
        hold(all(self.low < rank for rank in self._decided), who, "decides only about ranks below")
        self._task.validate()
        self._subtree.validate()

    def story(self, rank: int) -> list[str]:
        """Return what this node knows about a rank, in a few lines; an empty list if it has no part in it."""
        if not self.low <= rank < self.high:
            return []
        parent = f"parent {self.parent}" if self.parent is not None else "no parent"
        told = [f"[{self.low}, {self.high}) epoch {self.epoch}, {STATES.names[self.state]}, {parent}"]
        if rank == self.low:
            told.append(self._task.story())
        if rank in self._decided:
            told.append(f"decided: {self._decided[rank].outcome.describe()}")
        return told + self._subtree.story(rank)
