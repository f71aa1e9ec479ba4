"""The relay: the unprivileged process of gexecd that speaks to the network.

It accepts links from other daemons and jobs from clients of this host, dials children, and asks
the spawner to run processes. What a job does is decided by its machine (core); this module finds
the right machine for each frame and keeps the limits.
"""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from itertools import count
from typing import Final

from gexec.core import events
from gexec.core.deadlines import SteadyClock
from gexec.core.node import Node
from gexec.core.root import Root
from gexec.errors import CredentialError, ProtocolError
from gexec.posix import memory
from gexec.posix.channel import MessageLost, RelayChannel
from gexec.posix.deadline import Deadline
from gexec.relay.accept import Acceptor
from gexec.relay.admission import CredentialVerifier
from gexec.relay.context import RelayContext
from gexec.relay.job import RelayJob
from gexec.relay.launches import Launches
from gexec.relay.link import Link
from gexec.relay.loop import run
from gexec.relay.peerlog import PeerErrors, tell_faults
from gexec.relay.pool import Pool
from gexec.relay.tls import link_contexts
from gexec.security.keys import load_public_keys
from gexec.wire import frames, messages
from gexec.wire.frames import Frame, Refused, Start, Submit

#: A root's key has this instead of a rank.
ROOT: Final = -1


def run_relay(context: RelayContext) -> int:
    """Serve until told to drain, or until the spawner is gone; return an exit status."""
    return run(_serve(context))


async def _serve(context: RelayContext) -> int:
    loop = asyncio.get_running_loop()
    tell_faults(loop, context.log)
    relay = RelayService(context)
    loop.add_signal_handler(signal.SIGTERM, relay.drain)
    loop.add_signal_handler(signal.SIGINT, relay.drain)
    relay.begin()
    memory.settle()
    context.ready()
    return await relay.stopped


#: How long after a job what it left in memory is given back, if nothing runs then.
_TIDY_S: Final = 6.0


class Party:
    """Who speaks on one connection, and which of its channels belong to which job."""

    __slots__ = ("children", "numbers", "parents", "uid")

    def __init__(self, uid: int | None = None) -> None:
        #: The client's uid on a unix socket; None for a daemon.
        self.uid = uid
        #: Channels that the peer opened: (job, the number of it as a parent).
        self.parents: dict[int, tuple[RelayJob, int]] = {}
        #: Channels that this daemon opened: (job, the number of the child).
        self.children: dict[int, tuple[RelayJob, int]] = {}
        self.numbers = count(1)


