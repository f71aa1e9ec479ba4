"""gexecd's start-up: reads its settings, opens its sockets, enrols, forks the relay, executes the spawner.

The process itself becomes the spawner: root if it was started as root, without network. Its child is
the relay, which drops to an unprivileged user before it reads its first byte. If one of them
ends, the other ends too (docs/decisions/0007-spawner.md, 0019-spawner-program.md).
"""

from __future__ import annotations

import os
import pwd
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NoReturn

from gexec.errors import ConfigError, GexecError
from gexec.gexecd import succession
from gexec.gexecd.enrolment import CertificateSource, Enrolment, enrol, enrol_apart
from gexec.gexecd.listening import tcp_listeners
from gexec.gexecd.relay_user import relay_identity
from gexec.gexecd.relaying import become_relay, refuse_files
from gexec.gexecd.rereading import policy_of, renewal_command, rereading_command
from gexec.gexecd.spooling import prepared
from gexec.posix import cgroups, channel, identity, programs, sockets
from gexec.posix.hostnames import node_names
from gexec.posix.log import Log, stderr_log
from gexec.relay.context import RelayContext
from gexec.settings.config import GexecdSettings, check_audit_log
from gexec.settings.keyfiles import read_node_certificate, read_trust
from gexec.spawner.forking import fork_starter
from gexec.spawner.handover import Handover, policy_fields
from gexec.spawner.program import SpawnerProcess
from gexec.spawner.spawner import SIGNALS
from gexec.version import VERSION

#: How long gexecd waits at its start for authd.
_AUTHD_PATIENCE_S: Final = 15.0


