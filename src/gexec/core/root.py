"""The root of one job's tree, on the client's side. It has no rank.

Every rank ends in exactly one outcome here, every byte passes here exactly once (core/ledger.py), and the
client gets Done when all have ended. When the client is gone, the job is ended. Source: docs/protocol.md,
Life of a job.
"""

from __future__ import annotations

from typing import ClassVar

from gexec import limits
from gexec.core import events
from gexec.core.flow import TOO_MUCH, Broadcast, life_begin
from gexec.core.ledger import Ledger
from gexec.core.outbox import portions
from gexec.core.patience import Patience
from gexec.core.quiet import QuietRanks
from gexec.core.saving import Savable
from gexec.core.states import hold
from gexec.core.subtree import Subtree
from gexec.errors import ProtocolError
from gexec.wire import frames, jobspec
from gexec.wire import outcome as outcomes
from gexec.wire import ranks as ranksets
from gexec.wire.frames import Ended, Frame, Output, RanksStarted, Ready, StdinTaken
from gexec.wire.jobspec import JobSpec
from gexec.wire.outcome import Outcome


class Root(Savable):
    """The machine for one job at the daemon to which the client submitted it.

    Args:
        job_id: 16 bytes.
        spec: the decoded ``blob``, whose credential the caller has verified.
        client: the caller's number for the client's connection (the ``parent`` of its events).
    """

    SAVED: ClassVar[str] = "_client _client_here _heard_of _told_stdin _unheard _went finished"
    PARTS: ClassVar[str] = "_patience _quiet _stdin _subtree ledger"

    def __init__(self, *, job_id: bytes, spec: JobSpec, credential: bytes, blob: bytes, client: int) -> None:
        self.job_id = job_id
        self.ledger = Ledger(spec.ranks)
        self.finished = False
        self._client = client
        self._client_here = True
        self._spec = spec
        self._effects: list[events.Effect] = []
        self._went = not spec.flags & jobspec.STRICT
        #: In a strict job: which ranks are ready or have ended, and how many are neither.
        self._heard_of = bytearray(0 if self._went else spec.ranks)
        self._unheard = len(self._heard_of)
        self._told_stdin = 0
        self._patience = Patience()
        self._quiet = QuietRanks(self._to_client)
        self._stdin = None if spec.flags & (jobspec.NO_STDIN | jobspec.DETACHED) else Broadcast()
        self._subtree = Subtree(
            spec=spec,
            first=0,
            high=spec.ranks,
            credential=credential,
            blob=blob,
            epoch=1,
            emit=self._effects_append,
            decide=self._decide,
            stdin=self._stdin,
        )
        self._subtree.topmost = True

    def _effects_append(self, effect: events.Effect) -> None:
        self._effects.append(effect)

    def release(self) -> None:
        """Drop the job's bytes; this machine is not used any more."""
        self._subtree.release()

    def begin(self, now_s: float) -> list[events.Effect]:
        """Accept the job and ask the first level of the tree."""
        self._to_client(frames.Accepted(self.job_id))
        self._subtree.spread(now_s)
        return self._leave()

    def handle(self, event: events.Event, now_s: float) -> list[events.Effect]:
        """Take one event; return what to do, in order. ProtocolError: the client's frame is invalid."""
        if isinstance(event, events.ChildFrame):
            self._heard_child(event.child, event.frame, now_s)
        elif isinstance(event, events.ParentFrame):
            self._heard_client(event.frame)
        elif isinstance(event, events.ChildReached):
            self._subtree.held.reached(event.child)
        elif isinstance(event, events.ChildQuiet):
            self._quiet.child(self._subtree.children.get(event.child), event.quiet, now_s)
        elif isinstance(event, events.ChildLost):
            self._quiet.lost(self._subtree.children.get(event.child), now_s)
            self._subtree.lost(event.child, event.text, event.sent, now_s, event.silent, event.here)
        elif isinstance(event, events.ParentLost):
            self._client_here = False
            self._close()
        elif isinstance(event, events.Tick):
            self._subtree.tick(now_s)
        else:
            raise ProtocolError(f"{type(event).__name__} is not an event of a root")
        return self._leave()

    def next_deadline_s(self) -> float | None:
        """Return when Tick is due at the latest, None if only events matter."""
        return self._subtree.next_deadline_s()

    def _leave(self) -> list[events.Effect]:
        if not self.finished:
            self._tell_stdin()
            self._decide_strict()
            if self.ledger.remaining == 0:
                self._to_client(frames.Done())
                self._close()
        effects, self._effects[:] = list(self._effects), []
        return effects

    def _to_client(self, frame: Frame) -> None:
        if self._client_here:
            self._effects.append(events.ToParent(self._client, frame))

    def _close(self) -> None:
        if not self.finished:
            self.finished = True
            self._subtree.close(frames.Close())
            self._effects.append(events.Finish())

    # -- the client -----------------------------------------------------------------------

    def _heard_client(self, frame: Frame) -> None:
        if isinstance(frame, frames.Ack):
            entries = []
            for rank, stream, offset in frame.entries:
                taken = self.ledger.acknowledge(rank, stream, offset) if rank < self._spec.ranks else None
                if taken is None:
                    raise ProtocolError(f"rank {rank} has not written {offset} bytes to stream {stream}")
                entries.append((rank, stream, taken))
            self._subtree.acknowledge(entries)
        elif isinstance(frame, frames.Stdin):
            if self._stdin is None:
                raise ProtocolError("stdin for a job without stdin")
            passed = self._stdin.append(frame.offset, frame.data, frame.eof)
            if self._stdin.overfull:
                raise ProtocolError(TOO_MUCH)
            if passed is not None:
                self._subtree.send(frames.Stdin(*passed))
        elif isinstance(frame, frames.Signal):
            self._subtree.send(frame)
        elif isinstance(frame, frames.Kill):
            self._subtree.send(frame)
            self._went = True  # ranks that wait end as not started
        elif isinstance(frame, frames.Close):
            self._client_here = False
            self._close()
        else:
            raise ProtocolError(f"{type(frame).__name__} is not expected from a client now")

    def _tell_stdin(self) -> None:
        if self._stdin is None:
            return
        taken = self._stdin.taken()
        if self._stdin.end < taken < Broadcast.ALL:
            taken = self._stdin.end  # a captured relay claims more than the client has sent
        if taken > self._told_stdin:
            self._told_stdin = taken
            self._to_client(StdinTaken(taken))

    # -- the tree -------------------------------------------------------------------------

    def _heard_child(self, child: int, frame: Frame, now_s: float) -> None:
        self._quiet.child(self._subtree.children.get(child), False, now_s)
        passed = self._subtree.heard(child, frame, now_s)
        self._quiet.passed(passed, now_s)
        if isinstance(passed, Output):
            self._output(passed, now_s)
        elif isinstance(passed, Ended):
            self._ended(passed, now_s)
        elif isinstance(passed, Ready):
            self._count_heard(passed.ranks)
        elif isinstance(passed, RanksStarted):
            fresh = self.ledger.start(passed.ranks)
            for part in portions(fresh):
                if part:
                    self._to_client(RanksStarted(part))

    def _output(self, frame: Output, now_s: float) -> None:
        self._give_up_overrun(frame)
        passed, doubled, gaps = self.ledger.output(frame)
        for new in passed:
            for part in portions(new.ranks):
                self._to_client(Output(part, new.stream, new.offset, new.data))
        if doubled:
            # It was sent again after a loss, so acknowledgements may have been lost with it.
            known = ((rank, frame.stream, self.ledger.acknowledged(rank, frame.stream)) for rank in doubled)
            self._subtree.acknowledge(entry for entry in known if entry[2])
        if gaps:
            self._request_again(gaps, now_s)

    def _request_again(self, ranks: list[int], now_s: float) -> None:
        """Request what is missing of these ranks, and give up those for which that happens too often."""
        asked = [rank for rank in ranks if self._patience.lasts(rank, now_s)]
        if asked:
            self._subtree.resend(asked)
        for rank in set(ranks).difference(asked):
            self._decide(rank, outcomes.lost("what its node reports does not fit together"))

    def _give_up_overrun(self, frame: Output) -> None:
        """Give up ranks whose node sends more than may be under way: this bounds the memory here."""
        room = self._spec.window + limits.READ_CHUNK_BYTES
        end = frame.offset + len(frame.data)
        begin = life_begin(frame.offset)
        if end <= begin + room:
            return
        for rank in ranksets.members(frame.ranks):
            if end > max(begin, self.ledger.acknowledged(rank, frame.stream)) + room:
                self._decide(rank, outcomes.lost("its node sent more output than the job's window"))

    def _ended(self, frame: Ended, now_s: float) -> None:
        gaps = self._end(frame)
        if gaps:
            self._request_again(gaps, now_s)

    def _end(self, frame: Ended) -> list[int]:
        """Pass on an end; return the ranks of which output is missing: none if it has no lengths."""
        ends, gaps = self.ledger.end(frame)
        for passed in ends:
            self._count_heard(passed.ranks)
            for part in portions(passed.ranks):
                self._to_client(Ended(part, passed.outcome, passed.stdout_length, passed.stderr_length))
        return gaps

    def _decide(self, rank: int, outcome: Outcome) -> None:
        self._quiet.decided(rank)
        unknown = frames.LENGTH_UNKNOWN
        self._end(Ended(((rank, rank + 1),), outcome, unknown, unknown))

    def _count_heard(self, ranges: ranksets.Ranges) -> None:
        if self._went:
            return
        for rank in ranksets.members(ranges):
            if not self._heard_of[rank]:
                self._heard_of[rank] = 1
                self._unheard -= 1

    def _decide_strict(self) -> None:
        """In a strict job: when every rank is ready or has ended, start all or none."""
        if self._went or self._unheard:
            return
        self._went = True
        ended = self._spec.ranks - self.ledger.remaining
        if not ended:
            self._subtree.send(frames.Go())
            return
        text = f"--strict: {ended} of {self._spec.ranks} nodes cannot start it"
        unknown = frames.LENGTH_UNKNOWN
        everyone = ((0, self._spec.ranks),)
        self._end(Ended(everyone, outcomes.not_started(text), unknown, unknown))

    # -- checks and diagnosis --------------------------------------------------------------

    def validate(self) -> None:
        """Check what must always hold after ``begin`` and ``handle``. Raises BrokenInvariantError."""
        who = "root"
        open_ranks = {rank for rank, outcome in enumerate(self.ledger.outcomes) if outcome is None}
        hold(not self._effects, who, "all effects were handed out")
        hold(self.ledger.remaining == len(open_ranks), who, "counts the ranks without an outcome")
        hold(self.finished or bool(open_ranks), who, "has finished once every rank has its outcome")
        if not self.finished:
            forgotten = sorted(open_ranks - self._subtree.held.open_ranks())
            hold(not forgotten, who, "a child owes each open rank, but not {}", forgotten[:8])
        hold(not (self.finished and self._subtree.children), who, "has closed its children")
        hold(self._went or self._unheard == self._heard_of.count(0), who, "counts who is not ready")
        self._subtree.validate()

    def story(self, rank: int) -> list[str]:
        """Return what the root knows about a rank, in a few lines."""
        outcome = self.ledger.outcomes[rank]
        told = outcome.describe() if outcome is not None else "no outcome"
        begun = "started" if self.ledger.started(rank) else "not known to have started"
        lengths = self.ledger.lengths(rank)
        return [f"{told}, {begun}, {lengths} bytes of stdout and stderr", *self._subtree.story(rank)]
