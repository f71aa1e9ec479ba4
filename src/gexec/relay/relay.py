"""The relay: the unprivileged process of gexecd that uses the network.

It accepts links from other daemons and jobs from clients of this host, dials children, and requests processes
from the spawner. A job's machine (core) decides what the job does, and ``relay.jobs`` finds the job of a
frame; this module provides the sockets, the spawner and the clock.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

from gexec.core import events
from gexec.core.saving import Saved
from gexec.posix import memory
from gexec.posix.deadline import Deadline
from gexec.relay import carrying, handing
from gexec.relay.accept import Acceptor
from gexec.relay.admission import CredentialVerifier
from gexec.relay.arriving import OVER_SHARE, NodeFrames
from gexec.relay.context import RelayContext
from gexec.relay.job import RelayJob
from gexec.relay.jobs import NOT_NEEDED, Jobs
from gexec.relay.link import Link
from gexec.relay.linkstates import OPENED
from gexec.relay.loop import run
from gexec.relay.orphans import Orphans
from gexec.relay.peer import Peer, Standing
from gexec.relay.peerlog import PeerErrors, tell_faults
from gexec.relay.pool import Pool
from gexec.relay.ports import LinkPort, OrphanTask, PipesPort
from gexec.relay.quotas import Quotas
from gexec.relay.spawning import News, RelayChannel, Spawning
from gexec.relay.taskio import TaskIO, orphaned
from gexec.relay.tls import bound_certificates, link_contexts
from gexec.security.credential import Credential
from gexec.security.names import normal
from gexec.security.signers import Trust
from gexec.wire import messages
from gexec.wire.denials import PeerDenied
from gexec.wire.frames import REFUSED_DENIED, Frame, Refused
from gexec.wire.orders import Upgrade, Upgraded
from gexec.wire.upgrades import (
    GoOn,
    HandOver,
    HandoverEnds,
    HandoverFailed,
    StateTaken,
    SuccessorReady,
    UpgradeEnded,
    UpgradeWanted,
)


def run_relay(context: RelayContext) -> int:
    """Serve until a drain is complete, or until the spawner is gone; return an exit status."""
    return run(_serve(context))


async def _serve(context: RelayContext) -> int:
    loop = asyncio.get_running_loop()
    tell_faults(loop, context.log)
    relay = RelayService(context) if context.predecessor is None else succeed(context)
    if context.last_task is not None:
        relay.replace(context.last_task, context.expires_s)
    loop.add_signal_handler(signal.SIGTERM, relay.drain)
    loop.add_signal_handler(signal.SIGINT, relay.drain)
    relay.begin()
    memory.settle()
    if context.predecessor is None:
        context.ready()
    return await relay.stopped


def succeed(context: RelayContext) -> RelayService:
    """Return a relay with all that the relay before it had, when that one has ended.

    Raises:
        SystemExit: it cannot continue with that; the other relay does.
    """
    assert context.predecessor is not None
    channel = RelayChannel(context.channel_socket)
    channel.tell(SuccessorReady(context.expires_s))
    try:
        with context.predecessor as sock:
            state, fds = handing.receive(sock)
        context.listeners = tuple([socket.socket(fileno=fds[index]) for index in state["listeners"]])
        context.client_listeners = tuple(
            [socket.socket(fileno=fds[index]) for index in state["client_listeners"]]
        )
        relay = RelayService(context)
        taken = relay.restore(state, fds)
    except Exception as error:
        channel.tell(HandoverFailed(f"{type(error).__name__}: {error}"))
        channel.await_upgrade()
        raise SystemExit(1) from error
    relay.processes.tell(StateTaken(taken))
    if not isinstance(relay.processes.await_upgrade(), GoOn):
        raise SystemExit(1)
    return relay


#: How long it takes until what was sent has left.
_SETTLE_S: Final = 0.02
#: How long after a job its free memory is returned to the system, if nothing runs then.
_TIDY_S: Final = 6.0


class RelayService:
    """Everything that one daemon has open: implements what its jobs need (``relay.ports``)."""

    def __init__(self, context: RelayContext) -> None:
        self._loop = asyncio.get_running_loop()
        self.stopped: asyncio.Future[int] = self._loop.create_future()
        self.timers = self._loop
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.quotas = Quotas(context.settings, context.superuser, descriptors)
        self.entry = CredentialVerifier(context.settings, context.trust.signers)
        self.processes = Spawning(context.channel_socket, context.log, self._news, self._stop)
        self._names = frozenset(map(normal, context.names))
        self._settings = context.settings
        self._log = context.log
        contexts = link_contexts(*context.certificates)
        if not bound_certificates(contexts.accept):
            self._log.warning("this Python's OpenSSL reads certificates of up to 100 KiB: keep it up to date")
        self._standing = Standing(context.trust, contexts.authority_ids)
        self._complaints = PeerErrors(context.log)
        self._arriving = NodeFrames(self.quotas.arriving)
        self._pool = Pool(self, contexts, self.quotas, self._arriving)
        self._acceptor = Acceptor(self, context, contexts, self._complaints, self.quotas, self._arriving)
        self._jobs = Jobs(self, context.settings)
        self._orphans = Orphans(self.processes, self.entry, self.timers, context.settings.orphan_grace_s)
        #: Descriptors of pipes and clients, from the relay before this one.
        self.inherited: list[int] = []
        self._resumed: list[RelayJob] = []
        #: Clients that wait for the end of an upgrade, with their channels.
        self._upgrade_askers: dict[Link, int] = {}
        self._superuser = context.superuser
        self._tidying: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Start serving."""
        self.processes.begin()
        self._acceptor.begin()
        self._jobs.begin()
        for job in self._resumed:
            job.go_on()
        self._resumed.clear()

    # -- the end --------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no new jobs; stop when the running ones have ended, or after drain_s.

        Until then connections are accepted and jobs refused, so that clients get the reason.
        """
        if self._jobs.draining:
            self._stop(0)
            return
        self._jobs.drain()
        self.processes.draining = True
        Deadline(self._loop, self._settings.drain_s, partial(self._stop, 0))
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if self._jobs.draining and not self._jobs.by_key:
            self._acceptor.stop()  # if systemd holds the sockets, new connections are for the next gexecd
            for link in self._pool.links():
                link.hasten()  # the Close of the last job: its nodes would wait for another parent
            self._loop.call_later(0.05, self._stop, 0)  # time for pending frames to leave

    def _stop(self, status: int) -> None:
        if not self.stopped.done():
            self.stopped.set_result(status)

    def _news(self, event: News) -> None:
        if isinstance(event, messages.Certificates):
            self._renew(event)
        elif isinstance(event, HandOver):
            self._settle(event.fds[0])
        elif isinstance(event, UpgradeEnded):
            self._upgrade_ended(event)
        elif isinstance(event, messages.AcceptedSigners):
            trust = Trust.decode(event.trust)
            self.entry.reload(trust.signers)
            self._standing = Standing(trust, self._standing.authority_ids)
            self._end_links_of_revoked()

    def _end_links_of_revoked(self) -> None:
        for link in {*self._jobs.links(), *self._pool.links()}:
            text = self._standing.link_refusal(link.peer) if isinstance(link, Link) else ""
            if text:
                link.abort(text)

    def _renew(self, event: messages.Certificates) -> None:
        contexts = link_contexts(event.key_pem, event.certificate_pem, event.authority_pem)
        self._standing = Standing(self._standing.trust, contexts.authority_ids)
        self._pool.renew(contexts)
        self._acceptor.contexts = contexts
        self._log.info("certificate renewed")

    # -- upgrades -------------------------------------------------------------------------

    def _settle(self, fd: int) -> None:
        """Send what was not urgent, such as the Close of jobs that are over; then hand over."""
        for link in self._jobs.links():
            if isinstance(link, Link):
                link.hasten()
        self._loop.call_later(_SETTLE_S, self._hand_over, fd)

    def _hand_over(self, fd: int) -> None:
        """Send everything to the successor; return only if that fails, and nothing has changed."""
        with socket.socket(fileno=fd) as sock:
            try:
                fds: list[int] = []
                handing.send(sock, self._save(fds), fds)
            except Exception as error:
                self.processes.tell(HandoverFailed(f"{type(error).__name__}: {error}"))
        verdict = self.processes.await_upgrade()
        if not (isinstance(verdict, HandoverEnds) and verdict.stays):
            os._exit(0)  # nothing may be written any more: the successor goes on

    def _upgrade_wanted(self, link: Link, channel: int, frame: Upgrade) -> None:
        party = self._jobs.parties[link]
        if party.uid not in (0, self._superuser):
            text = f"uid {party.uid} may not upgrade gexecd: only root or its own user may"
            link.answer(channel, Refused(REFUSED_DENIED, text))
            return
        if party.deadline is not None:  # there will be no Submit
            party.deadline.cancel()
            party.deadline = None
        self._upgrade_askers[link] = channel
        self.processes.tell(UpgradeWanted(frame.forced))

    def _upgrade_ended(self, event: UpgradeEnded) -> None:
        for link, channel in self._upgrade_askers.items():
            link.send(channel, Upgraded(event.done, event.text))
        self._upgrade_askers.clear()

    def _save(self, fds: list[int]) -> Saved:
        if self._jobs.draining:
            raise OSError("gexecd is shutting down")
        if len(self._orphans):
            raise OSError("processes of a relay that died still wait for their jobs: try again in 20 s")
        clients = []
        for link in carrying.clients(self._jobs):
            assert isinstance(link, Link)
            if link.fileno() < 0:
                link.abort("the connection was closed")  # its end is not known yet in this turn
                continue
            uid = self._jobs.parties[link].uid
            asks = self._upgrade_askers.get(link)
            clients.append({"fd": len(fds), "uid": uid, "link": link.save(), "asks": asks})
            fds.append(link.fileno())
        saved: Saved = {"clients": clients, "last_task": self.processes.last_task}
        for name, listeners in self._acceptor.listeners():
            saved[name] = list(range(len(fds), len(fds) + len(listeners)))
            fds += [listener.fileno() for listener in listeners]
        return saved | {"jobs": carrying.save(self._jobs, fds)}

    def restore(self, state: Saved, fds: list[int]) -> int:
        """Take the clients and jobs of the relay before this one; return how many jobs. ``begin`` follows."""
        self.inherited = fds
        self.processes.last_task = state["last_task"]
        clients: list[LinkPort] = []
        for each in state["clients"]:
            sock = socket.socket(fileno=fds[each["fd"]])
            link = self._acceptor.resume_client(sock, each["uid"], each["link"])
            clients.append(link)
            if each["asks"] is not None:
                self._upgrade_askers[link] = each["asks"]
        self._resumed = carrying.restore(self._jobs, state["jobs"], clients)
        return len(self._resumed)

    def replace(self, last_task: int, expires_s: int) -> None:
        """Take the processes of a relay that died; ``begin`` follows."""
        self.processes.last_task = last_task
        self.processes.tell(SuccessorReady(expires_s))
        self._orphans.receive()

    # -- what jobs need -------------------------------------------------------------------

    def dial(self, name: str, addresses: str, timeout_s: float, uid: int, urgent: bool) -> LinkPort:
        """Return a link to a node, dialled for this user if there is none."""
        return self._pool.get(name, addresses, timeout_s, uid, urgent)

    def open_pipes(
        self,
        tell: Callable[[events.Event], None],
        with_stdin: bool,
        with_output: bool,
        freed: Callable[[], None],
    ) -> PipesPort:
        """Return pipes for a process."""
        return TaskIO(tell, with_stdin, with_output, freed)

    def continue_pipes(
        self, tell: Callable[[events.Event], None], saved: Saved, freed: Callable[[], None]
    ) -> PipesPort:
        """Return the pipes of a process of the relay before this one."""
        return TaskIO(tell, False, False, freed, saved, self.inherited)

    def adopt_pipes(
        self, tell: Callable[[events.Event], None], outputs: dict[int, int], freed: Callable[[], None]
    ) -> PipesPort:
        """Return the pipes of a process whose relay died."""
        return TaskIO(tell, False, False, freed, orphaned(list(outputs)), list(outputs.values()))

    def orphan(self, key: tuple[bytes, int], credential: bytes) -> OrphanTask | None:
        """Return the process of (job id, rank) whose relay died."""
        return self._orphans.find(key, credential)

    def holds(self, name: str) -> bool:
        """Tell whether this daemon's own certificate holds a name or address."""
        return normal(name) in self._names

    def start_refusal(self, link: LinkPort, host: str) -> str:
        """Return why a peer may not bring ranks of a job that ``host`` has signed, "" if it may."""
        return self._standing.start_refusal(link.peer, host) if isinstance(link, Link) else ""

    def denied(self, link: LinkPort, code: int, reason: str, credential: Credential | None = None) -> None:
        """A peer's request was refused: report it for the audit log."""
        job = user = ""
        if credential is not None:
            job, user = credential.job_id.hex(), credential.user
        self.processes.report(PeerDenied(1, code, link.source, link.label, job, user, reason))

    def job_failed(self, job: str, error: Exception) -> None:
        """There is a defect, or a resource is exhausted: only this job is given up."""
        self._log.error(f"{job} failed: {type(error).__name__}: {error}")

    def jobs_changed(self) -> None:
        """A job has arrived or ended."""
        if self._tidying is None:
            self._tidying = self._loop.call_later(_TIDY_S, self._tidy)
        self._stop_if_idle()

    def _tidy(self) -> None:
        """Return free memory to the system if nothing runs; else after the next job."""
        self._tidying = None
        if not self._jobs.by_key:
            self.entry.forget_known()
            memory.trim()

    # -- links ----------------------------------------------------------------------------

    def link_accepted(self, link: Link, uid: int | None) -> None:
        """A peer has connected: a daemon, or a client of this uid."""
        self._jobs.link_accepted(link, uid)

    def link_begun(self, link: Link) -> None:
        """A link is dialled now."""
        self._jobs.link_begun(link)

    def link_reached(self, link: Link) -> None:
        """A dialled peer's machine has answered."""
        link.become("machine answers")
        self._jobs.link_reached(link)

    def peer_refusal(self, peer: Peer) -> str:
        """Return why a peer with a valid certificate is not trusted, "" if it is."""
        return self._standing.link_refusal(peer)

    def link_opened(self, link: Link) -> None:
        """The peer's Hello has arrived."""
        self._acceptor.known(link)
        if link.state == OPENED:
            self._jobs.link_opened(link)

    def link_is_idle(self, link: Link) -> bool:
        """Tell whether no job uses a link."""
        return self._jobs.is_idle(link)

    def link_frame(self, link: Link, channel: int, frame: Frame) -> None:
        """A frame of a job has arrived, or the wish for an upgrade."""
        if isinstance(frame, Upgrade):
            self._upgrade_wanted(link, channel, frame)
        else:
            self._jobs.link_frame(link, channel, frame)

    def link_closed(self, link: Link, text: str) -> None:
        """A link has ended."""
        self._upgrade_askers.pop(link, None)
        self._pool.forget(link)
        self._acceptor.forget(link)
        self._arriving.ended(link)
        unusual = (not link.opened and text != NOT_NEEDED) or text.startswith(
            ("protocol violation", "TLS failed", "uid ", OVER_SHARE)
        )
        if self._jobs.link_closed(link, text) and unusual:
            self._complaints.tell(link.source, f"{link.label}: {text}", self._loop.time())
