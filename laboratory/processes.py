"""Simulated processes: they write known bytes, read stdin, end by themselves or by signals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gexec import limits
from gexec.relay.ports import ProcessEvent
from gexec.wire import messages
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import Outcome
from laboratory import moments
from laboratory.pipes import PIPE_BYTES, SimPipes

if TYPE_CHECKING:
    from laboratory.daemons import SimDaemon
    from laboratory.keepers import SimKeeper
    from laboratory.queries import SimQuery

SIGKILL = 9
SIGPIPE = 13
SIGTERM = 15


@dataclass
class Plan:
    """The behaviour of one rank's command, set before the simulation begins."""

    #: (pause before it, stream, bytes)
    writes: list[tuple[float, int, bytes]]
    status: int
    #: Bytes of stdin to read before it ends: None = to the end of file.
    reads: int | None = 0
    #: Why it cannot be started; None if it can.
    refusal: Outcome | None = None
    #: It ignores all signals except SIGKILL.
    stubborn: bool = False
    #: How long a leftover keeps its output open.
    leaves_s: float = 0.0
    #: How long it does something with each piece of stdin that it reads.
    pause_s: float = 0.002
    #: The leftover writes to it without end.
    chatters: bool = False
    #: After so many bytes of stdin it does nothing more: it is stopped; with ``hangs`` not even KILL ends it.
    stops_at: int | None = None
    hangs: bool = False
    #: It asks about the first job's rank on its node instead (laboratory.queries).
    query: str = ""


@dataclass
class ProcessRecord:
    """What really happened to one rank, independent of its daemon's reports."""

    starts: int = 0
    running: int = 0
    written: dict[int, bytearray] = field(default_factory=lambda: {STDOUT: bytearray(), STDERR: bytearray()})
    stdin: bytearray = field(default_factory=bytearray)
    stdin_eof: bool = False
    outcome: Outcome | None = None
    #: It is detached: its daemon has released it.
    forgotten: bool = False
    #: How many relays it has outlived.
    life: int = 0
    #: Lengths of stdout and stderr when the process ended: its own output.
    own: tuple[int, int] = (0, 0)
    #: The process that asked about a background job.
    query: SimQuery | None = None


