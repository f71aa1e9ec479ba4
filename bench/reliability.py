"""Measures real daemons while nodes die, are upgraded and fall silent (docs/reliability.md).

Usage: python bench/reliability.py [--nodes 200] [--seconds 30] [--seed 1] [--scenarios all|quick|none]

A job streams numbered lines from all nodes, each in a network namespace of its own, while inner nodes are
killed, the gexecd of others is upgraded, and the network of others is cut without a reset. Then the scenarios
of laboratory.network run, one after another. Needs root. Exit status: 0 everything holds, 1 something does
not, 2 usage error, 3 this kernel lacks what is needed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from run import daemons, machine

from gexec import limits
from gexec.core.tree import lineage
from laboratory.network import namespaces
from laboratory.network.matrix import QUICK, SCENARIOS, missing
from laboratory.network.nodes import BIN, NetworkedNodes, until
from laboratory.network.numbered import NumberedJob
from laboratory.network.scenarios import NODES, SETTINGS, FaultScenario, Trial

#: Of the measured job: the second level has inner nodes, too, from 21 nodes on.
FANOUT = 4
#: Lines of each node per second: what the figures of re-attachment are exact to.
PER_S = 5
#: Targets, in seconds. A silent node is asked once more for the connect timeout, while others run on.
KILL_SEEN_S, SILENCE_SEEN_S, ATTACHED_S = 1.0, limits.LOST_AFTER_S, 2.0
SILENCE_LOST_S = SILENCE_SEEN_S + limits.CONNECT_TIMEOUT_S + KILL_SEEN_S
#: An upgrade must be over by then, on a machine that does everything at once.
UPGRADED_S = 60.0
#: Of the job, at its end, nothing is done any more: what was lost must come back while it lasts.
QUIET_S = 5.0


@dataclass(frozen=True)
class Harm:
    """What happens to some nodes of the job, and when it happened.

    Attributes:
        seen_s: within which time their parents must notice it.
        lost_s: within which time they must be reported as lost.
    """

    name: str
    ranks: list[int]
    seen_s: float
    lost_s: float
    apply: Callable[[int], None]
    at: dict[int, float] = field(default_factory=dict)

    def do(self, rank: int) -> None:
        """Do it to a node."""
        self.at[rank] = time.monotonic()
        self.apply(rank)


class Measured:
    """The measured job: plans who is harmed, from the seed, and collects the figures.

    Args:
        count: killed nodes, and as many others that are upgraded.
        silent: further nodes, whose packets are dropped.
    """

    def __init__(self, nodes: NetworkedNodes, seconds: float, seed: int, count: int, silent: int) -> None:
        self._nodes, self._seconds, self._seed = nodes, seconds, seed
        total = len(nodes.names)
        self._above = [[low for low, _ in lineage(total, FANOUT, rank)[:-1]] for rank in range(total)]
        inner = sorted({rank for above in self._above for rank in above} - {0})
        chosen = Random(seed)
        below_top = [rank for rank in inner if len(self._above[rank]) == 1]
        silent_ones = chosen.sample(below_top, min(len(below_top), silent))
        # What happens below a silent node is not seen before that is given up.
        seen = [rank for rank in inner if not {rank, *self._above[rank]}.intersection(silent_ones)]
        killed = chosen.sample(seen, min(len(seen), count))
        hit = killed + silent_ones
        others = [rank for rank in range(1, total) if rank not in hit]
        self.upgraded = chosen.sample(others, min(len(others), count))
        self._upgrades: dict[int, subprocess.Popen[str]] = {}
        self.harms = [
            Harm("kill -9", killed, KILL_SEEN_S, KILL_SEEN_S, lambda rank: nodes.kill(nodes.names[rank])),
            Harm(
                "no packets",
                silent_ones,
                SILENCE_SEEN_S,
                SILENCE_LOST_S,
                lambda rank: nodes.network.cut([rank]),
            ),
        ]

    def run(self) -> list[str]:
        """Run the job; return what does not hold."""
        lines = int(self._seconds * PER_S)
        for rank in self.upgraded:  # daemons of a local cluster share one image, and refuse upgrades
            self._nodes.kill(self._nodes.names[rank])
            self._nodes.restart(self._nodes.names[rank])
        with NumberedJob(self._nodes, lines, 1 / PER_S, ["-f", str(FANOUT)]) as job:
            began_s = time.monotonic()
            if not job.all_started():
                return ["not all nodes began", *job.findings()]
            print(f"all have written their first line after {time.monotonic() - began_s:.2f} s", flush=True)
            self._harm(job)
            job.wait(self._seconds + 120)
            lost = [rank for harm in self.harms for rank in harm.ranks]
            findings = job.findings(lost) + self._upgrade_findings()
            well = [rank for rank in self.upgraded if not set(self._above[rank]).intersection(lost)]
            print(f"{len(self.upgraded)} nodes were upgraded; {len(well)} of them below no harmed node")
            if well:
                print(f"  without output: {_spread([job.longest_gap_s(rank) for rank in well])}")
            for harm in self.harms:
                findings += self._judged(harm, job)
            for rank in lost:
                if job.ranks[rank].outcome != "lost":
                    findings.append(f"{job.names[rank]} is {job.ranks[rank].outcome}, not lost")
            complete = sum(rank.lines == lines for rank in job.ranks)
            print(f"{complete} nodes' output is complete ({lines} lines), {len(lost)} nodes were harmed")
        return findings

    def _harm(self, job: NumberedJob) -> None:
        """Cut the silent ones off; then, one after another, kill a node and upgrade another one."""
        killed, silent = self.harms
        # Within half of the job: what was lost must come back while it lasts.
        step_s = max(0.1, (self._seconds / 2 - QUIET_S) / len(killed.ranks))
        plan: list[tuple[float, Callable[[], None]]] = [
            *((0.0, partial(silent.do, rank)) for rank in silent.ranks),
            *((step_s * number, partial(killed.do, rank)) for number, rank in enumerate(killed.ranks)),
        ]
        plan += [(step_s * number, partial(self._upgrade, rank)) for number, rank in enumerate(self.upgraded)]
        began_s = time.monotonic()
        for at_s, action in sorted(plan, key=lambda one: one[0]):
            due_s = began_s + at_s
            until(partial(_is_over, due_s), at_s + QUIET_S)
            action()

    def _cut(self, rank: int) -> None:
        self._nodes.network.cut([rank])

    def _upgrade(self, rank: int) -> None:
        """Have a node's daemon replaced by the same code, as `gexecctl upgrade` does it."""
        socket = self._nodes.place.socket(self._nodes.names[rank])
        self._upgrades[rank] = subprocess.Popen(
            [sys.executable, BIN / "gexecctl", "upgrade", "--force"],
            env=os.environ | {"GEXEC_SOCKET": str(socket)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _upgrade_findings(self) -> list[str]:
        """Wait for all upgrades; return those that failed."""
        findings = []
        for rank, asking in self._upgrades.items():
            _, told = asking.communicate(timeout=UPGRADED_S)
            if asking.returncode:
                findings.append(f"the upgrade of {self._nodes.names[rank]} failed: {told.strip()}")
        return findings

    def _judged(self, harm: Harm, job: NumberedJob) -> list[str]:
        """Print when the harmed nodes were noticed, and how long those below them were not heard."""
        figures = [("lost", [job.ranks[rank].ended_s - harm.at[rank] for rank in harm.ranks], harm.lost_s)]
        quiet = [(job.ranks[rank].quiet_s, harm.at[rank]) for rank in harm.ranks]
        if all(since_s is not None for since_s, _ in quiet):
            shown_s = [since_s - at_s for since_s, at_s in quiet if since_s is not None]
            figures.append(("shown as not responding", shown_s, harm.seen_s))
        below = [rank for rank in range(len(job.ranks)) if self._harmer(rank) is harm]
        gaps_s = [job.longest_gap_s(rank) for rank in below]
        figures.append(("below them without output", gaps_s, harm.seen_s + ATTACHED_S))
        late = []
        for what, values, bound_s in figures:
            if values:
                text = f"{harm.name}: {len(values)} nodes, {what}: {_spread(values)}, bound {bound_s:g} s"
                print(text, flush=True)
                if max(values) > bound_s:
                    late.append(text)
        return late

    def _harmer(self, rank: int) -> Harm | None:
        """Return what happened to an ancestor of a node to which nothing happened."""
        if {rank, *self._above[rank]}.intersection(self.upgraded) or any(
            rank in one.ranks for one in self.harms
        ):
            return None
        # Silence takes longer to notice.
        for harm in sorted(self.harms, key=lambda one: -one.seen_s):
            if set(harm.ranks).intersection(self._above[rank]):
                return harm
        return None


def _is_over(due_s: float) -> bool:
    return time.monotonic() >= due_s


def _spread(values: Sequence[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.2f} s (median), {ordered[-1]:.2f} s (longest)"


def measured(nodes: int, seconds: float, seed: int) -> list[str]:
    """Run the measured job on a new cluster."""
    began_s = time.monotonic()
    # Large packets: the router is one process, and what it costs is not measured.
    with NetworkedNodes(nodes, mtu=9000, seed=seed) as cluster:
        print(f"{nodes} nodes are up after {time.monotonic() - began_s:.1f} s", flush=True)
        count = max(1, nodes // 20)
        return Measured(cluster, seconds, seed, count, silent=max(1, nodes // 100)).run()


def scenarios(chosen: Sequence[FaultScenario]) -> list[str]:
    """Run scenarios, each on a cluster of its own; return what does not hold."""
    findings = []
    for scenario in chosen:
        if why := missing(scenario):
            print(f"{scenario.name}: left out: {why}", flush=True)
            continue
        began_s = time.monotonic()
        with NetworkedNodes(NODES, settings=SETTINGS) as cluster:
            found = scenario.run(Trial(cluster))
        print(f"{scenario.name}: {time.monotonic() - began_s:.1f} s: {found or 'holds'}", flush=True)
        findings += [f"{scenario.name}: {one}" for one in found]
    return findings


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Harm nodes of clusters of real daemons in network namespaces, and check the rest."
    )
    parser.add_argument("--nodes", type=int, default=200, help="of the measured job; 0: none (default: 200)")
    parser.add_argument("--seconds", type=float, default=30.0, help="that it lasts (default: 30)")
    parser.add_argument("--seed", type=int, default=1, help="of who is harmed (default: 1)")
    kinds = ("all", "quick", "none")
    parser.add_argument("--scenarios", choices=kinds, default="all", help="which run (default: all)")
    parser.add_argument("--only", default="", help="scenarios whose name holds this text")
    options = parser.parse_args()
    if (options.nodes and options.nodes < 7) or options.seconds < 15:
        parser.error("expected 0, or 7 nodes or more, and 15 seconds or more")
    if why := namespaces.missing():
        print(f"reliability: {why}", file=sys.stderr)
        return 3
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    # In the background of a script it would be ignored, here and in every gexec that is interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    where = machine()
    print(f"{where['cores']} cores, {where['cpu']}, Linux {where['kernel']}, load {os.getloadavg()[0]:.1f}")
    print(f"daemons: {daemons()}")
    findings = measured(options.nodes, options.seconds, options.seed) if options.nodes else []
    chosen = [
        one
        for one in SCENARIOS.values()
        if options.only in one.name
        and (options.scenarios == "all" or (options.scenarios == "quick" and one.name in QUICK))
    ]
    findings += scenarios(chosen)
    print("\n".join(findings) or "everything holds")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
