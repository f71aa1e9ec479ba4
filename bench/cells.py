"""Measures what a cell, the control group of each task, adds to a start; as root, with cgroup v2.

Two starters, one with cells and one without, each with a helper of user nobody; starts of /bin/true in turns,
one at a time, from the request to the report that it has ended. Also the kernel's part: a thread that moves
itself, against a process that is moved, after a pause as between two jobs of a person.

    python bench/cells.py [--starts 400] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import pwd
import select
import statistics
import time
from contextlib import suppress
from pathlib import Path

from gexec.posix import cgroups, channel
from gexec.posix.channel import Port
from gexec.spawner.forking import fork_starter
from gexec.wire.launches import (
    FROM_HELPER,
    FROM_STARTER,
    TO_HELPER,
    TO_STARTER,
    Becoming,
    Launch,
    LaunchSpec,
    NewHelper,
    ProcessRan,
)
from gexec.wire.messages import ProcessEnded

NOBODY = pwd.getpwnam("nobody")


class Starts:
    """A starter with one helper."""

    def __init__(self, group: str) -> None:
        self.pid, sock = fork_starter(group=group)
        self.starter = Port(sock, FROM_STARTER, TO_STARTER)
        ours, theirs = channel.pair()
        self.starter.say(NewHelper(1, Becoming(NOBODY.pw_uid, (NOBODY.pw_gid,)), (theirs.fileno(),)))
        theirs.close()
        self.helper = Port(ours, FROM_HELPER, TO_HELPER)
        self.null = os.open("/dev/null", os.O_RDWR)
        self.number = 0

    def one_ms(self) -> float:
        """Run /bin/true; return how long it took."""
        self.number += 1
        spec = LaunchSpec(b"/bin/true", [b"true"], [], b"/", 0o022, False, 1.0, bytes(16), 0)
        begin_s = time.perf_counter()
        self.helper.say(Launch(self.number, spec, (self.null, self.null, self.null)))
        while not isinstance(self.helper.receive(), ProcessRan | ProcessEnded):
            select.select([self.helper.endpoint], [], [])
        return (time.perf_counter() - begin_s) * 1000

    def close(self) -> None:
        """End the helper and the starter."""
        self.helper.endpoint.close()
        self.starter.endpoint.close()
        os.waitpid(self.pid, 0)


def moves_us(group: Path, pause_s: float, count: int) -> dict[str, float]:
    """Return the median times of moving this process into a group and back, in two ways."""
    found = {}
    for kind, file in (("a process", "cgroup.procs"), ("a thread itself", "cgroup.threads")):
        domain = group / file.removeprefix("cgroup.")
        places = [domain / "one", domain / "two"]
        for place in (domain, *places):
            place.mkdir()
        if file == "cgroup.threads":
            (domain / "cgroup.procs").write_text("0")
            for place in places:
                (place / "cgroup.type").write_text("threaded")
        fds = [os.open(place / file, os.O_WRONLY) for place in places]
        times = []
        for _ in range(count):
            time.sleep(pause_s)
            begin_s = time.perf_counter()
            for fd in fds:
                os.write(fd, b"0")
            times.append((time.perf_counter() - begin_s) * 1e6)
        found[kind] = statistics.median(times)
        (group.parent / "cgroup.procs").write_text("0")
        for place in (*places, domain):
            place.rmdir()
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What a control group for each task costs.")
    parser.add_argument("--starts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    mount, _ = cgroups._mount()
    group = Path(mount, f"gexec-bench-{os.getpid()}")
    group.mkdir()
    try:
        for pause_s in (0.0, 0.02, 0.1):
            shown = ", ".join(f"{kind}: {us:.0f} us" for kind, us in moves_us(group, pause_s, 30).items())
            print(f"two moves, {pause_s:g} s after the last, median: {shown}")
        starts = {"without": Starts(""), "with": Starts(str(group))}
        times: dict[str, list[float]] = {name: [] for name in starts}
        for each in starts.values():
            for _ in range(20):
                each.one_ms()
        for _ in range(options.rounds):
            for name, each in starts.items():
                times[name] += [each.one_ms() for _ in range(options.starts)]
        for name, found in times.items():
            fast = statistics.quantiles(found, n=10)[0]
            print(f"{name:7} fastest tenth {fast:.3f} ms, median {statistics.median(found):.3f} ms")
        for each in starts.values():
            each.close()
    finally:
        for directory, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):
                os.rmdir(directory)


if __name__ == "__main__":
    main()
