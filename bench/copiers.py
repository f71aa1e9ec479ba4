"""The tools that bench/copying.py compares, the directories they copy to, and what a copy costs."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from floor import CORES
from run import BIN, below
from sshd import LocalSshd

from gexec.cluster import control
from gexec.cluster.layout import Layout, node_address, node_names

MIB = 2**20
#: Time limit of one command.
DEADLINE_S = 900.0
#: Space kept free for other processes of this machine.
SPARE_BYTES = 512 * MIB
#: The sftp servers, which scp uses since OpenSSH 9.
SFTP_SERVERS = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
)


class BenchError(Exception):
    """A command failed, or had a wrong result."""


class Place:
    """The target of one measurement: a directory for each node, by its name or its address."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.source = folder / "source"
        self.target = folder / "to"
        self.names = node_names(nodes)
        self.addresses = [node_address(index) for index in range(nodes)]

    def clear(self) -> None:
        """Create empty directories for all nodes; a name and its address are the same directory."""
        shutil.rmtree(self.target, ignore_errors=True)
        for name, address in zip(self.names, self.addresses, strict=True):
            (self.target / name).mkdir(parents=True)
            (self.target / address).symlink_to(name)

    def check(self, what: str) -> None:
        """Raise BenchError unless every node has an exact copy."""
        for name in self.names:
            copy = self.target / name / self.source.name
            if subprocess.run(["diff", "-rq", self.source, copy], stdout=subprocess.DEVNULL).returncode:
                raise BenchError(f"{what}: the copy on {name} differs from the original")


def described(folder: str) -> str:
    """Return the directory and its file system, e.g. ``/dev/shm (tmpfs)``."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip()
    return f"{folder} ({kind})"


@contextmanager
def place_in(directory: str, nodes: int, wanted_bytes: int) -> Iterator[Place]:
    """Create a directory for a source and its copies, and remove it afterwards."""
    free = shutil.disk_usage(directory).free
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split()[:2] for line in file)
    if "tmpfs" in described(directory):
        free = min(free, int(fields["MemAvailable:"]) * 1024)
    if wanted_bytes + SPARE_BYTES > free:
        raise BenchError(
            f"{directory}: {wanted_bytes // MIB} MiB are needed and {free // MIB} are free, of which "
            f"{SPARE_BYTES // MIB} must stay free; choose smaller --sizes or another --dir"
        )
    folder = Path(tempfile.mkdtemp(prefix="gexec-bench-", dir=directory))
    folder.chmod(0o755)
    try:
        yield Place(folder, nodes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def by_cat(place: Place) -> None:
    """Copy once for each node with cat, one at a time per core: no program here writes faster."""
    waiting, running = list(place.names), list[subprocess.Popen[bytes]]()
    while waiting or running:
        while waiting and len(running) < CORES:
            with open(place.target / waiting.pop() / place.source.name, "wb") as file:
                running.append(subprocess.Popen(["cat", place.source], stdout=file))
        if running.pop(0).wait():
            raise BenchError("cat failed")


def by_cp(place: Place) -> None:
    """Copy the directory of small files once for each node with cp, one at a time per core."""
    waiting, running = list(place.names), list[subprocess.Popen[bytes]]()
    while waiting or running:
        while waiting and len(running) < CORES:
            words = ["cp", "-r", str(place.source), str(place.target / waiting.pop())]
            running.append(subprocess.Popen(words))
        if running.pop(0).wait():
            raise BenchError("cp failed")


class Ours:
    """ensync, or instead gexec with the file as stdin of a cat on each node."""

    def __init__(self, tool: str, place: Place, environ: dict[str, str]) -> None:
        self._tool, self._place, self._environ = tool, place, environ
        self.name = "ensync" if tool == "ensync" else "gexec ... cat"
        self._nodes = ",".join(place.names)

    def copy(self, path: Path) -> None:
        """Copy a file or directory to all nodes."""
        if self._tool == "ensync":
            words = [sys.executable, str(BIN / "ensync"), "--nodes", self._nodes, "--via=gexec"]
            call([*words, "--dest", f"{self._place.target}/%h", str(path)], self._environ)
            return
        gexec = shlex.join([sys.executable, str(BIN / "gexec"), "--nodes", self._nodes, "--chdir=/"])
        target, quoted = shlex.quote(str(self._place.target)), shlex.quote(str(path))
        if path.is_dir():
            script = f"tar c -C {shlex.quote(str(path.parent))} {path.name}"
            script += f" | {gexec} sh -c 'tar x -C \"$0/$GEXEC_NODE\"' {target}"
        else:
            script = f"{gexec} sh -c 'cat >\"$0/$GEXEC_NODE/$1\"' {target} {path.name} <{quoted}"
        call(["sh", "-c", script], self._environ)

    def whole(self, place: Place) -> None:
        """Copy the place's source."""
        self.copy(place.source)


