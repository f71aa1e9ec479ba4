"""The manual of the original, executed as written on machines of their own, and faults of their network.

Each machine is a network namespace and a host name; they hang on one switch. The files that the
manual puts into /etc are in a directory for each machine, named with options.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .conftest import BIN, DEADLINE_S, wait_until

_SETTINGS = """\
relay_user = "daemon"
heartbeat_s = 0.5
lost_after_s = 3.0
orphan_grace_s = 2.0
"""


def _why_not() -> str:
    """Return what is missing for machines of our own, "" if nothing is."""
    if os.geteuid() != 0:
        return "needs root: network namespaces"
    for tool in ("ip", "unshare", "nsenter", "openssl"):
        if shutil.which(tool) is None:
            return f"needs the program {tool}"
    script = "ip link add lan0 type bridge && ip link add port0 type veth peer name port1"
    words = ["unshare", "--net", "--uts", "sh", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True)
    return f"needs namespaces, veth and bridge: {done.stderr.strip()}" if done.returncode else ""


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "-")


class Machine:
    """A network and a host name of its own, held by one process that does nothing."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        script = 'hostname "$0"; ip link set lo up; echo; exec sleep infinity'
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "sh", "-c", script, name], stdout=subprocess.PIPE
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"\n"
        self.net = os.readlink(f"/proc/{self.holder.pid}/ns/net")
        self.mac = ""

    def command(self, *words: object) -> list[str]:
        """Return the argv that runs these words on this machine."""
        return ["nsenter", "--target", str(self.holder.pid), "--net", "--uts", "--", *map(str, words)]

    def run(self, *words: object) -> str:
        """Run a command on this machine; it must succeed."""
        done = subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def processes(self) -> dict[int, str]:
        """Return the processes on this machine but for its holder, by pid, with their names."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "ns" / "net") == self.net:
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
            except OSError:
                continue
        found.pop(self.holder.pid, None)
        return found

    def jobs(self) -> dict[int, str]:
        """Return those that are no daemons."""
        daemons = ("authd", "gexecd")
        return {pid: name for pid, name in self.processes().items() if not name.startswith(daemons)}

    def stop_daemons(self) -> None:
        """End what runs on this machine: gently, then all that is left."""
        for pid, name in self.processes().items():
            if name in ("authd", "gexecd-spawner"):
                _signal(pid, signal.SIGTERM)
                _signal(pid, signal.SIGTERM)
        end_s = time.monotonic() + DEADLINE_S
        while self.processes() and time.monotonic() < end_s:
            time.sleep(0.02)
        left = self.processes()
        for pid in left:
            _signal(pid, signal.SIGKILL)
        assert not left, f"{left} are left on {self.name}"

    def close(self) -> None:
        """End the machine."""
        self.holder.kill()
        self.holder.communicate()


def _signal(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


class Site:
    """grid000, where the user sits, and the compute nodes cap001 and cap002, on one switch."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="gxm", dir="/tmp"))
        self.dir.chmod(0o755)
        self.switch = Machine("switch", "")
        self.switch.run("ip", "link", "add", "lan", "type", "bridge")
        self.switch.run("ip", "link", "set", "lan", "up")
        names = ("grid000", "cap001", "cap002")
        self.machines = {name: Machine(name, f"10.77.0.{rank}") for rank, name in enumerate(names, 1)}
        for machine in self.machines.values():
            self._plug_in(machine)
        for one in self.machines.values():
            for other in self.machines.values():
                if one is not other:  # or a fault would be told by ARP instead of by silence
                    neighbour = ("dev", "eth0", "lladdr", other.mac, "nud", "permanent")
                    one.run("ip", "neigh", "replace", other.address, *neighbour)
        self.hosts = self.dir / "hosts"
        self.hosts.write_text("".join(f"{m.address} {m.name}\n" for m in self.machines.values()))
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}

    def _plug_in(self, machine: Machine) -> None:
        peer = ("peer", "name", "eth0", "netns", machine.holder.pid)
        self.switch.run("ip", "link", "add", machine.name, "type", "veth", *peer)
        self.switch.run("ip", "link", "set", machine.name, "master", "lan", "up")
        machine.run("ip", "address", "add", f"{machine.address}/24", "dev", "eth0")
        machine.run("ip", "link", "set", "eth0", "up")
        machine.mac = machine.run("ip", "-o", "link", "show", "eth0").split("link/ether ")[1].split()[0]

    def etc(self, name: str) -> Path:
        """Return what stands for /etc on a machine."""
        return self.dir / name / "etc"

    def install(self) -> None:
        """Do what the manual says, from the keys to the running daemons."""
        for name in self.machines:
            self.etc(name).mkdir(parents=True)
        first = self.dir / "root"
        first.mkdir()
        for words in (
            "openssl genrsa -out auth_priv.pem",
            "chmod 600 auth_priv.pem",
            "openssl rsa -in auth_priv.pem -pubout -out auth_pub.pem",
            *(f"cp auth_priv.pem {self.etc(name)}" for name in self.machines),
            *(f"cp auth_pub.pem {self.etc(name)}" for name in self.machines),
        ):
            subprocess.run(words.split(), cwd=first, check=True, capture_output=True)
        for name in self.machines:
            self.start(name)

    def start(self, name: str) -> None:
        """`authd -d && gexecd -d` on a machine."""
        etc, run = self.etc(name), self.dir / name / "run"
        run.mkdir(exist_ok=True)
        (etc / "gexecd.toml").write_text(_SETTINGS)
        keys = ["--public-key", etc / "auth_pub.pem"]
        machine = self.machines[name]
        machine.run(
            sys.executable, BIN / "authd", "-d", "--private-key", etc / "auth_priv.pem", *keys,
            "--socket", run / "authd.sock", "--log", self.dir / name / "log" / "authd.log",
        )  # fmt: skip
        machine.run(
            sys.executable, BIN / "gexecd", "-d", *keys, "--authd-socket", run / "authd.sock",
            "--socket", run / "gexecd.sock", "--log", self.dir / name / "log" / "gexecd.log",
            "--hosts", self.hosts, "--config", etc / "gexecd.toml",
        )  # fmt: skip

    def restart(self, name: str) -> None:
        """Stop a machine's daemons and start them again."""
        self.machines[name].stop_daemons()
        self.start(name)

    def begin(self, *words: object, nodes: str = "grid000 cap001 cap002") -> subprocess.Popen[str]:
        """Start gexec at grid000, as a user does whose profile has GEXEC_SVRS."""
        run = self.dir / "grid000" / "run"
        mine = {
            "GEXEC_SVRS": nodes,
            "GEXEC_HOSTS": str(self.hosts),
            "GEXEC_SOCKET": str(run / "gexecd.sock"),
            "GEXEC_AUTHD_SOCKET": str(run / "authd.sock"),
        }
        return subprocess.Popen(
            self.machines["grid000"].command(sys.executable, BIN / "gexec", *words),
            env=self.env | mine,
            cwd="/",
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def gexec(self, *words: object, nodes: str = "grid000 cap001 cap002") -> tuple[int, list[str], str]:
        """Run gexec at grid000; return its status, the sorted lines of stdout, and stderr."""
        process = self.begin(*words, nodes=nodes)
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, sorted(out.splitlines()), err

    def typed(self, line: str) -> list[str]:
        """Type a line into a shell at grid000; return the sorted lines that it shows."""
        run = self.dir / "grid000" / "run"
        profile, nodelist = self.dir / "gexec.sh", self.dir / "nodelist"
        profile.write_text('#!/bin/sh\nexport GEXEC_SVRS="grid000 cap001 cap002"\n')
        nodelist.write_text("grid000\ncap001\ncap002\n")
        mine = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "GEXEC_NODELIST": str(nodelist),  # stands for /etc/gexec/nodelist
            "GEXEC_HOSTS": str(self.hosts),
            "GEXEC_SOCKET": str(run / "gexecd.sock"),
            "GEXEC_AUTHD_SOCKET": str(run / "authd.sock"),
        }
        done = subprocess.run(
            self.machines["grid000"].command("sh", "-c", f". {profile}\n{line}"),
            env=self.env | mine,
            cwd="/",
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr + self.logs()
        return sorted(done.stdout.splitlines())

    def logs(self) -> str:
        """Return what the daemons have written, for whoever looks for a fault."""
        return "\n".join(f"--- {path}\n{path.read_text()}" for path in sorted(self.dir.glob("*/log/*d.log")))

    def close(self) -> None:
        """End everything that was started, and take everything away that was made."""
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.dir)
            for machine in (*self.machines.values(), self.switch):
                stack.callback(machine.close)
            for machine in self.machines.values():
                stack.callback(machine.stop_daemons)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    made = Site()
    try:
        made.install()
        yield made
    finally:
        made.close()


