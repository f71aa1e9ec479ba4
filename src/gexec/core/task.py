"""This node's own process in one job: its output, its stdin, its end.

Part of the node machine (core/node.py). It keeps output until it is acknowledged end to end, stops reading
the process's output when the window is full, and reports the end only when the process has ended and both
streams are closed, so that nothing can follow the end.

Leftovers of the process may hold its output open. The task waits for them until the spawner reports them or a
deadline comes; then everything that is there is read first, and the outcome is marked *output cut*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from gexec import limits
from gexec.core import events
from gexec.core.deadlines import earlier
from gexec.core.flow import LIFE_BYTES, MISFIT, MISFIT_ACKS, Broadcast, RetainedStream
from gexec.core.intake import Intake
from gexec.core.outbox import Outbox
from gexec.core.saving import Savable, Saved
from gexec.core.stall import Stall
from gexec.core.states import States, hold
from gexec.wire import jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT, Ended, Output
from gexec.wire.jobspec import JobSpec
from gexec.wire.outcome import Outcome

#: Why the output of a process is not whole that has outlived its relay.
RELAY_DIED: Final = "the relay of its gexecd died meanwhile: what it had not delivered is lost"
WAITING: Final = 0  #: not requested; in a strict job it is being checked
READY: Final = 1  #: in a strict job: it can be started
STARTING: Final = 2  #: requested from the spawner
RUNNING: Final = 3
DRAINING: Final = 4  #: the process has ended, its output is still open
ENDED: Final = 5  #: the outcome is known and reported

STATES: Final = States(
    "task",
    ("waiting", "ready", "starting", "running", "draining", "ended"),
    (
        (WAITING, "could start", READY), (WAITING, "begin, Go", STARTING),
        (READY, "begin, Go", STARTING), (STARTING, "process runs", RUNNING),
        (RUNNING, "process ended", DRAINING), (DRAINING, "output closed or given up", ENDED),
        (RUNNING, "detached", ENDED), (WAITING, "cannot start", ENDED),
        (READY, "cannot start", ENDED), (STARTING, "cannot start", ENDED),
        (RUNNING, "process lost", ENDED), (STARTING, "given up", ENDED),
        (RUNNING, "given up", ENDED), (DRAINING, "given up", ENDED),
        (WAITING, "Kill", ENDED), (READY, "Kill", ENDED),
    ),
)  # fmt: skip


class Task(Savable):
    """State of one rank's process.

    ``emit`` takes effects, ``outbox`` takes reports, ``intake`` has the process's stdin.
    """

    SAVED: ClassVar[str] = (
        "_continues _deadline_s _holders _out_of_time _outcome _unread ended state was_started"
    )
    PARTS: ClassVar[str] = "_stall _streams intake"

    def __init__(
        self,
        *,
        rank: int,
        spec: JobSpec,
        emit: Callable[[events.Effect], None],
        outbox: Outbox,
        stdin: Broadcast | None,
    ) -> None:
        self.state = WAITING
        self.rank = rank
        self.ended: Ended | None = None
        self.was_started = False
        self._ranges = ((rank, rank + 1),)
        self._spec = spec
        self._emit = emit
        self._outbox = outbox
        self._stdin = stdin
        self._streams = {STDOUT: RetainedStream(spec.window), STDERR: RetainedStream(spec.window)}
        self._outcome: Outcome | None = None
        self._deadline_s: float | None = None
        self._out_of_time = False
        #: While draining: bytes not read yet that the process itself may have written.
        self._unread = {STDOUT: 0, STDERR: 0}
        #: Processes that hold the output after the process's end; 0: not known.
        self._holders = 0
        self.intake = Intake(stdin, emit)
        #: A relay before this one started it, and died.
        self._continues = False
        #: Of a job with ``stall_s``, once the process is requested.
        self._stall: Stall | None = None

    def restore(self, saved: Saved) -> None:
        """Continue with a state that ``save`` returned; its node restores what they share."""
        self._stall = None if saved["_stall"] is None else Stall(0.0, 0.0)
        super().restore(saved)

    # -- life -----------------------------------------------------------------------------

    def begin(self, now_s: float, life: int = 0, age_s: float = 0.0) -> None:
        """Start the process, or in a strict job only check whether it can be started.

        Args:
            life: how many relays of this node the process has outlived, up to ``limits.LIVES_MAX``: it runs
                already if that is not 0.
            age_s: how long it has run then.
        """
        if life:
            self._resume(life, age_s, now_s)
        elif self._spec.flags & jobspec.STRICT:
            self._emit(events.CheckTask())
        else:
            self.run(now_s)

    def run(self, now_s: float) -> None:
        """Start the process now (strict jobs: every node is ready)."""
        if self.state > READY:
            return
        self._become("begin, Go")
        self._emit(events.RunTask())
        if self._stdin is not None:
            if self._spec.stall_s:
                self._stall = Stall(self._spec.stall_s, now_s)
            for offset, data, eof in self._stdin.kept():
                self.stdin(offset, data, eof)

    def _resume(self, life: int, age_s: float, now_s: float) -> None:
        """Continue with a process that has all of its stdin, and whose relay died.

        What that relay had read and not delivered is lost, so the output can never be whole.
        """
        self._become("begin, Go")
        self._continues = True
        for stream in self._streams.values():
            stream.begin_at(life * LIFE_BYTES)
        if self._spec.stall_s and self._stdin is not None:
            self._stall = Stall(self._spec.stall_s, now_s)
            self.intake.eof = True
        self.intake.broken()
        self.started(now_s - age_s)

    def ready(self) -> None:
        """The spawner could start it."""
        if self.state == WAITING:
            self._become("could start")
            self._outbox.ready(self._ranges)

    def started(self, now_s: float) -> None:
        """The process runs."""
        if self.state != STARTING:
            return
        self._become("process runs")
        self.was_started = True
        self._outbox.started(self._ranges)
        if self.intake.missed:
            self._give_up(MISFIT)
        elif self._spec.flags & jobspec.DETACHED:
            self._emit(events.ForgetTask())
            self._report("detached", outcomes.exited(0))
        elif self._spec.timeout_s:
            self._deadline_s = now_s + self._spec.timeout_s

    def process_ended(self, event: events.TaskEnded, outcome: Outcome, now_s: float) -> None:
        """The process ended with this outcome, or could not be started.

        The end of a short process may be the only report of it: it implies the start.
        """
        if self.state == STARTING and outcome.kind in (outcomes.EXITED, outcomes.KILLED):
            self.started(now_s)
        if self.state >= DRAINING:
            return
        # A process that had ended by itself when its time was over is not timed out.
        if self._out_of_time and event.asked and outcome.kind in (outcomes.EXITED, outcomes.KILLED):
            signum = outcome.value if outcome.kind == outcomes.KILLED else 0
            outcome = outcomes.timed_out(signum, f"ran longer than {self._spec.timeout_s:g} s")
        self._outcome = outcome
        if outcome.kind in (outcomes.NOT_STARTED, outcomes.DENIED, outcomes.LOST):
            self._emit(events.CloseOutput())
            self._report("process lost" if self.state == RUNNING else "cannot start", outcome)
            return
        self._become("process ended")
        self._unread[STDOUT], self._unread[STDERR] = event.unread
        self.intake.broken()
        self._deadline_s = now_s + self._drain_s
        self._finish_if_drained()

    @property
    def _drain_s(self) -> float:
        # The spawner reports the leftovers, or ends them within the linger and the grace. After one more
        # second, a process that still holds the output does not belong to this job.
        return limits.LINGER_S + self._spec.kill_grace_s + 1.0

    def left(self, holders: int) -> None:
        """The process ended by itself, and ``holders`` others hold its output: read what is there."""
        if self.state == DRAINING:
            self._holders = holders
            self._emit(events.DrainOutput())

    def drained(self, now_s: float) -> None:
        """Everything that could be read was read: give up the streams that others hold, and report that."""
        if self.state != DRAINING:
            return
        held = [stream for stream, retained in self._streams.items() if not retained.closed]
        if any(self._unread[stream] for stream in held):
            self._deadline_s = now_s + self._drain_s  # the reader is slow
            return
        assert self._outcome is not None
        self._outcome = outcomes.output_cut(self._outcome, outcomes.held_by(self._holders))
        self._emit(events.CloseOutput())
        for stream in held:
            self._streams[stream].closed = True
        self._finish_if_drained()

    def tick(self, now_s: float) -> None:
        """Act on deadlines: the job's timeout, its progress, and the wait for those that hold the output."""
        if self._stall is not None and self.runs and self._stall.look(now_s):
            self._emit(events.MeasureStdin())
        if self._deadline_s is None or now_s < self._deadline_s:
            return
        self._deadline_s = None
        if self.state == RUNNING:
            self._out_of_time = True
            self._emit(events.KillTask(False))
        elif self.state == DRAINING:
            # Read first: a deadline must not decide about bytes that could have been read.
            self._emit(events.DrainOutput())

    def next_deadline_s(self) -> float | None:
        """Return when ``tick`` has something to do."""
        look_s = self._stall.look_s if self._stall is not None and self.runs else None
        return earlier(self._deadline_s, look_s)

    def _finish_if_drained(self) -> None:
        if self.state == DRAINING and self._streams[STDOUT].closed and self._streams[STDERR].closed:
            assert self._outcome is not None
            self._report("output closed or given up", self._outcome)

    def _become(self, cause: str) -> None:
        self.state = STATES.after(self.state, cause)

    def _report(self, cause: str, outcome: Outcome) -> None:
        self._become(cause)
        self._deadline_s = None
        if self._continues and outcome.kind in outcomes.ENDS:
            outcome = outcomes.output_cut(outcome, RELAY_DIED)
        self.ended = Ended(self._ranges, outcome, *self._lengths())
        self._outbox.ended(self.ended)
        self.intake.broken()

    def _lengths(self) -> tuple[int, int]:
        return self._streams[STDOUT].end, self._streams[STDERR].end

    def _give_up(self, text: str) -> None:
        """Report it as lost at once, and end it: its end may come late, or never."""
        self._emit(events.KillTask(True))
        self._emit(events.CloseOutput())
        self._emit(events.DropStdin())
        self._report("given up", outcomes.lost(text))

    def end_unstarted(self, text: str) -> bool:
        """Give up a process that was never requested; False if it was."""
        if self.state > READY:
            return False
        self._report("Kill", outcomes.not_started(text))
        return True

    @property
    def runs(self) -> bool:
        """True while this node's process may run, as far as the relay knows."""
        return self.state == STARTING or self.state == RUNNING

    def signal(self, signum: int) -> None:
        """Send a signal to the process; a signal that ends it also ends its leftovers."""
        if STARTING <= self.state <= DRAINING:
            if self._stall is not None:
                self._stall.signalled(signum)
            self._emit(events.SignalTask(signum))

    def kill(self, now: bool) -> None:
        """End the process, or its leftovers if it has already ended."""
        if STARTING <= self.state <= DRAINING:
            if self._stall is not None:
                self._stall.end_requested(self._spec.kill_grace_s)
            self._emit(events.KillTask(now))

    # -- output ---------------------------------------------------------------------------

    def output(self, stream: int, data: bytes) -> None:
        """The process wrote."""
        if self.state == ENDED:
            return
        retained = self._streams[stream]
        offset = retained.append(data)
        self._outbox.output(Output(self._ranges, stream, offset, data))
        self._unread[stream] = max(0, self._unread[stream] - len(data))
        if retained.full:
            self._emit(events.ReadOutput(stream, False))

    def output_closed(self, stream: int) -> None:
        """The process, and all others that share the stream, closed it."""
        self._streams[stream].closed = True
        self._finish_if_drained()

    def acknowledged(self, stream: int, offset: int) -> None:
        """The client has everything before ``offset``."""
        if not self.was_started:
            return  # for bytes that this node wrote before its gexecd restarted
        retained = self._streams[stream]
        was_full = retained.full
        if not retained.acknowledge(offset):
            if self.state != ENDED:  # the root finds out about an end that was reported
                self._give_up(MISFIT_ACKS)
        elif was_full and not retained.full and not retained.closed:
            self._emit(events.ReadOutput(stream, True))

    @property
    def retained_bytes(self) -> int:
        """Bytes of both streams that are kept until they are acknowledged."""
        return sum(stream.end - stream.base for stream in self._streams.values())

    def resend(self) -> None:
        """Report everything again that may have been lost."""
        if self.state == READY:
            self._outbox.ready(self._ranges)
        if self.was_started:
            self._outbox.started(self._ranges)
        for stream, retained in self._streams.items():
            for offset, data in retained.unacknowledged():
                self._outbox.output(Output(self._ranges, stream, offset, data))
        if self.ended is not None:
            self._outbox.ended(self.ended)

    # -- stdin ----------------------------------------------------------------------------

    def stdin(self, offset: int, data: bytes, eof: bool, differs_at: int = Broadcast.ALL) -> None:
        """Bytes of the broadcast (the machine keeps them until the process has taken them).

        They may overlap what the process was given: a new parent sends again what some process needs. If they
        contradict it, a captured relay above this node has sent something else before.
        """
        intake = self.intake
        if not STARTING <= self.state <= DRAINING or self._continues:
            return
        misfit = intake.contradicts(offset, data, eof, differs_at)
        if not misfit and self.runs:
            misfit = not intake.offer(offset, data, eof, self.state == STARTING)
        if misfit:
            self._give_up(MISFIT)

    def stdin_measured(self, unread: int, now_s: float) -> None:
        """``unread`` bytes are in the process's pipe: give it up if it has stood still for too long."""
        stall = self._stall
        if stall is None or not self.runs:
            return
        taken, waits = self.intake.taken(unread)
        # Whoever cannot write because the client does not read is not standing still.
        expected = (waits or self.intake.eof) and not any(stream.full for stream in self._streams.values())
        if stall.stands_still(taken + sum(self._lengths()), expected, now_s):
            # Its end may never be reported: a process whose storage hangs cannot be killed.
            self._give_up(stall.told(ended=not waits))

    # -- checks and diagnosis --------------------------------------------------------------

    def validate(self) -> None:
        """Check what must always hold. Raises BrokenInvariantError."""
        who = f"task of rank {self.rank} ({STATES.names[self.state]})"
        closed = self._streams[STDOUT].closed and self._streams[STDERR].closed
        hold((self.ended is not None) == (self.state == ENDED), who, "its end is reported once it has ended")
        hold(self.was_started or self.state not in (RUNNING, DRAINING), who, "what runs was started")
        hold(not self.was_started or self.state >= RUNNING, who, "what was started runs or has ended")
        hold(self.state != DRAINING or self._outcome is not None, who, "how it ended is known")
        hold(self.state != DRAINING or not closed, who, "it ends with its output")
        measured = self._stall is not None or self._stdin is None or not self._spec.stall_s
        hold(measured or not self.runs, who, "the progress of what is requested is measured")
        timed = self._deadline_s is None or self.state in (RUNNING, DRAINING)
        hold(timed, who, "only what runs or drains has a deadline")
        if self.ended is not None and self.ended.outcome.kind in outcomes.ENDS:
            detached = self._spec.flags & jobspec.DETACHED != 0
            hold(closed or detached, who, "nothing comes after its end")
            same = (self.ended.stdout_length, self.ended.stderr_length) == self._lengths()
            hold(detached or same, who, "its end has the lengths of its output")
        self._streams[STDOUT].validate(who)
        self._streams[STDERR].validate(who)

    def story(self) -> str:
        """Return what is known about the process, on one line."""
        told = [f"task {STATES.names[self.state]}"]
        told += [f"to end it at {self._deadline_s:.3f} s"] if self._deadline_s is not None else []
        told += [f"it {self._outcome.describe()}"] if self._outcome is not None else []
        told += [f"stdout {self._streams[STDOUT].story()}", f"stderr {self._streams[STDERR].story()}"]
        return "; ".join(told)
