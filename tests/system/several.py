"""Several gexecds that were started one by one, as on real nodes, on one machine; and a job that counts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import IO

from .conftest import DEADLINE_S
from .daemons import RELAY_USER, Host, Service, command

#: Numbered lines until there is a file ``stop``, and then how many they were.
COUNTING = 'i=0; while [ ! -e "$0/stop" ]; do i=$((i+1)); echo $i; sleep 0.02; done; echo all $i'


class Machines(Host):
    """Several nodes: the first one takes the jobs, and has no rank in them.

    Args:
        package: the code that their gexecds run; None = the tests' own.
    """

    def __init__(self, count: int = 5, package: Path | None = None) -> None:
        super().__init__()
        self.package = package
        net = self.address.rpartition(".")[0]
        self.names = [f"node{number}" for number in range(1, count + 1)]
        self.addresses = [f"{net}.{20 + number}" for number in range(count)]
        lines = [f"{address} {name}\n" for address, name in zip(self.addresses, self.names, strict=True)]
        self.hosts.write_text("".join(lines))
        self.env["GEXEC_SVRS"] = " ".join(self.names[1:] or self.names)
        self.gexecds: list[Service] = []

    def up(self) -> Machines:
        """Start authd and all gexecds."""
        self.start_authd()
        for name, address in zip(self.names, self.addresses, strict=True):
            words = [
                "-P", self.port, "--bind", address, *RELAY_USER, "--authd-socket", self.authd_socket,
                "--public-key", self.public, "--name", name, "--hosts", self.hosts,
                "--audit-log", self.dir / f"{name}.audit", "--socket", self.socket_of(name),
            ]  # fmt: skip
            self.gexecds.append(self._service("gexecd", words, package=self.package))
        for service in self.gexecds:
            service.ready()
        return self

    def socket_of(self, name: str) -> Path:
        return self.socket if name == self.names[0] else self.dir / "run" / f"{name}.sock"

    def upgrade(self, *words: object, name: str = "node1") -> subprocess.CompletedProcess[str]:
        """Run `gexecctl upgrade` on a node."""
        return subprocess.run(
            [*command("gexecctl"), "upgrade", *map(str, words)],
            env=self.env | {"GEXEC_SOCKET": str(self.socket_of(name))},
            text=True,
            capture_output=True,
            timeout=4 * DEADLINE_S,
        )

    def upgrade_all(self, names: list[str]) -> None:
        """Upgrade these nodes at the same time."""
        answers: list[subprocess.CompletedProcess[str]] = []
        threads = [
            Thread(target=lambda name=name: answers.append(self.upgrade("--force", name=name)))
            for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer.returncode for answer in answers] == [0] * len(names), answers


class Counting:
    """A job of all nodes that writes COUNTING, and what has come of it."""

    def __init__(self, machines: Machines, *words: object) -> None:
        self.machines = machines
        self.process = machines.begin(*words, "-f", 2, "--", "/bin/sh", "-c", COUNTING, machines.dir)
        self.lines: list[str] = []
        self.said: list[str] = []
        self._threads = [
            Thread(target=self._read, args=(stream, lines))
            for stream, lines in ((self.process.stdout, self.lines), (self.process.stderr, self.said))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line)

    def wait_for_more(self) -> None:
        """Return when every rank has written since now, or for the first time."""
        before = len(self.lines)
        ranks = {str(rank) for rank in range(max(1, len(self.machines.names) - 1))}
        end_s = time.monotonic() + DEADLINE_S
        while not ranks <= (those := {line.split()[0] for line in self.lines[before:]}):
            missing = sorted(ranks - those)
            assert time.monotonic() < end_s, f"ranks {missing} write no more; gexec says: {self.said}"
            time.sleep(0.02)

    def end(self) -> tuple[int, str]:
        """End it; return its status and its stderr."""
        (self.machines.dir / "stop").touch()
        for thread in self._threads:
            thread.join(DEADLINE_S)
        with self.process as process:
            return process.wait(DEADLINE_S), "".join(self.said)

    def check(self) -> None:
        """End it, and check that all of it came, in order, without a word on stderr."""
        assert self.end() == (0, "")
        for rank in range(max(1, len(self.machines.names) - 1)):
            came = [line.split()[1:] for line in self.lines if line.split()[0] == str(rank)]
            count = len(came) - 1
            assert came == [*([str(n)] for n in range(1, count + 1)), ["all", str(count)]], rank


def running(count: int) -> Iterator[Machines]:
    """Yield so many machines that are up; for fixtures."""
    made = Machines(count)
    try:
        yield made.up()
    finally:
        made.close()
