"""gexecd: reads its settings, opens its sockets, forks the relay and becomes the spawner.

The parent is the spawner: root if it was started as root, without network. The child is the
relay, which has dropped to an unprivileged user before it reads its first byte. If one of them
ends, so does the other (docs/decisions/0007-spawner.md).
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gexec.errors import AuthError, ConfigError, GexecError
from gexec.gexecd.enrolment import Enrolment, enrol
from gexec.gexecd.listening import tcp_listeners
from gexec.gexecd.renewal import Renewal
from gexec.posix import channel, clock, identity, memory, sockets
from gexec.posix.audit import AuditLog
from gexec.posix.background import take_stderr
from gexec.posix.channel import SpawnerPort
from gexec.posix.hostnames import node_names
from gexec.posix.log import Log, stderr_log
from gexec.relay.context import RelayContext
from gexec.security.policy import Policy
from gexec.settings.config import LEAVE, GexecdSettings, PolicySettings
from gexec.settings.keyfiles import read_verify_keys
from gexec.spawner.accounts import account_of, relay_identity
from gexec.spawner.admission import Admission
from gexec.spawner.spawner import Spawner
from gexec.wire.messages import AcceptedKeys

#: How long a starting gexecd waits for its authd.
_AUTHD_PATIENCE_S: Final = 15.0
#: What a draining relay gets beyond drain_s.
_DRAIN_PATIENCE_S: Final = 5.0
_DESCRIPTORS_MAX: Final = 65_536


def serve(
    settings: GexecdSettings,
    *,
    ready: Callable[[], None] | None = None,
    die_with_parent_fd: int | None = None,
    log: Log | None = None,
    inherited: Sequence[socket.socket] = (),
) -> int:
    """Run gexecd until SIGTERM, the relay's end, or the parent's; return its exit status.

    SIGTERM lets running jobs end for at most drain_s, a second one ends them at once; SIGHUP
    reads public keys and policy again and reopens the audit log. May be called in a freshly
    forked, single-threaded child; needs the main thread.

    Args:
        ready: called once in this process, when links and clients can connect.
        die_with_parent_fd: end at once, with all tasks, when this pipe comes to its end.
        inherited: listening sockets from inetd or systemd: unix ones are for clients.

    Raises:
        GexecError: settings, keys, sockets or authd are not as they should be; nothing was started.
    """
    return Gexecd(settings, log, inherited).run(ready=ready, die_with_parent_fd=die_with_parent_fd)


class Gexecd:
    """One gexecd before it is split. Making it checks the settings and opens the sockets."""

    def __init__(
        self, settings: GexecdSettings, log: Log | None = None, inherited: Sequence[socket.socket] = ()
    ) -> None:
        self.settings = settings
        self._log = log or stderr_log("gexecd")
        # Before anything can be asked of this daemon: what was signed earlier is refused.
        self._started_s = time.time()
        self._keys = read_verify_keys(settings.public_keys)
        self._names = node_names(settings.names, find=settings.find_names, hosts_path=settings.hosts)
        self._relay_user = relay_identity(settings.relay_user) if os.geteuid() == 0 else None
        self._audit = AuditLog(settings.audit_log or None, self._log)
        given = [sock for sock in inherited if sock.family != socket.AF_UNIX]
        clients = [sock for sock in inherited if sock.family == socket.AF_UNIX]
        self._listeners = given or tcp_listeners(settings.bind, settings.port)
        for sock in inherited:
            sock.setblocking(False)
        self._made_socket = not clients
        try:
            self._clients = clients[0] if clients else sockets.listen(settings.socket, what="gexecd")
        except ConfigError:
            _close(self._listeners)
            raise
        self._relay_pid = 0
        self._terms = 0
        #: What SIGHUP reads the policy with; None = it stays as it was given.
        self.reread: Callable[[], GexecdSettings] | None = None
        #: In the background: the descriptor that takes the place of stderr, once ready.
        self.log_fd: int | None = None
        self._ready_read = -1
        self._ready: Callable[[], None] | None = None
        self._is_ready = False

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        return int(self._listeners[0].getsockname()[1])

    def run(self, *, ready: Callable[[], None] | None = None, die_with_parent_fd: int | None = None) -> int:
        """Get a certificate, fork the relay and be the spawner; return the exit status."""
        self._ready = ready
        try:
            enrolment = enrol(self.settings.authd_socket, self._names, patience_s=_AUTHD_PATIENCE_S)
        except AuthError:
            self._close_listeners()
            raise
        identity.keep_from_programs()
        if os.geteuid() == 0:
            root = pwd.getpwuid(0)
            os.initgroups(root.pw_name, root.pw_gid)
            os.setresgid(root.pw_gid, root.pw_gid, root.pw_gid)
        os.chdir("/")
        ours, theirs = channel.pair()
        self._ready_read, ready_write = os.pipe()
        # A signal between the fork and the child's own handlers must not run ours.
        signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        self._relay_pid = os.fork()
        if self._relay_pid == 0:
            self._be_relay(theirs, ready_write, enrolment)
        theirs.close()
        os.close(ready_write)
        _close([*self._listeners, self._clients])
        try:
            return self._be_spawner(ours, enrolment, die_with_parent_fd, signals)
        finally:
            if self._made_socket:
                sockets.remove(self.settings.socket, "gexecd")

    # -- the relay ---------------------------------------------------------------------------

    def _be_relay(self, sock: socket.socket, ready_write: int, enrolment: Enrolment) -> NoReturn:
        status = 70
        log = self._log.named("gexecd-relay")
        try:
            for signum in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(signum, signal.SIG_DFL)
            # ^C in a terminal and SIGHUP are for the spawner, which says what is to be done.
            for signum in (signal.SIGINT, signal.SIGHUP):
                signal.signal(signum, signal.SIG_IGN)
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            # Only the relay needs asyncio; after the drop it may not be readable any more.
            import encodings.idna  # noqa: F401  for host names in TLS

            from gexec.relay.relay import run_relay

            own = [listener.fileno() for listener in (*self._listeners, self._clients)]
            log_fd = [] if self.log_fd is None else [self.log_fd]
            identity.close_inherited([*own, *log_fd, sock.fileno(), ready_write])
            identity.null_stdio((0, 1))
            identity.raise_descriptors(_DESCRIPTORS_MAX)
            if self._relay_user is not None:
                identity.drop_to(*self._relay_user, ())
            identity.forbid_new_privileges()
            identity.set_title("gexecd-relay")
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
            os.write(ready_write, b"1")
            os.close(ready_write)
            if self.log_fd is not None:
                take_stderr(self.log_fd)

        return RelayContext(
            listeners=self._listeners,
            client_listener=self._clients,
            channel_socket=sock,
            certificates=enrolment[:3],
            names=self._names,
            settings=self.settings,
            verify_keys=self._keys,
            ready=told,
            log=log,
        )

    # -- the spawner -------------------------------------------------------------------------

    def _be_spawner(
        self,
        sock: socket.socket,
        enrolment: Enrolment,
        die_with_parent_fd: int | None,
        signals: set[signal.Signals],
    ) -> int:
        identity.become_subreaper()
        identity.set_title("gexecd-spawner")
        for_tasks = identity.raise_descriptors(_DESCRIPTORS_MAX)
        settings = self.settings
        self._admission = Admission(
            keys=self._keys,
            realm=settings.realm,
            names=self._names,
            policy=policy_of(settings.policy),
            started_s=self._started_s,
            account_of=account_of,
            skew_s=settings.clock_skew_s,
            ttl_max_s=settings.credential_ttl_max_s,
        )
        spawner = self._spawner = Spawner(
            port=SpawnerPort(sock),
            relay_pid=self._relay_pid,
            admission=self._admission,
            audit=self._audit,
            log=self._log.named("gexecd-spawner"),
            on_signal=self._signalled,
            task_descriptors=for_tasks,
        )
        spawner.loop.watch(self._ready_read, self._relay_ready)
        if die_with_parent_fd is not None:
            spawner.loop.watch(die_with_parent_fd, lambda: self._parent_gone(die_with_parent_fd))
        Renewal(spawner, settings.authd_socket, self._names, self._log).before(enrolment.expires_s)
        spawner.install_handlers()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        memory.settle()
        try:
            status = spawner.run()
        finally:
            self._end_relay(spawner)
        # That the relay is gone unasked is a failure: systemd starts gexecd again.
        return status if self._terms else 1

    def _relay_ready(self) -> None:
        self._spawner.loop.unwatch(self._ready_read)
        told = os.read(self._ready_read, 1)
        os.close(self._ready_read)
        if told:
            self._is_ready = True
            if self._ready is not None:
                self._ready()
            if self.log_fd is not None:
                take_stderr(self.log_fd)

    def _end_relay(self, spawner: Spawner) -> None:
        if spawner.relay_pid:
            os.kill(spawner.relay_pid, signal.SIGKILL)
            os.waitpid(spawner.relay_pid, 0)

    def _signalled(self, signum: int) -> None:
        if signum == signal.SIGHUP:
            self._reload()
            return
        self._terms += 1
        if self._terms == 1 and self._spawner.relay_pid:
            os.kill(self._spawner.relay_pid, signal.SIGTERM)
            bound_s = self.settings.drain_s + _DRAIN_PATIENCE_S
            self._spawner.loop.call_at(clock.now_s() + bound_s, lambda: self._spawner.shut_down(now=False))
        else:
            self._spawner.shut_down(now=True)

    def _parent_gone(self, fd: int) -> None:
        if not os.read(fd, 4096):
            self._spawner.loop.unwatch(fd)
            self._terms += 1
            self._spawner.shut_down(now=True)

    def _reload(self) -> None:
        """Read keys and policy again. What is wrong leaves the old ones in force."""
        self._audit.reopen()
        try:
            keys = read_verify_keys(self.settings.public_keys)
            policy = self.settings.policy if self.reread is None else self.reread().policy
        except GexecError as error:
            self._log.error(f"reload: {error}; the old settings stay in force")
            return
        self._admission.reload(keys, policy_of(policy))
        self._spawner.retire_helpers()
        pem = b"".join(
            key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys.values()
        )
        self._spawner.tell(AcceptedKeys(pem))
        self._log.info(f"reloaded: {len(keys)} public keys accepted")

    def _close_listeners(self) -> None:
        _close([*self._listeners, self._clients])
        if self._made_socket:
            sockets.remove(self.settings.socket, "gexecd")


def policy_of(settings: PolicySettings) -> Policy:
    """Return the policy that the settings describe."""
    return Policy(
        allow_users=frozenset(settings.allow_users),
        deny_users=frozenset(settings.deny_users),
        allow_groups=frozenset(settings.allow_groups),
        deny_groups=frozenset(settings.deny_groups),
        uid_min=settings.uid_min,
        allow_root=settings.root,
        # Without the rights of root it runs its own user's commands only, and that user is here already.
        allow_nologin=os.geteuid() != 0,
        jobs_per_user_max=settings.jobs_per_user_max,
        leave_leftovers=settings.leftovers == LEAVE,
    )


def _close(listeners: Sequence[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
