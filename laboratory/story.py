"""A readable story of one seed: who was there, what went wrong, what followed, and how it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gexec.wire import jobspec
from laboratory.script import Scenario
from laboratory.simulator import Simulation
from laboratory.world import Violation

#: What is told of the trace; of other kinds only how often they happened.
_TOLD = ("fault", "quiet", "run", "opened", "closed", "gone")
#: Frames that change who has which rank, or what is known of it.
_FRAMES = ("Start", "Accepted", "Refused", "RanksStarted", "Ended", "Go", "Kill", "Signal", "Close", "Done")
_FLAGS = (
    (jobspec.STRICT, "strict"),
    (jobspec.DETACHED, "detached"),
    (jobspec.NO_STDIN, "without stdin"),
    (jobspec.PROMPT, "prompt"),
)
#: A job of more ranks gets no line for each.
_RANKS_MAX = 20


def headline(made: Scenario) -> list[str]:
    """Return what is there before it begins."""
    spec, habits = made.spec, made.habits
    flags = ", ".join(name for flag, name in _FLAGS if spec.flags & flag)
    told = [f"{spec.ranks} ranks, fan-out {spec.fanout}, window {spec.window} bytes, {flags or 'no flags'}"]
    if spec.timeout_s:
        told.append(f"time limit {spec.timeout_s:g} s")
    if spec.stall_s:
        told.append(f"processes that stand still for {spec.stall_s:g} s are given up")
    if made.ttl_s < 1e6:
        told.append(f"the credential is valid for {made.ttl_s:.4g} s")
    if habits.sends_stdin:
        told.append(f"the client sends {len(habits.stdin)} bytes of stdin")
    if habits.stalls is not None:
        told.append(f"the client reads nothing from {habits.stalls[0]:.4f} s to {habits.stalls[1]:.4f} s")
    if habits.gone_at_s is not None:
        told.append(f"the client is gone at {habits.gone_at_s:.4f} s")
    told += [f"the client sends {frame} at {at_s:.4f} s" for at_s, frame in habits.commands]
    for other in made.beside:
        nodes = f"nodes {other.first} to {other.first + other.spec.ranks - 1}"
        what = other.plans[0].query or "another job"
        told.append(f"{what} on {nodes}, fan-out {other.spec.fanout}, begins at {other.begins_s:.4f} s")
    odd = Counter(_oddities(made))
    told += [f"{count} processes {what}" for what, count in sorted(odd.items())]
    return told + [f"fault {number}: {fault}" for number, fault in enumerate(made.faults)]


def _oddities(made: Scenario) -> Iterator[str]:
    for plan in made.plans:
        if plan.refusal is not None:
            yield "cannot start"
        if plan.stops_at is not None:
            yield "stop reading, and no signal ends them" if plan.hangs else "stop reading"
        if plan.stubborn:
            yield "ignore SIGTERM"
        if plan.leaves_s:
            yield "leave something that holds their output"


def tell(seed: int, made: Scenario, everything: bool = False) -> tuple[list[str], bool]:
    """Run a scenario; return its story, and whether nothing was violated.

    Args:
        everything: tell every event, instead of what matters.
    """
    lines = [f"seed {seed}: {each}" if not number else each for number, each in enumerate(headline(made))]
    simulation = Simulation(seed, made, tracing=True)
    wrong = ""
    try:
        result = simulation.run()
    except Violation as error:
        wrong = "\n".join([f"violation: {error}", *getattr(error, "__notes__", [])])
    lines.append("")
    lines += simulation.world.lines if everything else _what_matters(simulation.world.lines)
    lines.append("")
    if wrong:
        return [*lines, wrong], False
    lines.append(f"{result.events} events, ended after {result.ended_s:.3f} s, trace {result.digest}")
    return lines + list(_ends(simulation)), True


def _what_matters(trace: list[str]) -> Iterator[str]:
    """Return the lines of a trace about faults, connections, orders and ends; count what is between."""
    between: Counter[str] = Counter()
    for line in trace:
        _, _, kind, *rest = line.split(maxsplit=3)
        shown = rest[0].partition("(")[0] if rest else ""
        is_told = shown in _FRAMES if kind in ("frame", "client") else kind in _TOLD
        if is_told:
            if between:
                yield (
                    " " * 14
                    + "... "
                    + ", ".join(f"{count} {name}" for name, count in sorted(between.items()))
                )
                between.clear()
            yield line[:200]
        else:
            between[shown or kind] += 1


def _ends(simulation: Simulation) -> Iterator[str]:
    ended = sorted(simulation.client.outcomes.items())
    if len(ended) <= _RANKS_MAX:
        for rank, outcome in ended:
            yield f"rank {rank}: {outcome.describe()}"
        return
    for told, count in Counter(outcome.describe() for _, outcome in ended).most_common():
        yield f"{count} ranks: {told}"
