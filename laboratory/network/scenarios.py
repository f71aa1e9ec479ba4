"""The faults of real daemons, one after another: what happens to which process, and what must come of it.

The tree of seven nodes with fan-out 2, by rank::

    node001 (root) ─┬─ 0 ─┬─ 1 ─── 2         a root's own rank 0 is on the same node
                    │     └─ 3
                    └─ 4 ─┬─ 5
                          └─ 6
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from laboratory.network.groups import Group
from laboratory.network.nodes import NetworkedNodes, until
from laboratory.network.numbered import NumberedJob

NODES = 7
FANOUT = 2
ALL = range(NODES)
#: Ranks by their place in the tree; the third one is below another inner node.
PLACES = {"leaf": 6, "inner": 4, "deep": 1, "root": 0}
#: So that a run of all takes minutes: as in production, but five times as fast.
SETTINGS = {"heartbeat_s": 0.6, "lost_after_s": 3.0, "orphan_grace_s": 4.0, "drain_s": 1.0}
_CONNECT = "--connect-timeout=1"
#: Less than lost_after_s, and more than a pause that is not noticed.
SHORT_S = 1.6
#: Lines of a job that lasts a little longer than SHORT_S; of one that lasts until a silent node is lost.
_LINES, _LONG, _STEP_S = 60, 240, 0.05


@dataclass
class Trial:
    """What a scenario works with."""

    nodes: NetworkedNodes
    seed: int = 0

    def job(self, lines: int = _LINES, words: Sequence[str] = (), step_s: float = _STEP_S) -> NumberedJob:
        """Begin a job on all nodes."""
        return NumberedJob(self.nodes, lines, step_s, ["-f", str(FANOUT), _CONNECT, *words])

    def judged(
        self, job: NumberedJob, lost: Iterable[int] = (), maybe: Iterable[int] = (), wait: bool = True
    ) -> list[str]:
        """Wait for the end of a job, and return what is not as it must be."""
        if wait:
            job.wait()
        return job.findings(lost, maybe, SETTINGS["orphan_grace_s"])

    def again(self, without: Iterable[int] = ()) -> list[str]:
        """Return what is wrong with a further job on all nodes but these."""
        names = [name for rank, name in enumerate(self.nodes.names) if rank not in set(without)]
        with NumberedJob(self.nodes, 3, 0.01, ["-f", str(FANOUT), _CONNECT], names) as job:
            return [f"a further job: {finding}" for finding in self.judged(job)]


#: Runs a scenario, and returns its findings.
Run = Callable[[Trial], list[str]]


@dataclass(frozen=True)
class FaultScenario:
    """One scenario.

    Attributes:
        quick: it is among those that the test suite runs.
        needs: kinds of control groups.
        last: the cluster cannot be used any more, after it.
    """

    name: str
    run: Run
    quick: bool = True
    needs: tuple[str, ...] = ()
    last: bool = True


# -- kill -9 --------------------------------------------------------------------------------------


def _killed(place: str, role: str) -> Run:
    """A role of a node is killed while all stream. On the node of the client, that ends the job."""
    rank = PLACES[place]

    def run(trial: Trial) -> list[str]:
        lost = ALL if place == "root" else [rank]
        with trial.job() as job:
            if not job.all_started():
                return ["not all began"]
            trial.nodes.kill(trial.nodes.names[rank], role)
            if place == "root":
                return trial.judged(job, lost)
            return trial.judged(job, lost) + trial.again(without=[rank])

    return run


def _killed_together(ranks: Sequence[int]) -> Run:
    """Several nodes at once, each with all its processes but the tasks."""

    def run(trial: Trial) -> list[str]:
        with trial.job() as job:
            if not job.all_started():
                return ["not all began"]
            for rank in ranks:
                trial.nodes.kill(trial.nodes.names[rank])
            return trial.judged(job, ranks) + trial.again(without=ranks)

    return run


def _authd_killed(trial: Trial) -> list[str]:
    """A job that runs needs no authd; a further one is refused at once, with a reason."""
    with trial.job() as job:
        if not job.all_started():
            return ["not all began"]
        trial.nodes.signal(trial.nodes.authd(), signal.SIGKILL)
        return trial.judged(job) + _refused(trial, b"authd")


def _refused(trial: Trial, reason: bytes) -> list[str]:
    with trial.job(1) as job:
        status = job.wait()
        if not status or reason not in job.errors or b"Traceback" in job.errors:
            return [f"a job without authd: status {status}, {job.errors!r}"]
    return []


def _client_killed(trial: Trial) -> list[str]:
    """Its processes end, within the kill grace."""
    with trial.job(_LONG) as job:
        if not job.all_started():
            return ["not all began"]
        job.client.kill()
        job.wait()
        left = [] if until(lambda: not job.tasks(), 30.0) else [f"{len(job.tasks())} processes are left"]
    return left + trial.nodes.defects() + trial.again()


# -- stopped and frozen ---------------------------------------------------------------------------


def _stopped(place: str, role: str) -> Run:
    """A role of a node stands still for a while, and goes on: nobody is lost."""
    rank = PLACES[place]

    def run(trial: Trial) -> list[str]:
        with trial.job() as job:
            if not job.all_started():
                return ["not all began"]
            with trial.nodes.stopped(trial.nodes.daemon(trial.nodes.names[rank], role)):
                _let_pass(SHORT_S)
            return trial.judged(job) + trial.again()

    return run


def _silent(place: str, role: str) -> Run:
    """A role of a node stands still for good: the node is lost, the others go on; it may go on later."""
    rank = PLACES[place]

    def run(trial: Trial) -> list[str]:
        with trial.job(_LONG) as job:
            if not job.all_started():
                return ["not all began"]
            with trial.nodes.stopped(trial.nodes.daemon(trial.nodes.names[rank], role)):
                job.wait()
            return trial.judged(job, [rank]) + trial.again()

    return run


def _frozen(place: str, for_good: bool) -> Run:
    """All processes of a node are frozen, its tasks too: for a while, or until the others have ended."""
    rank = PLACES[place]

    def run(trial: Trial) -> list[str]:
        with trial.job(_LONG if for_good else _LINES) as job, Group("freezer") as group:
            if not job.all_started():
                return ["not all began"]
            group.take(trial.nodes.below(trial.nodes.names[rank]))
            group.freeze()
            if for_good:
                job.wait()
            else:
                _let_pass(SHORT_S)
            group.freeze(False)
            return trial.judged(job, [rank] if for_good else []) + trial.again()

    return run


def _client_stopped(trial: Trial) -> list[str]:
    """The client stands still for longer than silence lasts: everything waits for it, and arrives."""
    with trial.job() as job:
        if not job.all_started():
            return ["not all began"]
        os.kill(job.client.pid, signal.SIGSTOP)
        _let_pass(SETTINGS["lost_after_s"] + 1.0)
        os.kill(job.client.pid, signal.SIGCONT)
        return trial.judged(job)


def _authd_stopped(trial: Trial) -> list[str]:
    """A further job is refused after a while, with a reason."""
    with trial.job() as job, trial.nodes.stopped([trial.nodes.authd()]):
        if not job.all_started():
            return ["not all began"]
        findings = trial.judged(job) + _refused(trial, b"authd")
    return findings + trial.again()


# -- the network ----------------------------------------------------------------------------------


def _cut(place: str, direction: str, heals: bool) -> Run:
    """Packets from a node, to it, or both are dropped, without a reset: for a while, or for good."""
    rank = PLACES[place]

    def run(trial: Trial) -> list[str]:
        with trial.job(_LINES if heals else _LONG) as job:
            if not job.all_started():
                return ["not all began"]
            with cut(trial, [rank], direction):
                if heals:
                    _let_pass(SHORT_S)
                else:
                    job.wait()
            return trial.judged(job, [] if heals else [rank]) + trial.again()

    return run


@contextmanager
def cut(trial: Trial, ranks: Sequence[int], direction: str) -> Iterator[None]:
    """Drop the packets ``from`` or ``to`` these nodes, or ``both``."""
    network = trial.nodes.network
    if direction != "to":
        network.cut(ranks, both=False)
    if direction != "from":
        network.rule(None, ranks, loss=1.0)
    try:
        yield
    finally:
        network.clear()


def _halves(trial: Trial) -> list[str]:
    """The network falls into two parts: what is beyond the root's part is lost, and ends there."""
    far = [1, 4, 5]
    with trial.job(_LONG) as job:
        if not job.all_started():
            return ["not all began"]
        near = [rank for rank in ALL if rank not in far]
        trial.nodes.network.cut(far, near)
        findings = trial.judged(job, far)
        trial.nodes.network.clear()
    return findings + trial.again()


