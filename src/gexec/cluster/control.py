"""Starts, inspects and ends a local cluster: `gexecctl cluster`.

``up`` forks; call it from a single-threaded process. The others only read state.json and /proc.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gexec import limits
from gexec.cluster import keypair, layout, ownership, private, processes, supervisor, whole
from gexec.cluster.daemon import log_hint
from gexec.cluster.guard import guarded
from gexec.cluster.layout import ClusterError, Layout, LocalNode, State
from gexec.cluster.planning import ClusterNetwork, ClusterPlan, daemons_of
from gexec.cluster.processes import Process
from gexec.cluster.reporting import StartReport
from gexec.cluster.supervisor import Supervisor
from gexec.errors import GexecError
from gexec.posix import identity

if TYPE_CHECKING:
    from gexec.settings.config import GexecdSettings

#: `down` waits this long after the supervisor's own grace times before it kills all processes itself.
DOWN_MARGIN_S = 10.0
#: How long a daemon of a local cluster waits for running jobs when it stops: they usually belong to the user
#: who ends the cluster. docs/gexecctl.md has this value, next to gexecd's 60 s.
DRAIN_S = 1.0
_LINE_MAX_BYTES = 8192


def up(
    count: int,
    place: Layout,
    *,
    port: int | None = None,
    config: str | None = None,
    private_folders: Sequence[str] = (),
    private_size_mib: int = private.SIZE_DEFAULT_MIB,
    hardened: bool = False,
    network: ClusterNetwork | None = None,
    foreground: bool = False,
    progress: Callable[[int, int], None] = lambda ready, of: None,
) -> State | None:
    """Start one authd and ``count`` gexecds, and return when all are ready.

    Args:
        port: of all daemons; None: 2875, or the first free one after it.
        config: a gexecd.toml for all nodes; addresses, paths and names in it are replaced.
        private_folders: directories that are private to each node, and empty (root only).
        private_size_mib: the size limit of each.
        hardened: only the first node takes jobs of users, and each node has a key of its own.
        network: networks that the caller made for the nodes; None: 127.0.x.y of this host.
        foreground: stay until the cluster ends (SIGTERM, SIGINT), and return None.
        progress: called with (daemons ready, total number of daemons).

    Raises:
        UsageError, ConfigError: count, directories, port or configuration are invalid.
        ClusterError: a cluster already runs here, or a daemon failed; then nothing is left.
        KeyboardInterrupt: raised when nothing is left.
    """
    place.check(count)
    layout.check_port(port)
    folders = private.checked(private_folders, private_size_mib, place)
    ownership.refuse_foreign(place.dir, ClusterError)
    running = State.read(place)
    if running is not None and running.running:
        raise ClusterError(
            f"{place.dir}: a cluster of {running.described_nodes()} already runs here; "
            "`gexecctl cluster down` ends it"
        )
    base = _base_settings(config)
    is_new = not place.dir.exists()
    try:
        place.create()
        return _up(
            ClusterPlan(count, port, base, folders, private_size_mib, hardened, network),
            place,
            foreground,
            progress,
        )
    except BaseException:
        if is_new:
            place.remove_unused()
        raise


def _up(
    wanted: ClusterPlan, place: Layout, foreground: bool, progress: Callable[[int, int], None]
) -> State | None:
    ours, theirs = socket.socketpair()

    def supervise() -> int:
        return _supervise(wanted, place, theirs)

    if foreground:
        ours.close()  # no process waits for the start: failures are printed
        theirs.close()
        status = guarded(lambda: _supervise(wanted, place, None, progress))
        if status == 130:
            raise KeyboardInterrupt
        if status:
            raise ClusterError("the cluster was not started; the reason is above")
        return None
    guard = os.fork()
    if guard == 0:
        ours.close()
        _detach(place, keep=theirs)
        os._exit(guarded(supervise))
    theirs.close()
    guard_process = processes.seen(guard)
    try:
        _follow(ours, place, progress)
    except BaseException:
        # The supervisor ends everything when this end of the socket closes.
        ours.close()
        _await_child(guard, guard_process)
        raise
    ours.close()
    return State.read(place)


def _base_settings(config: str | None) -> GexecdSettings:
    from gexec.settings.config import GexecdSettings, read_gexecd

    if config is None:
        return GexecdSettings(drain_s=DRAIN_S)
    return read_gexecd(os.path.abspath(config), environ={})


def _detach(place: Layout, keep: socket.socket) -> None:
    """Start a new session without the caller's terminal and pipes."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_NOFOLLOW
    log = os.open(place.log("supervisor"), flags, 0o600)
    for descriptor, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    identity.close_inherited([keep.fileno()])


def _follow(ours: socket.socket, place: Layout, progress: Callable[[int, int], None]) -> None:
    """Read the supervisor's reports until all are up or the start failed."""
    with ours.makefile("rb", buffering=_LINE_MAX_BYTES) as lines:
        while line := lines.readline(_LINE_MAX_BYTES):
            report = json.loads(line)
            if report["event"] == "progress":
                progress(report["ready"], report["of"])
            elif report["event"] == "up":
                return
            else:
                raise ClusterError(report["sentence"])
    raise ClusterError(f"the cluster's supervisor ended; {log_hint(place.log('supervisor'))}")