class SimProcess:
    """One started process. Its actions are events of its machine, reports about it are events of its daemon.

    They are separate because a daemon may be stopped while its machine runs.
    """

    #: It goes on when its daemon dies.
    outlives = False

    def __init__(
        self,
        daemon: SimDaemon,
        task: int,
        plan: Plan,
        record: ProcessRecord,
        grace_s: float,
        pipes: SimPipes | SimKeeper,
    ) -> None:
        self.runs = True
        self._world = daemon.world
        self._daemon = daemon
        self._task = task
        self._plan = plan
        self.record = record
        self._grace_s = grace_s
        self._pipes = pipes
        self._writes = list(reversed(plan.writes))
        self._held_open = True
        self._blocked = False
        self._hungry = False
        self._asked = False
        self._reported_s = 0.0
        pipes.room, pipes.came = self._room, self._came
        record.starts += 1
        record.running += 1
        self._after(0.001, self._started)

    def _after(self, mean_s: float, call: Callable[..., None], *arguments: object) -> None:
        delay_s = self._world.rng.uniform(0.5, 1.5) * mean_s
        self._world.after(delay_s, self._daemon.machine, call, *arguments)

    def _report(self, event: ProcessEvent) -> None:
        """Send a report to the daemon, after the earlier reports."""
        at_s = max(self._reported_s, self._world.now_s + self._world.rng.uniform(0.0005, 0.0015))
        self._reported_s = at_s
        self._world.at(at_s, self._daemon.outlasting, self._daemon.processes.tell, self._task, event)

    def _started(self) -> None:
        self._report(messages.ProcessStarted(self._task, 1))
        self._next()

    # -- the command ------------------------------------------------------------------------

    def _next(self) -> None:
        if not self.runs:
            return
        if self._writes:
            pause_s, _, _ = self._writes[-1]
            self._after(pause_s, self._write)
        elif self._reads_on:
            self._read_stdin()
        else:
            self._after(0.001, self._end, outcomes.exited(self._plan.status))

    def _put(self, stream: int, data: bytes) -> int:
        count = self._pipes.put(stream, data)
        self.record.written[stream] += data[:count]
        return count

    def _write(self) -> None:
        if not self.runs:
            return
        pause_s, stream, data = self._writes[-1]
        count = self._put(stream, data)
        if count < len(data):
            self._writes[-1] = (pause_s, stream, data[count:])
            self._blocked = True
            return
        self._writes.pop()
        self._next()

    def _room(self) -> None:
        if self._blocked:
            self._blocked = False
            self._write()

    @property
    def _reads_on(self) -> bool:
        wanted = self._plan.reads
        read = len(self.record.stdin)
        return not self.record.stdin_eof and (wanted is None or read < wanted)

    def _read_stdin(self) -> None:
        if not self.runs or self._stopped:
            return
        count = self._world.rng.randrange(1, PIPE_BYTES)
        if self._plan.reads is not None:
            count = min(count, self._plan.reads - len(self.record.stdin))
        piece = self._pipes.take(count)
        self._hungry = piece is None
        if piece is None:
            return  # continues when more arrives
        self.record.stdin += piece
        self.record.stdin_eof = not piece
        self._after(self._plan.pause_s, self._next)

    @property
    def _stopped(self) -> bool:
        return self._plan.stops_at is not None and len(self.record.stdin) >= self._plan.stops_at

    def _came(self) -> None:
        if self._hungry:
            self._read_stdin()

    def _end(self, outcome: Outcome) -> None:
        if not self.runs or (self._plan.hangs and self._stopped):
            return
        self.die(outcome)
        self._daemon.cluster.moments.reached(moments.EXIT, self._daemon.index)
        leaves_s = 0.0 if self._asked else self._plan.leaves_s
        self._after(leaves_s + 0.001, self._let_go)
        if leaves_s and self._plan.chatters:
            self._chatter()
        self._report(messages.ProcessEnded(self._task, outcome, self._asked))
        if leaves_s > limits.LINGER_S:
            self._world.after(limits.LINGER_S, self._daemon.machine, self._left)

    def _chatter(self) -> None:
        """The leftover writes as long as it runs."""
        if self._held_open:
            self._put(STDOUT, bytes(5000))
            self._after(0.05, self._chatter)

    def _left(self) -> None:
        if self._held_open:
            self._report(messages.ProcessLeft(self._task, 1))

    def _let_go(self) -> None:
        self._held_open = False
        self._pipes.let_go()

    def die(self, outcome: Outcome) -> None:
        """End without a report (its daemon may be gone too)."""
        if self.runs:
            self.runs = False
            self._world.news = True
            self.record.running -= 1
            self.record.outcome = outcome
            self.record.own = len(self.record.written[STDOUT]), len(self.record.written[STDERR])
            self._pipes.close_reader()

    def break_pipe(self) -> None:
        """Nobody reads its output any more."""
        self._end(outcomes.killed(SIGPIPE))

    # -- signals --------------------------------------------------------------------------

    def signal(self, signum: int) -> None:
        """Send a signal to the process group; it also ends leftovers."""
        if not self.runs:
            self._after(0.001, self._let_go)
        if signum == SIGKILL or not self._plan.stubborn:
            self._after(0.001, self._end, outcomes.killed(signum))

    def kill(self, now: bool) -> None:
        """End it and its leftovers: SIGTERM and SIGKILL after the grace, or at once."""
        self._asked = True
        if not self.runs:
            self._after(0.001 if now else self._grace_s, self._let_go)
        elif now:
            self._after(0.001, self._end, outcomes.killed(SIGKILL))
        else:
            self.signal(SIGTERM)
            self._after(self._grace_s, self._end, outcomes.killed(SIGKILL))