def serve(
    settings: GexecdSettings,
    *,
    ready: Callable[[], None] | None = None,
    die_with_parent_fd: int | None = None,
    log: Log | None = None,
    relay_user: tuple[int, int] | None = None,
) -> int:
    """Run gexecd in this process until SIGTERM, the relay's end, or the parent's; return its exit status.

    For local clusters, whose daemons share memory with the process that forked them: the spawner is
    not executed, and forks its starter with the first task. May be called in a single-threaded child
    just after the fork; needs the main thread.

    Args:
        ready: called once in this process, when links and clients can connect.
        die_with_parent_fd: at end of file on this pipe, end at once, with all tasks.
        relay_user: uid and gid of the relay if this process is root's; None = those of the settings.

    Raises:
        GexecError: settings, keys, sockets or authd have an error; nothing was started.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    service = Gexecd(settings, log, relay_user=relay_user)
    handed = service.begin(parent_fd=-1 if die_with_parent_fd is None else die_with_parent_fd)
    return SpawnerProcess(handed, partial(fork_starter, soft), ready or (lambda: None), log).run()


class Gexecd:
    """gexecd before the fork. The constructor checks the settings and opens the sockets."""

    def __init__(
        self,
        settings: GexecdSettings,
        log: Log | None = None,
        inherited: Sequence[socket.socket] = (),
        relay_user: tuple[int, int] | None = None,
    ) -> None:
        self.settings = settings
        self._log = log or stderr_log("gexecd")
        # Before this daemon can get any request: credentials that were signed earlier are refused.
        self._started_s = time.time()
        check_audit_log(settings)
        self._names = _names_of(settings)
        self._trust = read_trust(settings.public_keys, settings.signers, self._names)
        self._policy = policy_fields(policy_of(settings.policy))
        self._superuser = os.geteuid()
        self._relay_user: tuple[int, int] | None = None
        if os.geteuid() == 0:
            self._relay_user = relay_user or relay_identity(settings.relay_user)
        given = [sock for sock in inherited if sock.family != socket.AF_UNIX]
        clients = [sock for sock in inherited if sock.family == socket.AF_UNIX]
        self._listeners = given or tcp_listeners(settings.bind, settings.port)
        for sock in inherited:
            sock.setblocking(False)
        #: It shares no memory with a local cluster, so it can be upgraded.
        self._is_alone = False
        self._made_socket = settings.submissions and not clients
        try:
            self._clients: list[socket.socket] = []
            if settings.submissions:
                self._clients = clients or [sockets.listen(settings.socket, what="gexecd")]
            else:
                _close(clients)
        except ConfigError:
            _close(self._listeners)
            raise
        #: The file that SIGHUP reads the policy from: "" = the usual file; None = the policy does not change.
        self.config: str | None = None
        #: The settings that the command line determines, whatever the file says.
        self.given: frozenset[str] = frozenset()
        #: In the background: the descriptor that replaces stderr when gexecd is ready; -1 = none.
        self.log_fd = -1

    @property
    def port(self) -> int:
        """The TCP port of the listeners."""
        return int(self._listeners[0].getsockname()[1])

    def execute(self, ready_fds: Sequence[int]) -> NoReturn:
        """Get a certificate, fork the relay, and execute the spawner in this process.

        Args:
            ready_fds: a byte is written to each when links and clients can connect.

        Raises:
            GexecError: it gets no certificate, or its control group is none; nothing was started.
        """
        group = self._control_group()
        self._is_alone = True
        handed = self.begin(ready_fds)
        memfd = channel.sealed(handed.encode())
        for fd in (memfd, *handed.descriptors):
            os.set_inheritable(fd, True)
        argv = programs.command("gexec.spawner.boot", str(memfd), group, *sys.argv)
        try:
            os.execv(argv[0], argv)
        except OSError as error:
            os.kill(handed.relay_pid, signal.SIGKILL)
            self._close_listeners()
            raise ConfigError(f"{argv[0]}: cannot be executed for the spawner: {error.strerror}") from error

    def _control_group(self) -> str:
        """Return the directory of the control group that the starter may divide; "" if there is none."""
        if os.geteuid() != 0:
            return ""  # the starter starts its own user's tasks itself, in one group
        try:
            group, why = cgroups.divisible(self.settings.control_group)
        except ConfigError:
            self._close_listeners()
            raise
        if not group:
            self._log.info(f"commands get no control groups of their own: {why}")
        return group

    def begin(self, ready_fds: Sequence[int] = (), parent_fd: int = -1) -> Handover:
        """Get a certificate and fork the relay; return what the spawner needs.

        Raises:
            GexecError: it gets no certificate; nothing was started.
        """
        try:
            source = CertificateSource.of(self.settings, self._names)
            enrolment = (
                enrol_apart(source) if source.node_key else enrol(source, patience_s=_AUTHD_PATIENCE_S)
            )
        except GexecError:
            self._close_listeners()
            raise
        identity.keep_from_programs()
        if os.geteuid() == 0:
            root = pwd.getpwuid(0)
            os.initgroups(root.pw_name, root.pw_gid)
            os.setresgid(root.pw_gid, root.pw_gid, root.pw_gid)
        os.chdir("/")
        ours, theirs = channel.pair()
        ready_read, ready_write = os.pipe()
        # A signal between the fork and the processes' own handlers must not run ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        relay_pid = os.fork()
        if relay_pid == 0:
            self._be_relay(theirs, ready_write, enrolment)
        theirs.close()
        os.close(ready_write)
        socket_path = os.path.abspath(self.settings.socket) if self._made_socket else ""
        kept: list[list[int]] = [[], []]
        if self._is_alone:
            kept = [[sock.detach() for sock in each] for each in (self._listeners, self._clients)]
        else:
            _close([*self._listeners, *self._clients])
        return self._handover(
            listener_fds=kept[0],
            client_fds=kept[1],
            relay_pid=relay_pid,
            channel_fd=ours.detach(),
            relay_ready_fd=ready_read,
            ready_fds=list(ready_fds),
            parent_fd=parent_fd,
            socket=socket_path,
            socket_inode=os.lstat(socket_path).st_ino if socket_path else 0,
            expires_s=enrolment.expires_s,
        )

    def _handover(self, **made: Any) -> Handover:
        settings = self.settings
        policy = self._policy
        return Handover(
            realm=settings.realm,
            names=list(self._names),
            trust=self._trust.encode(),
            policy=policy,
            started_s=self._started_s,
            clock_skew_s=settings.clock_skew_s,
            credential_ttl_max_s=settings.credential_ttl_max_s,
            audit={
                "log": settings.audit_log,
                "failure": settings.audit_failure,
                "max_bytes": settings.audit_max_bytes,
                "keep": settings.audit_keep,
                "common": {
                    "daemon": "gexecd",
                    "node": os.uname().nodename if settings.find_names else self._names[0],
                    "realm": settings.realm,
                },
            },
            drain_s=settings.drain_s,
            tasks_max=settings.jobs_max,
            spool=list(prepared(settings, self._log)),
            log_fd=self.log_fd,
            renewal=renewal_command(settings, self._names),
            rereading=rereading_command(settings, self._names, policy, self.config, self.given),
            succession=programs.command("gexec.gexecd.succession") if self._is_alone else [],
            relay=succession.argument(settings, self._names, self._relay_user),
            again=programs.command("gexec.spawner.again"),
            version=VERSION,
            code=programs.code_digest() if self._is_alone else "",
            argv=sys.argv,
            **made,
        )

    # -- the relay ---------------------------------------------------------------------------

    def _be_relay(self, sock: socket.socket, ready_write: int, enrolment: Enrolment) -> NoReturn:
        status = 70
        log = self._log.named("gexecd-relay")
        try:
            # Only the relay needs asyncio; after the drop of privileges its files may not be readable.
            import encodings.idna  # noqa: F401  for host names in TLS

            from gexec.relay.relay import run_relay

            own = [listener.fileno() for listener in (*self._listeners, *self._clients)]
            log_fd = [] if self.log_fd < 0 else [self.log_fd]
            become_relay([*own, *log_fd, sock.fileno(), ready_write], self._relay_user, log)
            status = run_relay(self._context(sock, ready_write, enrolment, log))
        except GexecError as error:
            log.error(str(error))
        except BaseException as defect:
            log.error(f"the relay failed: {type(defect).__name__}: {defect}")
            for line in traceback.format_exc().splitlines():
                log.debug(line)
        finally:
            os._exit(status)

    def _context(self, sock: socket.socket, ready_write: int, enrolment: Enrolment, log: Log) -> RelayContext:
        def told() -> None:
            # Everything is loaded and open, and nothing from the network has been read.
            refuse_files(log)
            os.write(ready_write, b"1")
            os.close(ready_write)
            if self.log_fd >= 0:
                identity.take_stderr(self.log_fd)

        return RelayContext(
            listeners=self._listeners,
            client_listeners=self._clients,
            channel_socket=sock,
            certificates=enrolment[:3],
            names=self._names,
            settings=self.settings,
            superuser=self._superuser,
            trust=self._trust,
            ready=told,
            log=log,
        )

    def _close_listeners(self) -> None:
        _close([*self._listeners, *self._clients])
        if self._made_socket:
            sockets.remove(self.settings.socket, "gexecd")


def _names_of(settings: GexecdSettings) -> tuple[str, ...]:
    """Return the node's names: those of its certificate in hardened mode, where no node names itself."""
    if settings.node_certificate:
        return read_node_certificate(settings.node_certificate).names
    return node_names(settings.names, find=settings.find_names, hosts_path=settings.hosts)


def _close(listeners: Sequence[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
