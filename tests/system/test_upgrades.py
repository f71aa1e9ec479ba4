"""Upgrades under running jobs: gexecds that were started one by one, as on real nodes, on one machine.

Every job writes numbered lines, so a line that is missing, doubled or out of order is seen.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import cache_from_source
from pathlib import Path

import pytest

import gexec
from gexec.limits import PROTOCOL_VERSION
from gexec.wire import outcome
from gexec.wire.frames import FROM_ROOT, Decoder, Frame, Hello, encode
from gexec.wire.orders import Upgrade

from .conftest import DEADLINE_S, Cluster, gexecctl, wait_until
from .daemons import Service, children_of, command, ended, relay_of, status_of
from .several import Counting, Machines, running

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def machines() -> Iterator[Machines]:
    yield from running(5)


@pytest.fixture
def one() -> Iterator[Machines]:
    yield from running(1)


# -- jobs go on --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [["node3"], ["node2"], ["node1"], ["node1", "node2", "node3", "node4", "node5"]],
    ids=["a leaf", "an inner node", "the submitting node", "all at once"],
)  # fmt: skip
def test_a_streaming_job_goes_on(machines: Machines, names: list[str]) -> None:
    """With fan-out 2, node2 (rank 0) is the parent of node3, and node4 that of node5."""
    job = Counting(machines)
    job.wait_for_more()
    before = [(service.process.pid, relay_of(service.process.pid)) for service in machines.gexecds]
    machines.upgrade_all(names)
    job.wait_for_more()
    after = [(service.process.pid, relay_of(service.process.pid)) for service in machines.gexecds]
    assert [pid for pid, _ in before] == [pid for pid, _ in after]
    changed = [name for name, old, new in zip(machines.names, before, after, strict=True) if old[1] != new[1]]
    assert changed == names
    job.check()
    assert machines.gexec("-f", 2, "--", "/bin/true").returncode == 0


def test_two_upgrades_of_all_in_a_row(machines: Machines) -> None:
    job = Counting(machines)
    for _ in range(2):
        job.wait_for_more()
        machines.upgrade_all(machines.names)
    job.wait_for_more()
    job.check()


def test_stdin_goes_on(machines: Machines) -> None:
    """Half of it comes before an upgrade of all nodes, half after it."""
    half = b"".join(b"%d\n" % number for number in range(300_000))
    with subprocess.Popen(
        [*command("gexec"), "-f", "2", "--", "/usr/bin/sha256sum"],
        env=machines.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(half)
        process.stdin.flush()
        machines.upgrade_all(machines.names)
        out, err = process.communicate(half, timeout=DEADLINE_S)
    digest = hashlib.sha256(half + half).hexdigest()
    assert (process.returncode, err) == (0, b"")
    assert sorted(out.decode().splitlines()) == [f"{rank} {digest}  -" for rank in range(4)]


def test_a_client_that_does_not_read_gets_all_of_it_later(machines: Machines) -> None:
    """Every queue from the processes to the client is full during the upgrade."""
    process = machines.begin("-f", 2, "--", "/usr/bin/seq", "1", "500000")
    wait_until(lambda: all(map(_tasks_of, machines.gexecds[1:])), "not all have started")
    pids = [pid for service in machines.gexecds[1:] for pid in _tasks_of(service)]
    wait_until(lambda: all(map(_sleeps, pids)), "the processes can always write")
    machines.upgrade_all(machines.names)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, "")
    lines = out.splitlines()
    for rank in range(4):
        came = [line.split()[1] for line in lines if line.startswith(f"{rank} ")]
        assert came == [str(number) for number in range(1, 500_001)], rank


def _tasks_of(service: Service) -> list[int]:
    """Return the pids of the commands that a gexecd runs."""
    found = []
    for helper in children_of(service.process.pid):
        for child in children_of(helper):
            below = children_of(child) if status_of(child)["Name"] == ["gexecd-helper"] else [child]
            found += [pid for pid in below if status_of(pid)["Name"] == ["seq"]]
    return found


def _sleeps(pid: int) -> bool:
    """Tell whether a process sleeps; seq does so only while it cannot write."""
    return status_of(pid)["State"][0] == "S"


def test_a_strict_job_that_waits_for_a_node_starts_later(machines: Machines) -> None:
    """The last node cannot answer until the others were upgraded."""
    stopped = machines.gexecds[-1].process.pid
    os.kill(stopped, signal.SIGSTOP)
    try:
        process = machines.begin("--strict", "-f", 2, "--", "/bin/echo", "ran")
        audits = [machines.dir / f"node{number}.audit" for number in (2, 3, 4)]
        wait_until(
            lambda: all(audit.exists() and '"accept"' in audit.read_text() for audit in audits),
            "the other nodes have not checked the job",
        )
        machines.upgrade_all(machines.names[:-1])
    finally:
        os.kill(stopped, signal.SIGCONT)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, "")
    assert sorted(out.splitlines()) == [f"{rank} ran" for rank in range(4)]


# -- what is not forgotten ---------------------------------------------------------------------


def test_attack_141_a_credential_that_was_used_before_an_upgrade(one: Machines) -> None:
    one.env["GEXEC_HOSTS"] = str(one.hosts)
    raw, blob = one.signed("/bin/true")
    assert ended(one.submit(raw, blob)).outcome == outcome.exited(0)
    assert one.upgrade("--force").returncode == 0
    again = ended(one.submit(raw, blob)).outcome
    assert again.kind in (outcome.DENIED, outcome.LOST)
    assert "already accepted by this node; it runs once" in again.text


@pytest.mark.root
def test_attack_142_another_user_asks_for_an_upgrade(one: Machines) -> None:
    relay = relay_of(one.gexecds[0].process.pid)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os.write(writing, repr(_asked(one.socket)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    told = os.read(reading, 65536).decode()
    os.close(reading)
    os.close(writing)
    assert "uid 65534 may not upgrade gexecd: only root or its own user may" in told
    assert relay_of(one.gexecds[0].process.pid) == relay


def _asked(path: Path) -> list[Frame]:
    """Ask for an upgrade; return what gexecd answers first."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(str(path))
        sock.sendall(encode(0, Hello(PROTOCOL_VERSION, "test")) + encode(1, Upgrade(True)))
        decoder, answers = Decoder(FROM_ROOT), list[Frame]()
        while not answers:
            answers += [frame for channel, frame in decoder.feed(sock.recv(65536)) if channel]
    return answers


