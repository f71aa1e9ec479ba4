"""One job on a large simulated cluster, with faults: ``python -m laboratory.large --nodes 65536``.

Prints the seconds and the memory that it takes. A daemon is one object until something reaches it, all ranks
have the same plan, and the job's blob, which every node has, exists once.
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
from laboratory import scenario, seeds  # noqa: E402
from laboratory.clients import Habits  # noqa: E402
from laboratory.processes import Plan  # noqa: E402
from laboratory.script import Fault, Scenario  # noqa: E402
from laboratory.simulator import Simulation  # noqa: E402
from laboratory.world import Violation  # noqa: E402


def large(seed: int, nodes: int, fanout: int, hit: int) -> Scenario:
    """Return a job on so many nodes, of which ``hit`` die and as many lose their link."""
    rng = Random(seed)
    plan = Plan([(0.1, frames.STDOUT, b"a line of output\n")], 0)
    made = Scenario(scenario.job(nodes, fanout), [plan] * nodes, Habits(pace_s=0.0))
    for kind in ("kill", "drop"):
        made.faults += [
            Fault(rng.uniform(0, 0.1), kind, rank) for rank in rng.sample(range(nodes), min(hit, nodes))
        ]
    made.faults.sort(key=lambda fault: fault.at_s)
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the job of the arguments; return 1 on a violation."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.large", description=__doc__)
    parser.add_argument("--nodes", type=int, default=limits.RANKS_MAX, help="1 to 65536, the most of a job")
    parser.add_argument("--fanout", type=int, default=16)
    parser.add_argument("--hit", type=int, default=100, help="so many nodes die, and so many links are lost")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    seeds.prepare()
    began_s = time.process_time()
    simulation = Simulation(options.seed, large(options.seed, options.nodes, options.fanout, options.hit))
    try:
        result = simulation.run()
    except Violation as error:
        print(seeds.told(error))
        return 1
    took_s = time.process_time() - began_s
    most_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{options.nodes} nodes, {result.events} events, ended after {result.ended_s:.3f} simulated seconds: "
        f"{took_s:.0f} s of CPU time, {most_mib:.0f} MiB, {native.manner()}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