def _poor(loss: float, delay_s: float) -> Run:
    """A slow network that loses packets, in all phases of a job with stdin and of one without."""

    def run(trial: Trial) -> list[str]:
        trial.nodes.network.rule(loss=loss, delay_s=delay_s / 2)
        with trial.job() as job:
            findings = trial.judged(job)
        with trial.job(0) as job:
            for _ in range(20):
                job.feed(500)
            job.close()
            return findings + trial.judged(job)

    return run


# -- restarts -------------------------------------------------------------------------------------


def _restarted(place: str, phase: str) -> Run:
    """A node's gexecd is killed and started again, in one phase of a job; it then takes further jobs."""
    rank = PLACES[place]

    def run(trial: Trial) -> list[str]:
        name = trial.nodes.names[rank]
        lost, maybe = _PHASES[phase]
        everyone = list(ALL) if place == "root" else [rank]
        with trial.job(0 if phase == "stdin" else _LINES) as job:
            _await(phase, trial, job)
            trial.nodes.kill(name)
            if phase == "stdin" and place != "root":
                job.feed(20_000)
                job.close()
            trial.nodes.restart(name)
            return trial.judged(job, everyone if lost else [], everyone if maybe else []) + trial.again()

    return run


#: Phase: whether the node's rank must be lost, or may be.
_PHASES = {
    "before connect": (False, True),
    "starting": (False, True),
    "streaming": (True, False),
    "stdin": (True, False),
    "ending": (False, True),
}