def test_the_new_relay_is_confined_as_the_old_one_was(one: Machines) -> None:
    fields = ["Name", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"]
    fields += ["Seccomp", "SigBlk"]

    def looks() -> tuple[list[list[str]], int, list[str]]:
        pid = relay_of(one.gexecds[0].process.pid)
        status = status_of(pid)
        kinds = {os.readlink(fd.path).partition(":")[0] for fd in os.scandir(f"/proc/{pid}/fd")}
        ignored = int(status["SigIgn"][0], 16) & 0x7FFF_FFFF  # libc's own signals are above
        return [status[name] for name in fields], ignored, sorted(kinds)

    before = looks()
    assert one.upgrade("--force").returncode == 0
    assert one.gexec("--", "/bin/true").returncode == 0
    assert looks() == before


def test_signals_and_the_end_of_a_job_reach_processes_from_before(one: Machines) -> None:
    process = one.begin("--", "/bin/sh", "-c", "trap 'echo got it; exit 7' USR1; echo up; sleep 60 & wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "0 up\n"
    assert one.upgrade("--force").returncode == 0
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert (out, process.returncode) == ("0 got it\n", 7)
    audit = (one.dir / "node1.audit").read_text()
    assert [int(seq) for seq in re.findall(r'"seq":(\d+)', audit)] == list(range(1, 1 + audit.count("\n")))
    assert '"event":"exit"' in audit


def test_the_process_that_has_started_a_task_stays(one: Machines) -> None:
    """Its helper; or the starter, if gexecd is an ordinary user's."""
    with subprocess.Popen(
        [*command("gexec"), "--", "/bin/sh", "-c", "echo up $PPID; read line; echo $line $PPID"],
        env=one.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as job:  # fmt: skip
        assert job.stdout is not None
        _, _, parent = job.stdout.readline().split()
        assert one.upgrade("--force").returncode == 0
        out, _ = job.communicate("on\n", timeout=DEADLINE_S)
    assert (out, job.returncode) == (f"0 on {parent}\n", 0)


# -- which code runs ---------------------------------------------------------------------------


class Copy:
    """A copy of the package that a test may change, and commands that run it."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "code" / "gexec"
        source = Path(gexec.__file__).parent
        shutil.copytree(source, self.package, ignore=shutil.ignore_patterns("__pycache__", "_native"))

    def change(self, path: str, text: Callable[[str], str]) -> None:
        """Change a module, without its compiled form: a change of the same length and second is not seen."""
        file = self.package / path
        file.write_text(text(file.read_text()))
        Path(cache_from_source(file)).unlink(missing_ok=True)


@pytest.fixture
def copied() -> Iterator[tuple[Machines, Copy]]:
    made = Machines(1)
    copy = Copy(made.dir)
    made.package = copy.package
    try:
        yield made.up(), copy
    finally:
        made.close()


def _with_version(version: str) -> Callable[[str], str]:
    return lambda text: re.sub(r"^VERSION\b.*$", f'VERSION = "{version}"', text, flags=re.MULTILINE)


def test_nothing_is_done_if_the_code_is_the_same(copied: tuple[Machines, Copy]) -> None:
    machines, _ = copied
    relay = relay_of(machines.gexecds[0].process.pid)
    told = machines.upgrade()
    assert told.returncode == 0
    assert re.fullmatch(r"nothing to do: gexec \S+ \([0-9a-f]{8}\) runs already\n", told.stdout)
    assert relay_of(machines.gexecds[0].process.pid) == relay


def test_new_code_runs_after_an_upgrade_and_reload(copied: tuple[Machines, Copy]) -> None:
    machines, copy = copied
    job = Counting(machines)
    job.wait_for_more()
    copy.change("version.py", _with_version("77.0"))
    told = machines.upgrade()
    assert (told.returncode, told.stderr) == (0, "")
    assert re.search(
        r"-> gexec 77\.0 \([0-9a-f]{8}\); jobs carried over: 2; pause of the relay: \d", told.stdout
    )
    relay = relay_of(machines.gexecds[0].process.pid)
    copy.change("version.py", _with_version("78.0"))
    machines.gexecds[0].process.send_signal(signal.SIGHUP)
    wait_until(lambda: "-> gexec 78.0" in machines.gexecds[0].errors(), "SIGHUP upgrades nothing")
    assert relay_of(machines.gexecds[0].process.pid) != relay
    job.wait_for_more()
    job.check()


@pytest.mark.parametrize(
    ("path", "change", "why"),
    [
        ("relay/jobs.py", lambda text: text + "\nbroken (\n", "the new relay cannot go on: it has ended"),
        ("relay/link.py", lambda text: "import gexec.no_such_module\n", "the new relay cannot go on"),
        ("spawner/tasks.py", lambda text: text + "\nbroken (\n", "the new spawner's code cannot be used"),
        ("gexecd/rereading.py", lambda text: "broken (\n", "keys and policy were not read"),
        (
            "core/saving.py",
            lambda text: re.sub(r"VERSION = \d+", "VERSION = 99", text),
            "the new code needs 99",
        ),
        (
            "spawner/upgrades.py",
            lambda text: re.sub(r"STATE: Final = \d+", "STATE: Final = 99", text),
            "the new spawner needs state of the form 99, the running one has",
        ),
        (
            "relay/carrying.py",
            lambda text: text.replace("    made = []\n", "    made = [][1]\n"),
            "the new relay cannot go on: IndexError",
        ),
    ],
    ids=["relay", "module", "spawner", "reading", "state of the relay", "state of the spawner", "restoring"],
)
def test_the_running_code_goes_on_if_the_new_one_cannot(
    copied: tuple[Machines, Copy], path: str, change: Callable[[str], str], why: str
) -> None:
    machines, copy = copied
    job = Counting(machines)
    job.wait_for_more()
    spawner = machines.gexecds[0].process.pid
    relay = relay_of(spawner)
    copy.change(path, change)
    told = machines.upgrade()
    assert (told.returncode, told.stdout) == (1, "")
    assert why in told.stderr
    assert relay_of(spawner) == relay
    job.wait_for_more()
    job.check()
    assert machines.gexec("--", "/bin/true").returncode == 0


def test_a_local_cluster_is_not_upgraded(cluster: Cluster) -> None:
    told = gexecctl("upgrade", "--force", env=cluster.env)
    assert told.returncode == 1
    assert "a local cluster shares its code: use `gexecctl cluster down`" in told.stderr
    assert cluster.gexec("-n", 0, "true").returncode == 0


def test_sigterm_ends_an_upgraded_gexecd_as_any_other(one: Machines) -> None:
    assert one.upgrade("--force").returncode == 0
    assert one.gexecds[0].stop() == 0
    assert not one.socket.exists()


def test_an_upgrade_is_refused_while_gexecd_ends(one: Machines) -> None:
    process = one.begin("--", "/bin/sh", "-c", "echo up; read line; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == "0 up\n"
    one.gexecds[0].process.send_signal(signal.SIGTERM)
    wait_until(lambda: "gexecd is shutting down" in one.gexec("--", "/bin/true").stderr, "it takes new jobs")
    told = one.upgrade("--force")
    assert told.returncode == 1
    assert "gexecd is shutting down" in told.stderr
    process.kill()
    process.communicate()