class RelayService:
    """All jobs, links and tasks of one daemon."""

    def __init__(self, context: RelayContext) -> None:
        self.spawner = RelayChannel(context.channel_socket)
        self.stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.clock = SteadyClock(asyncio.get_running_loop().time())
        self.launches = Launches()
        self._context = context
        self._settings = context.settings
        self._log = context.log
        self._loop = asyncio.get_running_loop()
        self._entry = CredentialVerifier(context.settings, context.verify_keys)
        contexts = link_contexts(*context.certificates)
        self._complaints = PeerErrors(context.log)
        self._pool = Pool(self, contexts)
        self._acceptor = Acceptor(self, context, contexts, self._complaints)
        self._jobs: dict[tuple[bytes, int], RelayJob] = {}
        self._roots = 0
        self._tasks: dict[int, RelayJob] = {}
        self._parties: dict[Link, Party] = {}
        self._task_numbers = count(1)
        self._parent_numbers = count(1)
        self._draining = False
        self._spawner_writing = False
        self._beat: asyncio.TimerHandle | None = None
        self._tidying: asyncio.TimerHandle | None = None
        #: When it is due, in the clock's time, and how far the clock was behind when it came last.
        self._beat_due_s = 0.0
        self._beat_behind_s = 0.0

    def begin(self) -> None:
        """Start serving."""
        self._loop.add_reader(self.spawner.fileno(), self._spawner_readable)
        self._acceptor.begin()
        self._beat_within(self._settings.link_idle_s)

    # -- the end --------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no new jobs; stop when those that run have ended, or drain_s is over.

        Until then connections are accepted, and jobs refused: who asks is told why.
        """
        if self._draining:
            self._stop(0)
            return
        self._draining = True
        for link in self._parties:
            link.send(0, frames.Goodbye("gexecd is shutting down"))
        Deadline(self._loop, self._settings.drain_s, partial(self._stop, 0))
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if self._draining and not self._jobs:
            self._acceptor.stop()  # who comes now is a new gexecd's, if systemd holds the sockets
            self._loop.call_later(0.05, self._stop, 0)  # what was sent just now may leave

    def _stop(self, status: int) -> None:
        if not self.stopped.done():
            self.stopped.set_result(status)

    # -- the spawner ----------------------------------------------------------------------

    def open_task(self, job: RelayJob) -> int:
        """Return a number for a new task of this job at the spawner."""
        task = next(self._task_numbers) & messages.TASK_MAX
        self._tasks[task] = job
        return task

    def close_task(self, task: int) -> None:
        """Hear no more of a task."""
        self._tasks.pop(task, None)

    def spawner_asked(self) -> None:
        """Something was sent to the spawner: see that what it did not take yet goes out later."""
        if self.spawner.wants_write != self._spawner_writing:
            self._spawner_writing = not self._spawner_writing
            if self._spawner_writing:
                self._loop.add_writer(self.spawner.fileno(), self._spawner_writable)
            else:
                self._loop.remove_writer(self.spawner.fileno())

    def _spawner_writable(self) -> None:
        try:
            self.spawner.flush()
        except OSError as error:
            # Something that it was asked for is lost, and would never be answered.
            self._log.error(f"the spawner cannot be asked ({error.strerror}): ending")
            self._stop(1)
        self.spawner_asked()

    def _spawner_readable(self) -> None:
        try:
            event = self.spawner.receive()
        except MessageLost as lost:
            self._log.error(f"a message of the spawner could not be taken: {lost}")
            return
        except (ConnectionError, ProtocolError) as error:
            if not self._draining:
                self._log.error(f"the spawner is gone ({error}): ending")
            self._loop.remove_reader(self.spawner.fileno())
            self._stop(0 if self._draining else 1)
            return
        if event is not None:
            self._spawner_event(event)

    def _spawner_event(self, event: messages.Event) -> None:
        if isinstance(event, messages.Certificates):
            self._renew(event)
        elif isinstance(event, messages.AcceptedKeys):
            self._entry.reload(load_public_keys(event.pem))
        else:
            job = self._tasks.get(event.task)
            if job is not None:
                job.task_event(event)

    def _renew(self, event: messages.Certificates) -> None:
        contexts = link_contexts(event.key_pem, event.certificate_pem, event.authority_pem)
        self._pool.contexts = contexts
        self._acceptor.contexts = contexts
        self._log.info("certificate renewed")

    # -- links ----------------------------------------------------------------------------

    def dial(self, name: str, addresses: str, timeout_s: float) -> Link:
        """Return a link to a node, dialled if there is none."""
        link = self._pool.get(name, addresses, timeout_s)
        if link not in self._parties:
            self._parties[link] = Party()
        return link

    def open_channel(self, link: Link, job: RelayJob, child: int) -> int:
        """Return a new channel to a child on a link that this daemon dialled."""
        party = self._parties[link]
        channel = next(party.numbers) & 0xFFFFFFFF
        party.children[channel] = (job, child)
        self._beat_within(self._settings.heartbeat_s)
        return channel

    def close_channel(self, link: Link, channel: int) -> None:
        """Hear no more of a channel."""
        party = self._parties.get(link)
        if party is not None:
            party.children.pop(channel, None)

    def link_accepted(self, link: Link, uid: int | None) -> None:
        """A peer has connected: a daemon, or a client of this uid."""
        self._parties[link] = Party(uid)

    def link_reached(self, link: Link) -> None:
        """A dialled peer's machine has answered."""
        link.become("machine answers")
        party = self._parties.get(link)
        if party is not None:
            for job, number in list(party.children.values()):
                job.child_link_reached(number)

    def link_opened(self, link: Link) -> None:
        """The peer's Hello has come."""
        self._acceptor.known(link)
        for job, number in list(self._parties[link].children.values()):
            job.child_link_opened(number)

    def link_closed(self, link: Link, text: str) -> None:
        """A link has ended: every job on it is told."""
        self._pool.forget(link)
        self._acceptor.forget(link)
        party = self._parties.pop(link, None)
        if party is None:
            return
        if not link.opened or text.startswith(("it broke", "TLS failed")):
            self._complaints.tell(link.source, f"{link.label}: {text}", self._loop.time())
        for job, number in list(party.children.values()):
            job.child_link_closed(number, text)
        for job, number in list(party.parents.values()):
            job.parents.pop(number, None)
            job.tell(events.ParentLost(number, text))

    def link_frame(self, link: Link, channel: int, frame: Frame) -> None:
        """A frame of a job has come."""
        party = self._parties[link]
        parent = party.parents.get(channel)
        if parent is not None:
            if isinstance(frame, Submit):
                raise ProtocolError("a second Submit on one channel")
            if isinstance(frame, Start) and not parent[0].is_same(frame):
                raise ProtocolError("a second Start on one channel, for something else")
            parent[0].tell(events.ParentFrame(parent[1], frame))
            return
        child = party.children.get(channel)
        if child is not None:
            child[0].tell(events.ChildFrame(child[1], frame))
        elif isinstance(frame, Start):
            self._start(link, party, channel, frame)
        elif isinstance(frame, Submit):
            self._submit(link, party, channel, frame)
        # Anything else speaks of a job that has ended here meanwhile.

    def _beat_within(self, delay_s: float) -> None:
        """See to it that the next heartbeat comes within this time."""
        due_s = self._loop.time() - self.clock.behind_s + delay_s
        if self._beat is not None:
            if self._beat_due_s <= due_s:
                return
            self._beat.cancel()
        self._beat_due_s = due_s
        self._beat = self._loop.call_at(due_s + self.clock.behind_s, self._heartbeat)

    def _heartbeat(self) -> None:
        """Ask silent peers whether they live; give up dead ones and idle links.

        Without a job on any link this comes once more, and then only as often as links may be idle.
        """
        self._beat = None
        settings = self._settings
        next_s = settings.link_idle_s
        now_s = self._loop.time()
        paused_s = self._paused_s(now_s)
        for link, party in list(self._parties.items()):
            # While this process stood still nobody could be heard.
            link.heard_s = min(now_s, link.heard_s + paused_s)
            silent_s = now_s - link.heard_s
            if not link.opened:
                continue
            if not (party.children or party.parents):
                if silent_s >= settings.link_idle_s:
                    link.close("idle")
            elif party.uid is None:
                next_s = settings.heartbeat_s
                if silent_s >= settings.lost_after_s:
                    link.abort(f"no answer for {silent_s:.0f} s")
                elif silent_s >= settings.heartbeat_s:
                    link.send(0, frames.Ping(0))
        self._beat_within(next_s)

    def _paused_s(self, now_s: float) -> float:
        """Return how long this process stood still since the last heartbeat."""
        self.clock.now(now_s, self._beat_due_s)
        before_s, self._beat_behind_s = self._beat_behind_s, self.clock.behind_s
        return self.clock.behind_s - before_s

    # -- jobs -----------------------------------------------------------------------------

    def _refusal(self) -> Refused | None:
        """Return why no new job is taken just now, None if one is."""
        if self._draining:
            return Refused(frames.REFUSED_BUSY, "gexecd is shutting down")
        ranks = len(self._jobs) - self._roots  # those are bounded by the clients there may be
        if ranks >= self._settings.jobs_max:
            return Refused(frames.REFUSED_BUSY, f"gexecd has {ranks} ranks of jobs, its limit (jobs_max)")
        return None

    def _start(self, link: Link, party: Party, channel: int, start: Start) -> None:
        """A parent wants this node to take part in a job."""
        if party.uid is not None:
            raise ProtocolError("Start from a client")
        self._beat_within(self._settings.heartbeat_s)
        try:
            credential, spec = self._entry.check(start.credential, start.blob)
        except (CredentialError, ProtocolError) as error:
            # A job that this version does not know must not end the link, and other jobs with it.
            link.answer(channel, Refused(frames.REFUSED_DENIED, str(error)))
            return
        start.blob = self._entry.shared(start.credential, start.blob)
        if start.high > spec.ranks:
            raise ProtocolError(f"ranks [{start.low}, {start.high}) of a job of {spec.ranks}")
        key = (credential.job_id, start.low)
        parent = next(self._parent_numbers)
        job = self._jobs.get(key)
        if job is not None:
            party.parents[channel] = (job, parent)
            job.parents[parent] = (link, channel)
            job.tell(events.ParentFrame(parent, start))
            return
        if start.attach_only:
            link.answer(channel, Refused(frames.REFUSED_UNKNOWN, "the job is not known here"))
            return
        self._tidy_later()
        refusal = self._refusal()
        if refusal is not None:
            link.answer(channel, refusal)
            return
        node = Node(
            job_id=credential.job_id,
            spec=spec,
            start=start,
            parent=parent,
            orphan_grace_s=self._settings.orphan_grace_s,
        )
        job = self._jobs[key] = RelayJob(self, key, node, spec, start.credential, start.blob, credential.uid)
        self._entry.keep(start.credential)
        party.parents[channel] = (job, parent)
        job.parents[parent] = (link, channel)
        job.begin()

    def _submit(self, link: Link, party: Party, channel: int, submit: Submit) -> None:
        """A client of this host submits a job."""
        if party.uid is None:
            raise ProtocolError("Submit from a daemon")
        if party.parents:
            raise ProtocolError("a second job on one connection")
        try:
            credential, spec = self._entry.check(submit.credential, submit.blob)
        except (CredentialError, ProtocolError) as error:
            link.answer(channel, Refused(frames.REFUSED_DENIED, str(error)))
            return
        self._tidy_later()
        refusal = self._refusal()
        if credential.uid != party.uid:
            refusal = Refused(
                frames.REFUSED_DENIED,
                f"the credential is of uid {credential.uid}, but uid {party.uid} submits it",
            )
        key = (credential.job_id, ROOT)
        if key in self._jobs:
            refusal = Refused(frames.REFUSED_DENIED, "this job was submitted before")
        if refusal is not None:
            link.answer(channel, refusal)
            return
        parent = next(self._parent_numbers)
        root = Root(
            job_id=credential.job_id,
            spec=spec,
            credential=submit.credential,
            blob=submit.blob,
            client=parent,
        )
        self._roots += 1
        job = self._jobs[key] = RelayJob(
            self, key, root, spec, submit.credential, submit.blob, credential.uid
        )
        self._entry.keep(submit.credential)
        party.parents[channel] = (job, parent)
        job.parents[parent] = (link, channel)
        job.begin()

    def job_failed(self, job: RelayJob, error: Exception) -> None:
        """There is a defect, or something ran out: the job is given up, nothing else."""
        place = "the root" if job.key[1] == ROOT else f"rank {job.key[1]}"
        self._log.error(f"{place} of job {job.key[0].hex()} failed: {type(error).__name__}: {error}")

    def _tidy_later(self) -> None:
        if self._tidying is None:
            self._tidying = self._loop.call_later(_TIDY_S, self._tidy)

    def _tidy(self) -> None:
        """Give free memory back, if nothing runs; else after the next job."""
        self._tidying = None
        if not self._jobs:
            self._entry.forget_known()
            memory.trim()

    def job_finished(self, job: RelayJob) -> None:
        """A machine has done its part."""
        if self._jobs.pop(job.key, None) is not None:
            self._roots -= job.key[1] == ROOT
            self._entry.release(job.credential)
        self._tidy_later()
        for link, channel in job.parents.values():
            party = self._parties.get(link)
            if party is not None:
                party.parents.pop(channel, None)
        self._stop_if_idle()