@pytest.fixture
def go(site: Site) -> Iterator[Path]:
    """A directory in which a job on a node waits for a file with the node's name."""
    path = site.dir / "go"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def waiting(site: Site, go: Path, nodes: str = "cap001 cap002") -> subprocess.Popen[str]:
    """Start a job of which every node waits until its file is there."""
    script = f"echo up; while [ ! -e {go}/$GEXEC_NODE ]; do sleep 0.05; done; echo done on $GEXEC_NODE"
    job = site.begin("-p", "none", "sh", "-c", script, nodes=nodes)
    assert job.stdout is not None
    for _ in nodes.split():
        assert job.stdout.readline() == "up\n", site.logs()
    return job


def test_gexec_on_the_first_two(site: Site) -> None:
    status, out, err = site.gexec("-n", "2", "hostname")
    assert (status, out) == (0, ["0 grid000", "1 cap001"]), err + site.logs()


def test_gexec_on_all(site: Site) -> None:
    status, out, err = site.gexec("-n", "0", "hostname")
    assert (status, out) == (0, ["0 grid000", "1 cap001", "2 cap002"]), err + site.logs()


def test_gexec_on_another_list(site: Site) -> None:
    status, out, err = site.gexec("-n", "1", "hostname", nodes="cap002 cap001")
    assert (status, out) == (0, ["0 cap002"]), err + site.logs()


