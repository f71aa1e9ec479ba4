"""What the scenarios of faults have in common: seven nodes, a job on them, and what must come of it.

The tree of seven nodes with fan-out 2, by rank::

    node001 (root) ─┬─ 0 ─┬─ 1 ─── 2         a root's own rank 0 is on the same node
                    │     └─ 3
                    └─ 4 ─┬─ 5
                          └─ 6
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from laboratory.network.nodes import NetworkedNodes, until
from laboratory.network.numbered import NumberedJob

NODES = 7
FANOUT = 2
ALL = range(NODES)
#: Ranks by their place in the tree; the third one is below another inner node.
PLACES = {"leaf": 6, "inner": 4, "deep": 1, "root": 0}
#: So that a run of all takes minutes: as in production, but five times as fast.
SETTINGS: dict[str, float] = {"heartbeat_s": 0.6, "lost_after_s": 3.0, "orphan_grace_s": 4.0}
CONNECT_S = 1.0
#: Less than lost_after_s, and more than a pause that is not noticed.
SHORT_S = 1.6
#: Lines of a job that lasts a little longer than SHORT_S; of one that lasts until a silent node is lost.
LINES, LONG_LINES, _STEP_S = 50, 160, 0.05


@dataclass
class Trial:
    """What a scenario works with."""

    nodes: NetworkedNodes

    def job(self, lines: int = LINES, connect_s: float = CONNECT_S) -> NumberedJob:
        """Begin a job on all nodes, with this connect timeout."""
        return NumberedJob(self.nodes, lines, _STEP_S, _options(connect_s))

    def judged(self, job: NumberedJob, lost: Iterable[int] = (), maybe: Iterable[int] = ()) -> list[str]:
        """Wait for the end of a job, and return what is not as it must be (NumberedJob.findings)."""
        job.wait()
        return job.findings(lost, maybe, SETTINGS["orphan_grace_s"])

    def again(self, without: Iterable[int] = ()) -> list[str]:
        """Return what is wrong with a further job on all nodes but these."""
        names = [name for rank, name in enumerate(self.nodes.names) if rank not in set(without)]
        with NumberedJob(self.nodes, 3, 0.01, _options(CONNECT_S), names) as job:
            return [f"a further job: {finding}" for finding in self.judged(job)]


def _options(connect_s: float) -> list[str]:
    return ["-f", str(FANOUT), f"--connect-timeout={connect_s:g}"]


#: Runs a scenario, and returns its findings.
Run = Callable[[Trial], list[str]]


@dataclass(frozen=True)
class FaultScenario:
    """One scenario.

    Attributes:
        needs: of the machine (laboratory.network.matrix).
        last: the cluster cannot be used any more, after it.
    """

    name: str
    run: Run
    needs: tuple[str, ...] = ()
    last: bool = True


def let_pass(seconds: float) -> None:
    """Let a fault last."""
    until_s = time.monotonic() + seconds
    until(lambda: time.monotonic() >= until_s, seconds + 1.0)