def _await(phase: str, trial: Trial, job: NumberedJob) -> None:
    if phase == "before connect":
        return
    if phase == "starting":
        until(lambda: job.tasks() or job.client.poll() is not None)
        return
    if phase == "stdin":
        job.feed(20_000)
    job.all_started()
    if phase == "ending":
        until(lambda: any(rank.outcome for rank in job.ranks) or job.client.poll() is not None)


def _let_pass(seconds: float) -> None:
    """Let a fault last."""
    until_s = time.monotonic() + seconds
    until(lambda: time.monotonic() >= until_s, seconds + 1.0)


def _all() -> Iterator[FaultScenario]:
    roles = ("relay", "spawner", "starter")
    for place in PLACES:
        for role in roles:
            quick = (place, role) in {
                ("leaf", "relay"),
                ("inner", "relay"),
                ("root", "relay"),
                ("deep", "spawner"),
            }
            quick = quick or (place, role) == ("inner", "starter")
            yield FaultScenario(f"kill {role} of {place}", _killed(place, role), quick)
    yield FaultScenario("kill two adjacent inner nodes", _killed_together([1, 4]))
    yield FaultScenario("kill all inner nodes but the root", _killed_together([1, 3, 4, 5]), quick=False)
    yield FaultScenario("kill authd", _authd_killed)
    yield FaultScenario("kill client", _client_killed, last=False)
    for place in PLACES:
        for role in roles:
            quick = (place, role) in {
                ("inner", "relay"),
                ("root", "relay"),
                ("leaf", "spawner"),
                ("deep", "starter"),
            }
            yield FaultScenario(
                f"stop {role} of {place} for a while", _stopped(place, role), quick, last=False
            )
        if place != "root":
            yield FaultScenario(
                f"stop relay of {place}", _silent(place, "relay"), place == "inner", last=False
            )
            for_good = _frozen(place, True)
            yield FaultScenario(f"freeze {place}", for_good, place == "inner", ("freezer",), last=False)
        yield FaultScenario(
            f"freeze {place} for a while", _frozen(place, False), place == "deep", ("freezer",), last=False
        )
    yield FaultScenario("stop client for a while", _client_stopped, last=False)
    yield FaultScenario("stop authd for a while", _authd_stopped, last=False)
    for place in ("leaf", "inner", "deep"):
        for direction in ("both", "from", "to"):
            quick = (place, direction) in {("inner", "both"), ("deep", "from"), ("inner", "to")}
            yield FaultScenario(f"cut {direction} {place}", _cut(place, direction, False), quick, last=False)
            quick = (place, direction) == ("inner", "both")
            name = f"cut {direction} {place} for a while"
            yield FaultScenario(name, _cut(place, direction, True), quick, last=False)
    yield FaultScenario("cut into two parts", _halves, last=False)
    yield FaultScenario("5 % loss and 50 ms", _poor(0.05, 0.05))
    yield FaultScenario("15 % loss and 200 ms", _poor(0.15, 0.2), quick=False)
    for place in PLACES:
        for phase in _PHASES:
            quick = place == "inner" or (place, phase) in {("root", "streaming"), ("leaf", "starting")}
            yield FaultScenario(f"restart {place}, {phase}", _restarted(place, phase), quick)


SCENARIOS = {scenario.name: scenario for scenario in _all()}