def test_gexec_by_address(site: Site) -> None:
    status, out, err = site.gexec("-p", "none", "hostname", nodes="10.77.0.3 10.77.0.2")
    assert (status, out) == (0, ["cap001", "cap002"]), err + site.logs()


# -- the examples of the seed, as they are written there, with the names that we have -----------


def test_seed_gexec_h(site: Site) -> None:
    said = site.typed("gexec -h")
    assert any(line.startswith("Usage: gexec [OPTIONS] ") for line in said)
    everything = " ".join(site.typed("gexec --help-all"))
    for option in (
        "-d, --detached", "-h, --help", "-v, --verbose", "-V, --version", "-f, --fanout", "-n, --nprocs",
        "-p, --prefix-type", "-P, --port",
    ):  # fmt: skip
        assert option in everything


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("gexec -n 3 hostname", ["0 grid000", "1 cap001", "2 cap002"]),
        ("gexec -n 2 hostname", ["0 grid000", "1 cap001"]),
        ("gexec -n 0 hostname", ["0 grid000", "1 cap001", "2 cap002"]),
        ('GEXEC_SVRS="cap002" ; gexec -n 1 hostname', ["0 cap002"]),
    ],
)
def test_seed_gexec_n(site: Site, line: str, said: list[str]) -> None:
    assert site.typed(line) == said


def test_seed_enexec(site: Site) -> None:
    """`enexec` runs uptime on all nodes."""
    form = re.compile(r"(\S+) +\d\d:\d\d:\d\d up .*load average: \d+\.\d\d, \d+\.\d\d, \d+\.\d\d")
    matches = [form.fullmatch(line) for line in site.typed("enexec")]
    assert [match and match[1] for match in matches] == ["cap001", "cap002", "grid000"]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("enexec -n cap001 uname -a", ["cap001"]),
        ('enexec -n "cap001 cap002" uname -a', ["cap001", "cap002"]),
        ("enexec -x uname -a", ["cap001", "cap002"]),
    ],
)
def test_seed_enexec_uname(site: Site, line: str, names: list[str]) -> None:
    uname = os.uname()
    said = site.typed(line)
    assert [one.split()[:4] for one in said] == [[name, uname.sysname, name, uname.release] for name in names]


