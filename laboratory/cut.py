"""Smaller scenarios: fewer ranks, fewer faults, less output, written in one argument of the command."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from laboratory.script import Fault, Scenario


class Cut(NamedTuple):
    """What is left of a seed's scenario. The text form is ``ranks=8,faults=0+3,quiet,plain``.

    Attributes:
        ranks: only so many of the ranks, from the first on; 0 = all.
        faults: only these faults, by their numbers in the whole scenario; None = all.
        quiet: processes write nothing and leave nothing.
        plain: the client reads all the time, stays, and sends no signals and no stdin; no job is beside it.
    """

    ranks: int = 0
    faults: tuple[int, ...] | None = None
    quiet: bool = False
    plain: bool = False

    def __str__(self) -> str:
        parts = [f"ranks={self.ranks}"] if self.ranks else []
        if self.faults is not None:
            parts.append("faults=" + "+".join(map(str, self.faults)))
        return ",".join(parts + ["quiet"] * self.quiet + ["plain"] * self.plain)


def parse(text: str) -> Cut:
    """Return the cut of a text. ValueError if it is none."""
    cut = Cut()
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name == "ranks":
            cut = cut._replace(ranks=int(value))
        elif name == "faults":
            cut = cut._replace(faults=tuple(int(number) for number in value.split("+") if number))
        elif part == "quiet":
            cut = cut._replace(quiet=True)
        elif part == "plain":
            cut = cut._replace(plain=True)
        else:
            raise ValueError(f"{part!r} is none of ranks=N, faults=N+N, quiet, plain")
    return cut


def apply(cut: Cut, made: Scenario) -> Scenario:
    """Cut a scenario, which is changed; return it."""
    if cut.faults is not None:
        made.faults = [fault for number, fault in enumerate(made.faults) if number in cut.faults]
    if cut.ranks:
        spec = made.spec
        spec.names, spec.addresses = list(spec.names)[: cut.ranks], list(spec.addresses)[: cut.ranks]
        made.plans = made.plans[: cut.ranks]
        made.faults = [left for fault in made.faults for left in _within(fault, cut.ranks)]
        made.beside = []
    if cut.quiet:
        for plan in made.plans:
            plan.writes, plan.leaves_s, plan.chatters = [], 0.0, False
    if cut.plain:
        made.beside = []
        habits = made.habits
        habits.commands, habits.stalls, habits.gone_at_s, habits.stdin = [], None, None, b""
    return made.share()


def _within(fault: Fault, ranks: int) -> list[Fault]:
    """Return what is left of a fault: nothing if it hits no rank that is left."""
    hit = [rank for rank in (fault.rank, *fault.ranks) if rank < ranks]
    if not hit or (fault.kind == "clog" and len(hit) < 2):
        return []
    return [replace(fault, rank=hit[0], ranks=tuple(hit[1:]))]
