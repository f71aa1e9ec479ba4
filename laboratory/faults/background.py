"""The job is a background job, and queries of it follow: attach, wait, output, kill."""

from __future__ import annotations

from random import Random

from gexec import limits
from gexec.wire import jobspec
from gexec.wire.background import Background
from laboratory import script
from laboratory.clients import Habits
from laboratory.faults.kind import FaultKind
from laboratory.processes import Plan
from laboratory.queries import QUERIES
from laboratory.script import Scenario


def plan(rng: Random, made: Scenario) -> None:
    spec = made.spec
    spec.background = Background(b"", limits.KEEP_MIN_BYTES).encode()
    for _ in range(rng.choice((1, 2, 3))):
        query = rng.choice((*QUERIES[:-1], *QUERIES))
        made.beside.append(
            Scenario(
                script.job(spec.ranks, rng.choice((2, 4, 16))),
                [Plan([], 0, query=query) for _ in range(spec.ranks)],
                Habits(),
                begins_s=rng.choice((rng.uniform(0.05, 0.3), rng.uniform(0, 3), rng.uniform(3, 20))),
            )
        )


def settle(made: Scenario) -> None:
    """Take from a background job what other kinds have planned and it cannot have."""
    made.spec.flags = jobspec.DETACHED | jobspec.NO_STDIN
    made.spec.timeout_s = made.spec.stall_s = 0.0
    made.habits.sends_stdin, made.habits.stdin = False, b""
    for each in made.plans:
        each.reads, each.stops_at, each.hangs, each.chatters = 0, None, False, False


KIND = FaultKind("background", plan, weight=0, chance=0.06)
