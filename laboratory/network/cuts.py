"""The network between daemons drops packets, delays them, or falls apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from laboratory.network.scenarios import (
    ALL,
    LINES,
    LONG_LINES,
    PLACES,
    SHORT_S,
    FaultScenario,
    Run,
    Trial,
    let_pass,
)

# -- the network ----------------------------------------------------------------------------------


def _cut(place: str, direction: str, heals: bool) -> Run:
    """Packets from a node, to it, or both are dropped, without a reset: for a while, or for good."""
    rank = PLACES[place]

    def run(trial: Trial) -> list[str]:
        with trial.job(LINES if heals else LONG_LINES) as job:
            if not job.all_started():
                return ["not all began"]
            with cut(trial, [rank], direction):
                if heals:
                    let_pass(SHORT_S)
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
    with trial.job(LONG_LINES) as job:
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
        # The first packet of a connection is sent again after 1, 3 and 7 s.
        with trial.job(connect_s=20.0) as job:
            findings = trial.judged(job)
        with trial.job(0, connect_s=20.0) as job:
            for _ in range(20):
                job.feed(500)
            job.close()
            return findings + trial.judged(job)

    return run


def cuts() -> Iterator[FaultScenario]:
    """Return the scenarios."""
    for place in ("leaf", "inner", "deep"):
        for direction in ("both", "from", "to"):
            yield FaultScenario(f"cut {direction} {place}", _cut(place, direction, False), last=False)
            for_a_while = _cut(place, direction, True)
            yield FaultScenario(f"cut {direction} {place} for a while", for_a_while, last=False)
    yield FaultScenario("cut into two parts", _halves, last=False)
    yield FaultScenario("5 % loss and 50 ms", _poor(0.05, 0.05))
    yield FaultScenario("15 % loss and 200 ms", _poor(0.15, 0.2))
