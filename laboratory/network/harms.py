"""Processes of daemons are killed, stopped, frozen, terminated and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence

from laboratory.network.groups import Group
from laboratory.network.nodes import until
from laboratory.network.numbered import NumberedJob
from laboratory.network.scenarios import (
    ALL,
    LINES,
    LONG_LINES,
    PLACES,
    SETTINGS,
    SHORT_S,
    FaultScenario,
    Run,
    Trial,
    let_pass,
)

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
    with trial.job(LONG_LINES) as job:
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
                let_pass(SHORT_S)
            return trial.judged(job) + trial.again()

    return run


def _silent(place: str, role: str) -> Run:
    """A role of a node stands still for good: the node is lost, the others go on; it may go on later."""
    rank = PLACES[place]

    def run(trial: Trial) -> list[str]:
        with trial.job(LONG_LINES) as job:
            if not job.all_started():
                return ["not all began"]
            with trial.nodes.stopped(trial.nodes.daemon(trial.nodes.names[rank], role)):
                job.wait()
            return trial.judged(job, [rank]) + trial.again()

    return run


def _interrupted(place: str, role: str) -> Run:
    """Who reports a node's ends stands still for good: the job does not end, but ^C twice ends it."""
    rank = PLACES[place]

    def run(trial: Trial) -> list[str]:
        with trial.job() as job:
            if not job.all_started():
                return ["not all began"]
            with trial.nodes.stopped(trial.nodes.daemon(trial.nodes.names[rank], role)):
                others = [one for number, one in enumerate(job.ranks) if number != rank]
                until(lambda: all(one.outcome for one in others) or job.client.poll() is not None)
                for _ in range(2):
                    job.client.send_signal(signal.SIGINT)
                    let_pass(0.2)
                job.wait()
            return trial.judged(job, [rank]) + trial.again()

    return run


def _frozen(place: str, for_good: bool) -> Run:
    """All processes of a node are frozen, its tasks too: for a while, or until the others have ended."""
    rank = PLACES[place]

    def run(trial: Trial) -> list[str]:
        with trial.job(LONG_LINES if for_good else LINES) as job, Group("freezer") as group:
            if not job.all_started():
                return ["not all began"]
            group.take(trial.nodes.below(trial.nodes.names[rank]))
            group.freeze()
            if for_good:
                job.wait()
            else:
                let_pass(SHORT_S)
            group.freeze(False)
            return trial.judged(job, [rank] if for_good else []) + trial.again()

    return run


def _client_stopped(trial: Trial) -> list[str]:
    """The client stands still for longer than silence lasts: everything waits for it, and arrives."""
    with trial.job() as job:
        if not job.all_started():
            return ["not all began"]
        os.kill(job.client.pid, signal.SIGSTOP)
        let_pass(SETTINGS["lost_after_s"] + 1.0)
        os.kill(job.client.pid, signal.SIGCONT)
        return trial.judged(job)


def _authd_stopped(trial: Trial) -> list[str]:
    """A further job is refused after a while, with a reason."""
    with trial.job() as job:
        if not job.all_started():
            return ["not all began"]
        with trial.nodes.stopped([trial.nodes.authd()]):
            findings = trial.judged(job) + _refused(trial, b"authd")
    return findings + trial.again()


# -- terminated -----------------------------------------------------------------------------------


def _terminated(trial: Trial) -> list[str]:
    """gexecd is stopped by SIGTERM when a job has ended: it has nothing to wait for, nor has one below it."""
    names = [trial.nodes.names[rank] for rank in (1, 2)]
    with trial.job(3) as job:
        findings = trial.judged(job)
        for name in names:
            first = trial.nodes.first(name)
            assert first is not None
            trial.nodes.signal(first, signal.SIGTERM)
        # The root may delay the end of a job by a second.
        if not until(lambda: not any(map(trial.nodes.first, names)), 10.0):
            findings.append("a daemon without jobs does not end after SIGTERM")
    return findings


# -- restarts -------------------------------------------------------------------------------------


def _restarted(place: str, phase: str) -> Run:
    """A node's gexecd is killed and started again, in one phase of a job; it then takes further jobs."""
    rank = PLACES[place]

    def run(trial: Trial) -> list[str]:
        name = trial.nodes.names[rank]
        lost, maybe = _PHASES[phase]
        everyone = list(ALL) if place == "root" else [rank]
        with trial.job(0 if phase == "stdin" else LINES) as job:
            _await(phase, trial, job)
            trial.nodes.kill(name)
            if phase == "stdin" and place != "root":
                job.feed(5_000)
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
        job.feed(5_000)
    job.all_started()
    if phase == "ending":
        until(lambda: any(rank.outcome for rank in job.ranks) or job.client.poll() is not None)


def harms() -> Iterator[FaultScenario]:
    """Return the scenarios."""
    roles = ("relay", "spawner", "starter")
    for place in PLACES:
        for role in roles:
            yield FaultScenario(f"kill {role} of {place}", _killed(place, role))
            yield FaultScenario(f"stop {role} of {place} for a while", _stopped(place, role), last=False)
        for phase in _PHASES:
            yield FaultScenario(f"restart {place}, {phase}", _restarted(place, phase))
        for_a_while = _frozen(place, False)
        yield FaultScenario(f"freeze {place} for a while", for_a_while, ("freezer",), last=False)
        if place != "root":
            yield FaultScenario(f"stop relay of {place}", _silent(place, "relay"), last=False)
            yield FaultScenario(f"freeze {place}", _frozen(place, True), ("freezer",), last=False)
    for role in ("spawner", "starter"):
        name = f"stop {role} of inner, and ^C"
        yield FaultScenario(name, _interrupted("inner", role), last=False)
    yield FaultScenario("kill two adjacent inner nodes", _killed_together([1, 4]))
    yield FaultScenario("kill all inner nodes but the root", _killed_together([1, 3, 4, 5]))
    yield FaultScenario("kill authd", _authd_killed)
    yield FaultScenario("kill client", _client_killed, last=False)
    yield FaultScenario("stop client for a while", _client_stopped, last=False)
    yield FaultScenario("stop authd for a while", _authd_stopped, last=False)
    yield FaultScenario("terminate two daemons after a job", _terminated)