class Ssh:
    """Copies over our own sshd. An address leads to the directory of that node."""

    def __init__(self, sshd: LocalSshd) -> None:
        words = [shlex.quote(word) for word in sshd.options]
        self._words = sshd.options
        self._config = sshd.folder / "ssh_config"
        self._config.write_text(
            f"Port {sshd.port}\nIdentityFile {sshd.folder}/user\nUser {words[words.index('-l') + 1]}\n"
            "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\nBatchMode yes\n"
        )

    def scp(self, place: Place) -> None:
        """Copy to one node after the other."""
        for address in place.addresses:
            call(["scp", "-q", "-F", str(self._config), str(place.source), f"{address}:{place.source.name}"])

    def pdcp(self, place: Place) -> None:
        """Copy with pdcp, with its default fan-out of 32."""
        environ = os.environ | {"PDSH_SSH_ARGS": f"-F {self._config} -2 -a -x %h"}
        words = ["pdcp", "-R", "ssh", "-w", ",".join(place.addresses)]
        call([*words, str(place.source), place.source.name], environ)

    def rsync(self, place: Place) -> None:
        """Copy what is different to one node after the other."""
        shell = f"ssh -F {shlex.quote(str(self._config))}"
        for address in place.addresses:
            call(["rsync", "-a", "-e", shell, str(place.source), f"{address}:"])

    def has_clush(self) -> bool:
        """Tell whether clush is installed here."""
        return (BIN / "clush").exists()

    def clush(self, place: Place) -> None:
        """Copy with clush, with its default fan-out of 64."""
        self._clush(place, "--dest", place.source.name)

    def clush_over(self, place: Place) -> None:
        """Copy with clush, with times, over what is there."""
        self._clush(place, "-p", "--dest", ".")

    def _clush(self, place: Place, *options: str) -> None:
        words = [sys.executable, str(BIN / "clush"), "-S", "-o", f"-F {self._config}"]
        words += ["-w", ",".join(place.addresses)]
        call([*words, "--copy", str(place.source), *options])


def sshd_settings(place: Place) -> str:
    """Return settings with which sshd starts each command in the directory of the called address."""
    server = next((path for path in SFTP_SERVERS if os.path.exists(path)), "")
    subsystem = f"Subsystem sftp {server}\n" if server else ""
    target = shlex.quote(str(place.target))
    into = f'set -- $SSH_CONNECTION; cd {target}/"$3" && eval "$SSH_ORIGINAL_COMMAND"'
    return f"{subsystem}ForceCommand exec sh -c {shlex.quote(into)}\n"


def call(words: list[str], environ: dict[str, str] | None = None) -> None:
    """Run a command to its end; BenchError if it fails."""
    done = subprocess.run(
        words, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise BenchError(f"{' '.join(words)[:200]}: status {done.returncode}, {said}")


def guard_of(environ: dict[str, str]) -> int:
    """Return the pid of the first process of a cluster."""
    return control.require(Layout.of(environ["GEXEC_CLUSTER_DIR"])).guard.pid


def timed(what: Callable[[], None], place: Place) -> float:
    """Return the seconds until it is done and everything it wrote is on the disk."""
    started_s = time.perf_counter()
    what()
    subprocess.run(["sync", "-f", place.target], check=True)
    return time.perf_counter() - started_s


def cpu_s(daemons: list[int]) -> float:
    """Return the CPU seconds of our ended children, and of daemons with all that they started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for pid in {pid for daemon in daemons for pid in below(daemon)}:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended
        ticks += sum(map(int, fields[11:15]))  # its own, and those of its ended children
    return used.ru_utime + used.ru_stime + ticks / os.sysconf("SC_CLK_TCK")
