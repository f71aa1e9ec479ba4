"""Classic defects of such systems, to put back into the code: the simulator must find each of them.

``python -m laboratory.defects`` prints for each defect the first seeds that find it (tests/simulation has the
test). Patches are texts of the source, so they need interpreted modules.
"""

from __future__ import annotations
import __future__

import argparse
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from gexec.core.ledger import Ledger
from gexec.core.node import Node
from gexec.core.saving import Savable
from gexec.core.task import Task
from gexec.posix.deadline import Deadline
from gexec.relay.jobs import Jobs
from laboratory.scenario import scenario
from laboratory.simulator import Simulation
from laboratory.spawners import SimSpawner


class PutBack(NamedTuple):
    """One defect: in a method, a text that is right, and the wrong one.

    Attributes:
        within: it is found within so many seeds, as they are drawn, from ``FIRST`` on.
    """

    name: str
    owner: type
    method: str
    right: str
    wrong: str
    within: int


#: The first seed that is tried.
FIRST = 1
ALL = (
    # An end that is reported twice counts twice: the job is over too soon, or never.
    PutBack(
        "count instead of set",
        Ledger,
        "end",
        "if self.outcomes[rank] is not None:\n                continue",
        "pass",
        400,
    ),
    # A node does not compare epochs: a former parent takes it back.
    PutBack("forgotten epoch", Node, "_attach", " or start.epoch <= self.epoch:", ":", 400),
    # A new daemon accepts credentials that were issued before it started.
    PutBack(
        "replay after restart", SimSpawner, "_refusal", "if self.born_s > job.issued_s:", "if False:", 400
    ),
    # A node acknowledges the output of those below it before the client has it.
    PutBack(
        "acknowledge before write",
        Node,
        "_heard_child",
        "self._outbox.output(passed)",
        "self._outbox.output(passed); end = passed.offset + len(passed.data); self._subtree.acknowledge("
        "[(rank, passed.stream, end) for low, high in passed.ranks for rank in range(low, high)])",
        400,
    ),
    # What is still in the pipes when a process ends is not read.
    PutBack(
        "dropped last chunk",
        Task,
        "process_ended",
        'self._become("process ended")',
        'self._become("process ended"); self._streams[STDOUT].closed = self._streams[STDERR].closed = True',
        400,
    ),
    # A second parent begins the rank a second time, beside the first.
    PutBack("double adoption", Jobs, "_start", "        if job is not None:\n", "        if False:\n", 400),
    # A node without a parent waits for one for ever.
    PutBack(
        "wait without deadline",
        Node,
        "_orphaned",
        "self._orphan_until_s = now_s + self._orphan_grace_s",
        "self._orphan_until_s = now_s + 1e9",
        400,
    ),
    # A strict job starts its processes before all nodes have checked that they can.
    PutBack("spawn before check", Task, "begin", "if self._spec.flags & jobspec.STRICT:", "if False:", 400),
    # After a pause, a deadline for a peer is over before anything that came meanwhile is read.
    PutBack(
        "deadline before read",
        Deadline,
        "_due",
        "if self._countdown.over(self._timers.time()):",
        "if True:",
        400,
    ),
    # A relay that takes over from another one has no longer what was not acknowledged.
    PutBack(
        "state lost in restart",
        Savable,
        "restore",
        "            setattr(self, name, saved[name])",
        '            if name != "_chunks":\n                setattr(self, name, saved[name])',
        400,
    ),
    # Output is not sent again to a new parent.
    PutBack(
        "nothing sent again",
        Task,
        "resend",
        "for offset, data in retained.unacknowledged():",
        "for offset, data in ():",
        400,
    ),
)


@contextmanager
def put_in(defect: PutBack) -> Iterator[None]:
    """Have the defect in the code, for a while."""
    method: Any = getattr(defect.owner, defect.method)
    source = inspect.getsource(method)
    if source.count(defect.right) != 1:
        raise ValueError(f"{defect.owner.__name__}.{defect.method} does not have {defect.right!r} once")
    source = textwrap.dedent(source.replace(defect.right, defect.wrong))
    code = compile(
        source, f"<{defect.name}>", "exec", __future__.annotations.compiler_flag, dont_inherit=True
    )
    made: dict[str, Any] = {}
    exec(code, method.__globals__, made)
    setattr(defect.owner, defect.method, made[defect.method])
    try:
        yield
    finally:
        setattr(defect.owner, defect.method, method)


def found(seed: int) -> str:
    """Return what a seed violates; "" if nothing."""
    try:
        Simulation(seed, scenario(seed)).run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def first_found(defect: PutBack, within: int) -> tuple[int, str]:
    """Return how many seeds it takes to find a defect, and what they violate; (0, "") if they do not."""
    with put_in(defect):
        for seed in range(FIRST, FIRST + within):
            wrong = found(seed)
            if wrong:
                return seed - FIRST + 1, wrong
    return 0, ""


def main(argv: list[str] | None = None) -> int:
    """Print after how many seeds each defect is found; return 1 if one is not found in its time."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.defects", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only these defects, for example 'forgotten epoch'"
    )
    names = parser.parse_args(argv).names
    status = 0
    for defect in ALL:
        if not names or defect.name in names:
            number, wrong = first_found(defect, defect.within)
            status = status if number else 1
            told = f"seed {number}: {wrong[:100]}" if number else f"not found in {defect.within} seeds"
            print(f"{defect.name}: {told}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
