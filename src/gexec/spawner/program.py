"""The spawner as a process: its handover, its signals, its relay.

gexecd's start-up executes it (``spawner.boot``); a local cluster calls it in the process that was
forked for a node. If spawner or relay ends, the other ends too (docs/decisions/0007-spawner.md).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from gexec import limits
from gexec.errors import KeyFileError
from gexec.posix import clock, identity, memory
from gexec.posix.log import Log, stderr_log
from gexec.security.signers import Trust
from gexec.spawner.accounts import account_of
from gexec.spawner.admission import Admission, Spool
from gexec.spawner.asking import ask
from gexec.spawner.handover import Handover, audit_log, policy_from
from gexec.spawner.spawner import SIGNALS, Spawner
from gexec.spawner.upgrades import Upgrades
from gexec.wire.messages import AcceptedSigners
from gexec.wire.upgrades import UpgradeWanted

#: Time that a draining relay gets beyond drain_s.
_DRAIN_PATIENCE_S: Final = 5.0
_RETRY_S: Final = 60.0
_SOONEST_S: Final = 1.0


class SpawnerProcess:
    """Runs the spawner, from its handover to its end.

    Args:
        handed: the data from start-up; this process owns its descriptors.
        start: returns the starter's pid, and the channel to it.
        ready: called once, when links and clients can connect.
        log: the daemon's log; None = on stderr.
        is_clean: as for ``Helpers``.
        execute: as for ``Upgrades``, with this object.

    Attributes:
        handed: the data from start-up, as far as it is known to be true now.
        upgrades: the upgrades of this gexecd.
    """

    def __init__(
        self,
        handed: Handover,
        start: Callable[[], tuple[int, socket.socket]],
        ready: Callable[[], None],
        log: Log | None = None,
        is_clean: bool = False,
        execute: Callable[[SpawnerProcess, str], None] = lambda process, told: None,
    ) -> None:
        self.handed = handed
        self._ready = ready
        self._log = (log or stderr_log("gexecd")).named("gexecd-spawner")
        self._terms = 0
        #: Keys and policy are being read; SIGHUP was received since then.
        self._is_rereading = self._is_stale = False
        #: How many renewals were scheduled or begun; only the last one counts.
        self._renewals = 0
        self.audit = audit_log(handed.audit, self._log)
        trust = Trust.decode(handed.trust)
        self._tell_if_nobody(trust)
        self.admission = Admission(
            signers=trust.signers,
            realm=handed.realm,
            names=handed.names,
            policy=policy_from(handed.policy),
            started_s=handed.started_s,
            account_of=account_of,
            skew_s=handed.clock_skew_s,
            ttl_max_s=handed.credential_ttl_max_s,
            spool=Spool(*handed.spool),
        )
        self.spawner = Spawner(
            relay=socket.socket(fileno=handed.channel_fd),
            start=start,
            admission=self.admission,
            audit=self.audit,
            audited_only=handed.audit["failure"] == "refuse",
            log=self._log,
            relay_pid=handed.relay_pid,
            tasks_max=handed.tasks_max,
            on_signal=self._signalled,
            on_wish=self._upgrade_wanted,
            replaces=self._replaces,
            is_clean=is_clean,
        )
        self.spawner.tasks.surviving.is_possible = bool(handed.succession)
        self._deaths: list[float] = []
        self.upgrades = Upgrades(self.spawner, handed, self._log, self._ask, partial(execute, self))
        self._loop = self.spawner.loop

    def run(self) -> int:
        """Serve until SIGTERM, the relay's end, or the parent's; return gexecd's exit status."""
        identity.become_subreaper()
        identity.set_title("gexecd-spawner")
        identity.raise_descriptors(limits.DESCRIPTORS_MAX)
        if self.handed.relay_ready_fd >= 0:
            self._loop.watch(self.handed.relay_ready_fd, self._relay_ready)
        if self.handed.parent_fd >= 0:
            self._loop.watch(self.handed.parent_fd, self._parent_gone)
        self.renew_before(self.handed.expires_s)
        self.spawner.install_handlers()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        memory.settle()
        try:
            status = self.spawner.run()
        finally:
            if self.spawner.relay_pid:
                os.kill(self.spawner.relay_pid, signal.SIGKILL)
                os.waitpid(self.spawner.relay_pid, 0)
            self._remove_socket()
        # It is a failure if the relay ended without a request: systemd then starts gexecd again.
        return status if self._terms else 1

    def _remove_socket(self) -> None:
        """Remove the clients' socket, unless another gexecd has made one there since."""
        try:
            if os.lstat(self.handed.socket).st_ino == self.handed.socket_inode:
                os.unlink(self.handed.socket)
        except OSError:
            pass  # there is none

    def _relay_ready(self) -> None:
        fd = self.handed.relay_ready_fd
        self._loop.unwatch(fd)
        told = os.read(fd, 1)
        os.close(fd)
        if told:
            self._ready()
            if self.handed.log_fd >= 0:
                identity.take_stderr(self.handed.log_fd)
        self.handed.relay_ready_fd = self.handed.log_fd = -1
        self.handed.ready_fds = []

    # -- signals -----------------------------------------------------------------------------

    def _signalled(self, signum: int) -> None:
        if signum == signal.SIGHUP:
            self._reload()
            return
        self._terms += 1
        self.handed.close_listeners()
        if self.spawner.upgrade is not None:
            self.spawner.upgrade.give_up("gexecd ends")
        if self._terms == 1 and self.spawner.relay_pid:
            os.kill(self.spawner.relay_pid, signal.SIGTERM)
            bound_s = self.handed.drain_s + _DRAIN_PATIENCE_S
            self._loop.call_at(clock.now_s() + bound_s, lambda: self.spawner.shut_down(now=False))
        else:
            self.spawner.shut_down(now=self._terms > 1)

    def _parent_gone(self) -> None:
        if not os.read(self.handed.parent_fd, 4096):
            self._loop.unwatch(self.handed.parent_fd)
            self._terms += 1
            self.spawner.shut_down(now=True)

    # -- another relay --------------------------------------------------------------------------

    def _replaces(self, why: str) -> bool:
        """The relay has died: start another one, if tasks have outlived it; return whether it is started."""
        handed, spawner, now_s = self.handed, self.spawner, clock.now_s()
        if self._terms or not handed.succession:
            return False
        from gexec.spawner.replacing import DEATHS_MAX, WITHIN_S, RelayReplacement  # loaded only now

        self._deaths = [*(died_s for died_s in self._deaths if died_s > now_s - WITHIN_S), now_s]
        tasks = spawner.tasks
        survivors, others = tasks.surviving.split() if len(self._deaths) <= DEATHS_MAX else ([], [])
        if not survivors:
            return False
        tasks.kill_all(False, "the relay has died", others)
        self._log.error(f"{why}: starting another one, in which {len(survivors)} tasks continue")
        replacement = spawner.upgrade = RelayReplacement(spawner, survivors, self._replaced)
        counts = {"listeners": len(handed.listener_fds), "clients": len(handed.client_fds)}
        given = json.loads(handed.relay) | {"trust": handed.trust, "certificate": handed.renewal[-1]}
        given |= counts | {"last_task": max([*tasks.running, *tasks.ended])}
        try:
            listeners = [*handed.listener_fds, *handed.client_fds]
            replacement.begin(handed.succession, json.dumps(given).encode(), listeners)
        except (OSError, ValueError) as error:
            self._log.error(f"it cannot be started: {error}")
            return False
        return True

    def _replaced(self, why: str) -> None:
        if why:
            self.spawner.relay_gone(why)
        elif self.spawner.upgrade is not None:
            self._log.info("the new relay serves")
            self.renew_before(float(self.spawner.upgrade.expires_s))

    # -- signers and policy ---------------------------------------------------------------------

    def _reload(self) -> None:
        """Start a program that reads keys and policy. If it fails, the old ones stay in force."""
        self.audit.reopen()
        if self._is_rereading:
            self._is_stale = True  # it may have read a file before the file was changed
            return
        try:
            self._ask(self.handed.rereading, self._reread)
            self._is_rereading = True
        except OSError as error:
            self._log.error(f"reload: {error.strerror}; the old settings stay in force")
            self.upgrades.fail(f"the new code cannot be started: {error.strerror}")

    def _reread(self, answer: bytes) -> None:
        self._is_rereading = False
        if self._is_stale:
            self._is_stale = False
            self._reload()
            return
        try:
            told = json.loads(answer.decode())
            trust = Trust.decode(told["trust"])
            policy = policy_from(told["policy"])
            renewal = [str(word) for word in told["renewal"]]
            version, code = str(told["version"]), str(told["code"])
        except (ValueError, KeyError, TypeError, KeyFileError):
            # The program has logged why, unless it was ended.
            self._log.error("reload: keys and policy were not read; the old settings stay in force")
            self.upgrades.fail("keys and policy were not read: see the log")
            return
        self.admission.reload(trust.signers, policy)
        self.spawner.retire_helpers()
        self.spawner.tell(AcceptedSigners(told["trust"].encode()))
        self._log.info(f"reloaded: {len(trust.signers)} public keys accepted")
        self._tell_if_nobody(trust)
        # Its key, its certificate or the authorities may be other ones, too.
        self.handed.renewal = renewal
        self.handed.trust, self.handed.policy = told["trust"], told["policy"]
        if not self.upgrades.installed(version, code):  # a new relay gets its own certificate
            self.renew()

    def _upgrade_wanted(self, wish: UpgradeWanted) -> None:
        self.upgrades.want(wish.forced)
        self._reload()

    def _tell_if_nobody(self, trust: Trust) -> None:
        if not trust.signers:
            self._log.warning("there is no signer any more: no job starts here until signers.toml has one")

    # -- the certificate ---------------------------------------------------------------------

    def renew_before(self, expires_s: float) -> None:
        """Schedule the renewal of a certificate that is valid until this UNIX time.

        It is due after half of the remaining time, up to 10 % earlier or later at random, for each node.
        """
        self.handed.expires_s = expires_s
        half_s = (expires_s - time.time()) / 2
        self._renew_in(max(_SOONEST_S, half_s * (0.9 + 0.2 * os.urandom(1)[0] / 255)))

    def _renew_in(self, wait_s: float) -> None:
        self._renewals += 1
        self._loop.call_at(clock.now_s() + wait_s, partial(self._renew_if, self._renewals))

    def _renew_if(self, number: int) -> None:
        if number == self._renewals:  # else a later one was scheduled
            self.renew()

    def renew(self) -> None:
        """Start a program that gets the next certificate, so that a slow authd delays no job.

        It writes key and certificate into a memfd, which this process passes to the relay and never reads.
        """
        memfd = -1
        self._renewals += 1
        number = self._renewals
        try:
            memfd = os.memfd_create("gexec-certificate", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self._ask(self.handed.renewal, lambda answer: self._renewed(memfd, answer, number), memfd)
        except OSError as error:
            if memfd >= 0:
                os.close(memfd)
            self._not_renewed(error.strerror or "it cannot be asked for")

    def _renewed(self, memfd: int, answer: bytes, number: int) -> None:
        if number != self._renewals:  # a later one may have read newer files
            os.close(memfd)
            return
        try:
            expires_s = float(answer)
            self.spawner.pass_certificates(memfd)
        except ValueError:
            self._renew_in(_RETRY_S)  # the program has logged why
        except OSError as error:
            self._not_renewed(error.strerror or "the relay cannot be told")
        else:
            self.renew_before(expires_s)
        finally:
            os.close(memfd)

    def _not_renewed(self, why: str) -> None:
        self._log.warning(f"certificate not renewed: {why}; trying again")
        self._renew_in(_RETRY_S)

    def _ask(self, argv: list[str], answered: Callable[[bytes], None], fd: int = -1) -> None:
        pid = ask(self._loop, argv, answered, fd)
        self.spawner.adopt(pid, lambda status: None)
