"""Jobs on a large simulated cluster, with faults: ``python -m laboratory.large --nodes 100000``.

A job has at most 65,536 ranks: on more nodes there are two jobs, on the first nodes and on the last ones, and
those in the middle run both. Prints the seconds and the memory that it takes. A daemon is one object until
something reaches it, all ranks of a job have the same plan, and the job's blob, which every node has, exists
once.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from random import Random

from gexec import limits, native

native.prefer()

from gexec.wire import frames  # noqa: E402
from laboratory import script, seeds  # noqa: E402
from laboratory.clients import Habits  # noqa: E402
from laboratory.processes import Plan  # noqa: E402
from laboratory.script import Fault, Scenario  # noqa: E402
from laboratory.simulator import Simulation  # noqa: E402
from laboratory.world import Violation  # noqa: E402

NODES_MAX = 2 * limits.RANKS_MAX
#: Faults begin within this time: the jobs have ended after it, if nothing went wrong.
_WITHIN_S = 0.1
#: Of each of these ``--hit`` nodes are hit: kinds that strike one node, and how long they last at most.
KINDS = {"kill": 0.0, "drop": 0.0, "vanish": 0.0, "freeze": 20.0, "half_open": 0.0, "upgrade": 3.0}


def large(seed: int, nodes: int, fanout: int, hit: int) -> Scenario:
    """Return one job or two on so many nodes; ``hit``: how many nodes each kind of fault strikes."""
    rng = Random(seed)
    ranks = min(nodes, limits.RANKS_MAX)
    struck = [
        Fault(rng.uniform(0, _WITHIN_S), kind, node, lasts_s=rng.uniform(0, longest_s))
        for kind, longest_s in KINDS.items()
        for node in rng.sample(range(nodes), min(hit, nodes))
    ]
    struck.sort(key=lambda fault: fault.at_s)
    made = _job(0, ranks, fanout)
    made.faults = struck
    if ranks < nodes:
        made.beside = [_job(nodes - ranks, ranks, fanout)]
    return made.share()


def _job(first: int, ranks: int, fanout: int) -> Scenario:
    plan = Plan([(0.1, frames.STDOUT, b"a line of output\n")], 0)
    return Scenario(script.job(ranks, fanout, first), [plan] * ranks, Habits(pace_s=0.0), first=first)


def main(argv: list[str] | None = None) -> int:
    """Run the jobs of the arguments; return 1 on a violation."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.large", description=__doc__)
    parser.add_argument("--nodes", type=int, default=100_000, help=f"1 to {NODES_MAX}; default: %(default)s")
    parser.add_argument("--fanout", type=int, default=16)
    parser.add_argument(
        "--hit", type=int, default=100, metavar="N", help=f"N nodes for each of: {', '.join(KINDS)}"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    if not 1 <= options.nodes <= NODES_MAX:
        parser.error(f"--nodes {options.nodes}: expected 1 to {NODES_MAX}")
    seeds.prepare()
    began_s = time.process_time()
    made = large(options.seed, options.nodes, options.fanout, options.hit)
    simulation = Simulation(options.seed, made)
    try:
        result = simulation.run()
    except Violation as error:
        print(seeds.told(error))
        return 1
    took_s = time.process_time() - began_s
    most_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ranks = " and ".join(str(run.made.spec.ranks) for run in simulation.runs)
    print(
        f"{options.nodes} nodes, ranks of jobs: {ranks}; {len(made.faults)} faults, {result.events} events, "
        f"ended after {result.ended_s:.3f} simulated seconds: "
        f"{took_s:.0f} s of CPU time, {most_mib:.0f} MiB, {native.manner()}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
