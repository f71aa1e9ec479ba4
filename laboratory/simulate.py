"""Run simulations: ``python -m laboratory.simulate --seed N [--trace]`` or ``--seeds A-B``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from gexec import native

# Before the modules that are compiled: they and the laboratory's others are imported by who needs them.
native.prefer()

from laboratory import seeds  # noqa: E402
from laboratory.scenario import scenario  # noqa: E402
from laboratory.simulator import Simulation  # noqa: E402
from laboratory.world import Violation  # noqa: E402


def _many(first: int, last: int, processes: int) -> int:
    began_s = time.monotonic()
    failed = events = 0
    processes = processes or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(processes, initializer=seeds.prepare) as pool:
        for seed, count, wrong in pool.map(seeds.run_one, range(first, last + 1), chunksize=8):
            events += count
            if wrong:
                failed += 1
                print(f"seed {seed}: {wrong}")
                print(f"  replay: python -m laboratory.simulate --seed {seed} --trace", flush=True)
    took_s = time.monotonic() - began_s
    used_s = os.times().children_user + os.times().children_system
    each = f"{(last - first + 1) / used_s:.1f} seeds per second of CPU time, {native.manner()}"
    print(f"{last - first + 1} seeds, {events} events, {took_s:.0f} s ({each}): {failed} failed")
    return 1 if failed else 0


def _show(seed: int, tracing: bool) -> int:
    made = scenario(seed)
    spec = made.spec
    print(f"seed {seed}: {spec.ranks} ranks, fan-out {spec.fanout}, flags {spec.flags}, window {spec.window}")
    for fault in made.faults:
        print(f"  {fault.at_s:.4f} s: {fault.kind} {fault.rank} {fault.value:g}")
    habits = made.habits
    print(f"  client: stdin {len(habits.stdin)} bytes, stalls {habits.stalls}, gone {habits.gone_at_s}")
    for at_s, frame in habits.commands:
        print(f"  {at_s:.4f} s: {frame}")
    simulation = Simulation(seed, made, tracing)
    wrong = ""
    try:
        result = simulation.run()
    except Violation as error:
        wrong = seeds.told(error)
    for line in simulation.world.lines:
        print(line)
    if wrong:
        print(f"violation: {wrong}")
        return 1
    print(f"{result.events} events, ended after {result.ended_s:.3f} s, trace {result.digest}")
    for rank, outcome in sorted(result.outcomes.items()):
        print(f"  rank {rank}: {outcome.describe()}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the simulations of the arguments; return 1 on a violation."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.simulate", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="run one seed and show its result")
    what.add_argument("--seeds", metavar="A-B", help="run many seeds, on all cores")
    parser.add_argument("--trace", action="store_true", help="show all events")
    parser.add_argument("--processes", type=int, default=None, help="how many at a time (default: all cores)")
    options = parser.parse_args(argv)
    if options.seed is not None:
        return _show(options.seed, options.trace)
    first, _, last = options.seeds.partition("-")
    if not first.isdigit() or not (last or first).isdigit():
        parser.error(f"--seeds {options.seeds}: expected A-B, for example 1-1000")
    return _many(int(first), int(last or first), options.processes)


if __name__ == "__main__":
    sys.exit(main())
