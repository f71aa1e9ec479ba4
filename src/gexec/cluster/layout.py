"""The parts of a local cluster: names, addresses, paths in its directory, and its recorded state.

::

    DIR/keys/auth_priv.pem, auth_pub.pem   the cluster's key pair, created at the first start and kept
    DIR/run/authd.sock, NODE.sock          the sockets of authd and of each node's gexecd
    DIR/hosts                              names and addresses, in the format of /etc/hosts
    DIR/state.json                         what runs: pids with start times, addresses, port
    DIR/logs/NODE.log                      each daemon's log; DIR/audit/NODE.log its audit log
    DIR/spool/NODE                         each node's background jobs

Computes the paths and reads or writes these files; starts and ends no processes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import socket
from dataclasses import dataclass, field
from pathlib import Path

from gexec.cluster import ownership
from gexec.cluster.processes import Process, is_alive
from gexec.cluster.whole import write_whole
from gexec.errors import GexecError, UsageError
from gexec.limits import DEFAULT_PORT, SOCKET_PATH_MAX_BYTES

#: Nodes of one local cluster: each needs two processes, and Linux has 32,768 pids by default.
NODES_MAX = 10_000
#: state.json of NODES_MAX nodes takes about 1 MB.
STATE_MAX_BYTES = 4 * 1024 * 1024
#: How many ports from the default one on are tried if it is in use.
PORTS_TRIED = 1000
#: The address at which a cluster reserves its port against others that start at the same time.
_RESERVATION_ADDRESS = "127.0.0.2"


class ClusterError(GexecError):
    """The local cluster cannot be started, found or stopped; the sentence says why."""


def default_dir() -> Path:
    """Return $GEXEC_CLUSTER_DIR, else ~/.local/state/gexec/cluster."""
    given = os.environ.get("GEXEC_CLUSTER_DIR")
    return Path(given) if given else Path.home() / ".local/state/gexec/cluster"


def node_names(count: int) -> list[str]:
    """Return node001, node002, ...: at least three digits, as many as the last one needs."""
    width = max(3, len(str(count)))
    return [f"node{number:0{width}d}" for number in range(1, count + 1)]


def node_address(index: int) -> str:
    """Return the loopback address of node ``index`` (from 0): 127.0.1.1, 127.0.1.2, ... 127.0.2.1 ..."""
    return f"127.0.{1 + index // 254}.{1 + index % 254}"


@dataclass(frozen=True)
class Layout:
    """The paths of a cluster's directory. ``dir`` is absolute."""

    dir: Path

    @classmethod
    def of(cls, directory: str | os.PathLike[str] | None) -> Layout:
        """Return the layout of a directory (None: the default one), which need not exist yet."""
        return cls(Path(os.path.abspath(default_dir() if directory is None else directory)))

    @property
    def private_key(self) -> Path:
        """The private half of the cluster's key."""
        return self.dir / "keys/auth_priv.pem"

    @property
    def public_key(self) -> Path:
        """The public half of the cluster's key."""
        return self.dir / "keys/auth_pub.pem"

    @property
    def hosts(self) -> Path:
        """The file that GEXEC_HOSTS names."""
        return self.dir / "hosts"

    @property
    def state(self) -> Path:
        """The record of what runs."""
        return self.dir / "state.json"

    @property
    def lock(self) -> Path:
        """Locked by the supervisor as long as it runs."""
        return self.dir / "lock"

    @property
    def authd_socket(self) -> Path:
        """authd's socket."""
        return self.dir / "run/authd.sock"

    def socket(self, name: str) -> Path:
        """Return the client socket of a node's gexecd."""
        return self.dir / f"run/{name}.sock"

    def log(self, name: str) -> Path:
        """Return the log of a node's gexecd, of ``authd`` or of the ``supervisor``."""
        return self.dir / f"logs/{name}.log"

    def audit(self, name: str) -> Path:
        """Return the audit log of a node's gexecd, or of ``authd``."""
        return self.dir / f"audit/{name}.log"

    def spool(self, name: str) -> Path:
        """Return the directory of a node's background jobs."""
        return self.dir / f"spool/{name}"

    def check(self, count: int) -> None:
        """Raise UsageError if a cluster of ``count`` nodes cannot be in this directory."""
        if not 1 <= count <= NODES_MAX:
            raise UsageError(f"{count} nodes: a local cluster has 1 to {NODES_MAX}")
        longest = os.fsencode(self.socket(node_names(count)[-1]))
        if len(longest) > SOCKET_PATH_MAX_BYTES:
            raise UsageError(
                f"{self.dir}: the path of a socket in it would have {len(longest)} bytes and the kernel "
                f"takes at most {SOCKET_PATH_MAX_BYTES}; choose a shorter directory with --dir"
            )

    def create(self) -> None:
        """Create the directories: only for this user, or readable by all if root creates them.

        Other users must reach the sockets of a cluster that root started; the keys' directory is never
        readable by them.
        """
        mode = 0o755 if os.geteuid() == 0 else 0o700
        # Missing directories above it must not be writable by a group: the daemons would refuse them.
        umask = os.umask(0o022)
        try:
            for path, its_mode in (
                (self.dir, mode),
                (self.dir / "keys", 0o700),
                (self.dir / "run", mode),
                (self.dir / "logs", 0o700),
                (self.dir / "audit", 0o700),
                (self.dir / "spool", mode),
            ):
                if not path.is_dir():
                    path.mkdir(mode=its_mode, parents=True)
                    path.chmod(its_mode)
        except OSError as error:
            raise ClusterError(
                f"{error.filename}: the cluster's directory cannot be created ({error.strerror}); "
                "choose another with --dir"
            ) from error
        finally:
            os.umask(umask)

    def remove_unused(self) -> None:
        """Remove the directory if it contains nothing that a user may need: no keys, no log lines.

        For a failed start, in a directory that it created itself.
        """
        if self.private_key.exists() or any(path.stat().st_size for path in (self.dir / "logs").glob("*")):
            return
        for path in (self.lock, self.hosts, self.log("supervisor")):
            path.unlink(missing_ok=True)
        try:
            for name in ("keys", "run", "logs", "audit", "spool", "."):
                if (self.dir / name).is_dir():
                    os.rmdir(self.dir if name == "." else self.dir / name)
        except OSError:
            pass  # another process has put something there

    def clear_sockets(self) -> None:
        """Remove the sockets of an earlier cluster."""
        for path in (self.dir / "run").glob("*.sock"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class LocalNode:
    """One node: its name, its address, and the first process of its daemon when that runs."""

    name: str
    address: str
    process: Process | None = None


@dataclass
class State:
    """The running cluster, as recorded in state.json. ``complete`` once every daemon was ready.

    ``private``: the private directories of each node (gexec.cluster.private).
    """

    port: int
    supervisor: Process
    guard: Process
    nodes: list[LocalNode] = field(default_factory=list)
    authd: Process | None = None
    complete: bool = False
    private: list[str] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """True while the cluster's supervisor runs."""
        return is_alive(self.supervisor)

    def node(self, name: str) -> LocalNode:
        """Return a node by its name; UsageError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise UsageError(f"{name}: no node of this cluster, which has {self.described_nodes()}")

    def described_nodes(self) -> str:
        """Return e.g. ``8 nodes, node001 to node008``."""
        count = len(self.nodes)
        if count == 0:
            return "no nodes yet"
        if count == 1:
            return f"1 node, {self.nodes[0].name}"
        return f"{count} nodes, {self.nodes[0].name} to {self.nodes[-1].name}"

    def write(self, layout: Layout) -> None:
        """Write state.json whole or not at all."""
        document = {
            "format": 1,
            "port": self.port,
            "complete": self.complete,
            "supervisor": self.supervisor,
            "guard": self.guard,
            "authd": self.authd,
            "private": self.private,
            "nodes": [[node.name, node.address, node.process] for node in self.nodes],
        }
        write_whole(layout.state, json.dumps(document, indent=None).encode() + b"\n", 0o644)

    @classmethod
    def read(cls, layout: Layout) -> State | None:
        """Return the recorded state, None if there is none.

        Raises:
            ClusterError: it is malformed, or another user could have written it: it must not be trusted,
                because the processes that it names get signals.
        """
        text = ownership.read_own(layout.state, STATE_MAX_BYTES, ClusterError)
        if text is None:
            return None
        try:
            if len(text) > STATE_MAX_BYTES:
                raise ValueError("too large")
            document = json.loads(text)
            if document["format"] != 1:
                raise ValueError("another format")
            return cls(
                port=int(document["port"]),
                supervisor=Process(*map(int, document["supervisor"])),
                guard=Process(*map(int, document["guard"])),
                nodes=[
                    LocalNode(str(name), str(address), process and Process(*map(int, process)))
                    for name, address, process in document["nodes"]
                ],
                authd=document["authd"] and Process(*map(int, document["authd"])),
                complete=bool(document["complete"]),
                private=[str(path) for path in document.get("private", ())],
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ClusterError(
                f"{layout.state}: not the state of a cluster of this version; if none runs, remove the file"
            ) from error


def hosts_text(nodes: list[LocalNode]) -> str:
    """Return the hosts file: ``ADDRESS NAME`` a line."""
    return "".join(f"{node.address} {node.name}\n" for node in nodes)


def environment(layout: Layout, state: State) -> dict[str, str]:
    """Return the environment variables for this cluster, as seen from its first node."""
    return {
        "GEXEC_SVRS": " ".join(node.name for node in state.nodes),
        "GEXEC_SOCKET": str(layout.socket(state.nodes[0].name)),
        "GEXEC_AUTHD_SOCKET": str(layout.authd_socket),
        "GEXEC_HOSTS": str(layout.hosts),
        # Empty, so that enexec and ensync use GEXEC_SVRS, not this machine's own list of real nodes.
        "GEXEC_NODELIST": os.devnull,
        "GEXEC_PORT": str(state.port),
        "GEXEC_CLUSTER_DIR": str(layout.dir),
    }


def export_lines(variables: dict[str, str]) -> str:
    """Return lines for a shell's eval; the values may contain any characters."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def reserve_port(addresses: list[str], port: int | None) -> tuple[int, socket.socket]:
    """Find a port that is free on all the addresses, and reserve it against other local clusters.

    Args:
        port: the one to use; None: the default one, or the first free one after it.

    Returns:
        The port, and a socket to keep open as long as the cluster runs.

    Raises:
        ClusterError: the port is in use, or all PORTS_TRIED ports are.
    """
    check_port(port)
    candidates = range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED) if port is None else (port,)
    for candidate in candidates:
        reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # Without SO_REUSEADDR: two clusters that start together must not get the same one.
            reservation.bind((_RESERVATION_ADDRESS, candidate))
            for address in addresses:
                _try_to_bind(address, candidate)
        except OSError as error:
            reservation.close()
            if error.errno == errno.EADDRINUSE:
                continue
            raise ClusterError(f"port {candidate} cannot be used here ({error.strerror})") from error
        return candidate, reservation
    if port is not None:
        raise ClusterError(f"port {port} is taken on this machine; give another with --port, or none")
    raise ClusterError(f"none of the {PORTS_TRIED} ports from {DEFAULT_PORT} is free; give one with --port")


def check_port(port: int | None) -> None:
    """Raise UsageError unless the port is valid or None."""
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"port {port}: expected 1 to 65535")


def _try_to_bind(address: str, port: int) -> None:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # Like the daemon, so that connections of an earlier cluster in TIME_WAIT do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
