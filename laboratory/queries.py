"""Simulated processes of gexecctl's jobs: they read what a keeper wrote, as gexec.jobs.access does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gexec.jobs.segments import Gap
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import Outcome
from laboratory.keepers import STREAMS, KeptPlace
from laboratory.pipes import SimPipes
from laboratory.processes import Plan, ProcessRecord, SimProcess

if TYPE_CHECKING:
    from laboratory.daemons import SimDaemon

#: What can be asked: see docs/background.md.
QUERIES = ("attach", "wait", "output", "kill")
_FAR = 10**18
_LOST_STATUS = 255
_NOT_KEPT_STATUS = 1


class SimQuery(SimProcess):
    """One process of such a job.

    Attributes:
        place: what it reads; None if the rank is not kept on its node.
        pieces: (stream, offset, length) of what it has read, in order.
        gaps: (stream, gap).
        ends: how many bytes of each stream there were when it saw the end of the command.
    """

    def __init__(
        self,
        daemon: SimDaemon,
        task: int,
        plan: Plan,
        record: ProcessRecord,
        grace_s: float,
        pipes: SimPipes,
        place: KeptPlace | None,
    ) -> None:
        self.place = place
        self.pieces: list[tuple[int, int, int]] = []
        self.gaps: list[tuple[int, Gap]] = []
        self.ends = (0, 0)
        self._asked_to_kill = False
        self._positions = dict.fromkeys(STREAMS, 0)
        record.query = self
        super().__init__(daemon, task, plan, record, grace_s, pipes)

    @property
    def kind(self) -> str:
        """Which of QUERIES it is."""
        return self._plan.query

    @property
    def read(self) -> tuple[int, int]:
        """Where it is in stdout and stderr."""
        return self._positions[STDOUT], self._positions[STDERR]

    def _next(self) -> None:
        if not self.runs:
            return
        if self.place is None:
            self._after(0.001, self._end, outcomes.exited(_NOT_KEPT_STATUS))
            return
        keeper = self.place.keeper
        # Whether the command has ended is looked at before what it wrote: nothing comes behind that.
        over = bool(self.place.end) or keeper is None
        if self.kind in ("attach", "output") and self._read(self.place):
            self._after(0.001, self._write)
        elif self.kind == "output":
            self._after(0.001, self._end, outcomes.exited(0))
        elif self.kind == "kill":
            self._kill_it(self.place)
        elif over:
            self.ends = self.place.state().lengths
            self._after(0.001, self._end, as_process(self.place.state().outcome))
        elif keeper is not None:
            keeper.await_news(self.read if self.kind == "attach" else (_FAR, _FAR), self._again)

    def _again(self) -> None:
        self._after(0.001, self._next)

    def _read(self, place: KeptPlace) -> bool:
        """Read the next piece of a stream, to write it; False: nothing more is there now."""
        for stream in STREAMS:
            piece = place.read(stream, self._positions[stream])
            if isinstance(piece, Gap):
                self.gaps.append((stream, piece))
                self._positions[stream] = piece.end
                piece = place.read(stream, piece.end)
            if isinstance(piece, bytes):
                self.pieces.append((stream, self._positions[stream], len(piece)))
                self._positions[stream] += len(piece)
                self._writes.append((0.001, stream, piece))
                return True
        return False

    def _kill_it(self, place: KeptPlace) -> None:
        keeper = place.keeper
        if keeper is None:
            self._after(0.001, self._end, outcomes.exited(0))
            return
        if not self._asked_to_kill:
            self._asked_to_kill = True
            keeper.command.kill(False)
        self._after(0.1, self._next)


def as_process(outcome: Outcome | None) -> Outcome:
    """Return how a process ends that ends as a command did."""
    if outcome is not None and outcome.kind in (outcomes.EXITED, outcomes.KILLED):
        return Outcome(outcome.kind, outcome.value, "")
    return outcomes.exited(_LOST_STATUS)