def test_seed_enexec_h(site: Site) -> None:
    said = site.typed("enexec -h")
    assert any(line.startswith("Usage: enexec [-n NODES] [-x] ") for line in said)
    assert any("-x, " in line and "exclude this host" in line for line in said)


# -- other machines, and faults of the network --------------------------------------------------


def test_attack_39_another_machine_at_the_address(site: Site) -> None:
    """Who is at cap001's address but is not cap001 gets no job."""
    hosts = site.hosts.read_text()
    site.hosts.write_text("10.77.0.1 grid000\n10.77.0.3 cap001\n")
    try:
        status, out, err = site.gexec("hostname", nodes="cap001 grid000")
    finally:
        site.hosts.write_text(hosts)
    assert (status, out) == (255, ["1 grid000"]), err
    assert "cap001" in err
    assert "certificate" in err


def test_every_machine_can_be_where_the_user_sits(site: Site) -> None:
    """A job goes from grid000 through cap001 to cap002 when the tree is a chain."""
    status, out, err = site.gexec("-f", "1", "-n", "0", "hostname")
    assert (status, out) == (0, ["0 grid000", "1 cap001", "2 cap002"]), err + site.logs()


def test_link_down_in_mid_job(site: Site, go: Path) -> None:
    lost = site.machines["cap002"]
    job = waiting(site, go)
    lost.run("ip", "link", "set", "eth0", "down")
    try:
        (go / "cap001").touch()
        out, err = job.communicate(timeout=DEADLINE_S)
        assert job.returncode == 255, err
        assert out == "done on cap001\n"
        assert "cap002" in err
        assert "lost" in err
        assert "cap001" not in err
        # Nobody is left who could want its output, so its process does not stay.
        wait_until(lambda: not lost.jobs(), "the process of the lost node runs on")
    finally:
        lost.run("ip", "link", "set", "eth0", "up")
        (go / "cap002").touch()
    assert site.gexec("-p", "none", "hostname")[:2] == (0, ["cap001", "cap002", "grid000"])


def test_packets_swallowed_in_mid_job(site: Site, go: Path) -> None:
    job = waiting(site, go)
    site.switch.run("ip", "link", "set", "cap002", "nomaster")
    try:
        (go / "cap001").touch()
        out, err = job.communicate(timeout=DEADLINE_S)
        assert job.returncode == 255, err
        assert out == "done on cap001\n"
        assert "cap002" in err
        assert "lost" in err
        wait_until(lambda: not site.machines["cap002"].jobs(), "the process of the lost node runs on")
    finally:
        site.switch.run("ip", "link", "set", "cap002", "master", "lan")
        (go / "cap002").touch()
    assert site.gexec("-p", "none", "hostname")[:2] == (0, ["cap001", "cap002", "grid000"])


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_packets_swallowed_before_the_start(site: Site, warm: bool) -> None:
    """A link that is not there cannot be made; one that is there from earlier is silent."""
    if warm:
        assert site.gexec("true")[0] == 0
    else:
        site.restart("grid000")
    site.switch.run("ip", "link", "set", "cap002", "nomaster")
    try:
        status, out, err = site.gexec("--connect-timeout", "1", "hostname")
    finally:
        site.switch.run("ip", "link", "set", "cap002", "master", "lan")
    assert (status, out) == (255, ["0 grid000", "1 cap001"]), err
    (line,) = (line for line in err.splitlines() if "cap002" in line)
    assert "lost" in line or "not started" in line or "no answer" in line, err
    if not warm:
        assert "lost" not in line, err
    assert site.gexec("-p", "none", "hostname")[:2] == (0, ["cap001", "cap002", "grid000"])


def test_daemon_killed_and_started_again(site: Site, go: Path) -> None:
    job = waiting(site, go)
    node = site.machines["cap002"]
    (spawner,) = (pid for pid, name in node.processes().items() if name == "gexecd-spawner")
    os.kill(spawner, signal.SIGKILL)
    (go / "cap001").touch()
    out, err = job.communicate(timeout=DEADLINE_S)
    assert (job.returncode, out) == (255, "done on cap001\n"), err
    assert "cap002" in err
    (go / "cap002").touch()
    site.restart("cap002")
    assert site.gexec("-p", "none", "hostname")[:2] == (0, ["cap001", "cap002", "grid000"])
