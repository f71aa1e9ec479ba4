"""Run simulations: one seed and its story, or many seeds (docs/reliability.md)."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from gexec import native

# Before the modules that are compiled: they and the laboratory's others are imported by who needs them.
native.prefer()

from laboratory import cut as cuts  # noqa: E402
from laboratory import seeds  # noqa: E402
from laboratory.cut import Cut  # noqa: E402
from laboratory.scenario import scenario  # noqa: E402
from laboratory.shrink import shrink  # noqa: E402
from laboratory.story import tell  # noqa: E402


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


def _show(seed: int, cut: Cut, everything: bool) -> int:
    lines, right = tell(seed, cuts.apply(cut, scenario(seed)), everything)
    print("\n".join(lines))
    return 0 if right else 1


def _shrink(seed: int) -> int:
    def tried(cut: Cut, fails: bool) -> None:
        if fails:
            print(f"fails too: {cut}", flush=True)

    smallest = shrink(seed, tried)
    if smallest is None:
        print(f"seed {seed} does not fail: there is nothing to shrink")
        return 0
    print("the smallest scenario that fails in the same way:\n")
    _show(seed, smallest, False)
    print(f"\nagain: python -m laboratory.simulate --seed {seed} --cut {smallest} --story")
    return 1


def main(argv: list[str] | None = None) -> int:
    """Run the simulations of the arguments; return 1 on a violation."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.simulate", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="run one seed")
    what.add_argument("--seeds", metavar="A-B", help="run many seeds, on all cores")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--story", action="store_true", help="of --seed: show what matters (the default)")
    how.add_argument("--trace", action="store_true", help="of --seed: show every event")
    how.add_argument("--shrink", action="store_true", help="of --seed: find the smallest scenario that fails")
    parser.add_argument("--cut", default="", help="of --seed: a part of it, as --shrink prints it")
    parser.add_argument("--processes", type=int, default=None, help="how many at a time (default: all cores)")
    options = parser.parse_args(argv)
    if options.seed is not None:
        try:
            cut = cuts.parse(options.cut)
        except ValueError as error:
            parser.error(f"--cut {options.cut}: {error}")
        return _shrink(options.seed) if options.shrink else _show(options.seed, cut, options.trace)
    if options.story or options.trace or options.shrink or options.cut:
        parser.error("--story, --trace, --shrink and --cut need --seed")
    first, _, last = options.seeds.partition("-")
    if not first.isdigit() or not (last or first).isdigit():
        parser.error(f"--seeds {options.seeds}: expected A-B, for example 1-1000")
    return _many(int(first), int(last or first), options.processes)


if __name__ == "__main__":
    sys.exit(main())