def _await_child(pid: int, process: Process | None) -> None:
    deadline_s = time.monotonic() + supervisor.STOP_GRACE_S + DOWN_MARGIN_S + 60
    while time.monotonic() < deadline_s:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        except KeyboardInterrupt:
            continue  # it is already ending
        time.sleep(0.02)
    if process is not None:
        processes.send_signal(process, signal.SIGKILL)


# -- in the supervisor ------------------------------------------------------------------------


def _supervise(
    wanted: ClusterPlan,
    place: Layout,
    client: socket.socket | None,
    progress: Callable[[int, int], None] = lambda ready, of: None,
) -> int:
    """Run as the supervisor from start to end; return its exit status."""
    report = StartReport(client, wanted.count, progress)
    try:
        lock = _lock(place)
        nodes, chosen_port, reservation = _prepared(place, wanted)
        daemons = daemons_of(place, nodes, chosen_port, wanted)
        boss = Supervisor(daemons, report.step, client)
    except GexecError as error:
        report.failed(error)
        return 1
    guard = processes.seen(os.getppid()) or processes.myself()
    state = State(chosen_port, processes.myself(), guard, nodes, private=wanted.private_folders)
    status = 0
    try:
        state.write(place)
        boss.bring_up()
        state.authd = daemons[0].process
        state.nodes = [
            replace(node, process=one.process) for node, one in zip(nodes, daemons[1:], strict=True)
        ]
        state.complete = True
        state.write(place)
        report.up(f"{wanted.count} nodes are up in {place.dir}, port {chosen_port}; ^C ends them")
        boss.watch()
    except supervisor.Stopped:
        status = 130
    except (GexecError, OSError) as error:
        boss.take_down()
        report.failed(error)
        status = 1
    finally:
        boss.take_down()
        place.state.unlink(missing_ok=True)
        place.clear_sockets()
        reservation.close()
        os.close(lock)
    return status


def _prepared(place: Layout, wanted: ClusterPlan) -> tuple[list[LocalNode], int, socket.socket]:
    """Return the nodes, their port and what reserves it, with their names and keys in the directory."""
    network = wanted.network
    nodes = [
        LocalNode(name, network.addresses[index] if network else layout.node_address(index))
        for index, name in enumerate(layout.node_names(wanted.count))
    ]
    taken = [] if network else [node.address for node in nodes]
    port, reservation = layout.reserve_port(taken, wanted.port)
    place.clear_sockets()
    whole.write_whole(place.hosts, layout.hosts_text(nodes).encode(), 0o644)
    if wanted.hardened:
        from gexec.cluster import hardened

        hardened.prepare(place, nodes, wanted.base.realm)
    elif not (place.private_key.exists() and place.public_key.exists()):
        keypair.create(place.private_key, place.public_key, bits=limits.RSA_MIN_BITS, force=True)
    return nodes, port, reservation


def _lock(place: Layout) -> int:
    """Lock the directory until this process ends; ClusterError if another supervisor has it."""
    # A POSIX lock, because it is not inherited: a daemon that outlives this process cannot hold it.
    descriptor = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ClusterError(f"{place.dir}: another cluster is being started or stopped here") from error
    return descriptor


# -- from outside -----------------------------------------------------------------------------


def require(place: Layout) -> State:
    """Return the state of the cluster that runs in a directory; ClusterError if none runs."""
    state = State.read(place)
    if state is None or not state.running:
        raise ClusterError(f"{place.dir}: no cluster runs here; `gexecctl cluster up N` starts one")
    if not state.complete:
        raise ClusterError(f"{place.dir}: the cluster here is still being started")
    return state


def node_processes(state: State, name: str) -> list[Process]:
    """Return the running processes of a node's daemon (never its tasks), beginning with its first process."""
    first = state.node(name).process
    return [] if first is None else processes.forked_family(first)


def down(place: Layout) -> State | None:
    """End the cluster of a directory and return when all its daemons are gone.

    Returns:
        Its last state, or None if none ran.

    Raises:
        ClusterError: some processes could not be ended (another user's).
    """
    state = State.read(place)
    if state is None:
        return None
    ownership.refuse_foreign(place.dir, ClusterError)
    everyone = _everyone(state)
    was_running = any(processes.is_alive(process) for process in everyone)
    deadline_s = (
        time.monotonic()
        + 2 * supervisor.STOP_GRACE_S
        + supervisor.STOP_GRACE_PER_DAEMON_S * len(state.nodes)
        + DOWN_MARGIN_S
    )
    _signal(state.supervisor, signal.SIGTERM)
    while any(processes.is_alive(process) for process in everyone):
        if time.monotonic() > deadline_s:
            # From the leaves up, so that leftovers of a daemon still go to the supervisor.
            for process in reversed(everyone):
                _signal(process, signal.SIGKILL)
            if time.monotonic() > deadline_s + DOWN_MARGIN_S:
                raise ClusterError(f"{place.dir}: processes of the cluster cannot be ended")
        time.sleep(0.02)
    place.state.unlink(missing_ok=True)
    place.clear_sockets()
    return state if was_running else None


def _everyone(state: State) -> list[Process]:
    found = [state.guard, state.supervisor]
    if state.authd is not None:
        found.append(state.authd)
    return found + [node.process for node in state.nodes if node.process is not None]


def _signal(process: Process, signum: int) -> None:
    try:
        processes.send_signal(process, signum)
    except PermissionError as error:
        raise ClusterError(f"process {process.pid} is another user's: run this as that user") from error
