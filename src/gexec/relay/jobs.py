"""The jobs of one daemon: to which job a frame on a link belongs, and whether a new job is accepted.

Also the heartbeats of the links that jobs use. This module uses only ports (``relay.ports``): the simulator
runs the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from gexec import limits
from gexec.core import events
from gexec.core.deadlines import SteadyClock, earlier
from gexec.core.node import Node
from gexec.core.root import Root
from gexec.errors import CredentialError, ProtocolError
from gexec.posix.deadline import Deadline, Timer
from gexec.relay import openings, parents
from gexec.relay.job import ROOT, RelayJob
from gexec.relay.launches import Launches
from gexec.relay.party import Party
from gexec.relay.ports import LinkPort, OrphanTask, Surroundings
from gexec.security.credential import Credential
from gexec.settings.config import GexecdSettings
from gexec.wire import denials, frames
from gexec.wire.frames import Frame, Refused, Start, Submit
from gexec.wire.jobspec import JobSpec

#: Why a link ends that was being dialled for jobs that have ended.
NOT_NEEDED: Final = "no job needs it any more"
#: Least time between two heartbeats.
_BEAT_MIN_S: Final = 0.05


class Jobs:
    """All jobs of one daemon, and the peers on its links.

    Args:
        stepped: called after every step of a job's machine, before its effects; for the simulator's checks.

    Attributes:
        by_key: existing jobs, by (job id, low), or (job id, ROOT).
        parties: the peers, by their links.
        draining: no new job is accepted.
        opens_at_once: links that a job requests in one step.
    """

    def __init__(
        self,
        around: Surroundings,
        settings: GexecdSettings,
        stepped: Callable[[RelayJob], None] | None = None,
    ) -> None:
        self.around = around
        self.clock = SteadyClock(around.timers.time())
        self.launches = Launches()
        self.draining = False
        self.opens_at_once = openings.STEP_MAX
        self._timers = around.timers
        self._settings = settings
        self.orphan_grace_s = settings.orphan_grace_s
        self.by_key: dict[tuple[bytes, int], RelayJob] = {}
        self.stepped = stepped
        self.parties: dict[LinkPort, Party] = {}
        self.last_parent = 0
        self._beat: Timer | None = None
        #: When it is due, in the clock's time, and how far the clock was behind at the last one.
        self._beat_due_s = 0.0
        self._beat_behind_s = 0.0

    def begin(self) -> None:
        """Start the heartbeats."""
        self._beat_within(self._settings.link_idle_s)

    def beat_soon(self) -> None:
        """Something of a job begins or goes on here: from now on a missed heartbeat shows a pause."""
        self._beat_within(self._settings.heartbeat_s)

    def drain(self) -> None:
        """Take no new jobs, and inform all peers."""
        self.draining = True
        for link in self.parties:
            link.send(0, frames.Goodbye("gexecd is shutting down"))

    # -- links ----------------------------------------------------------------------------

    def open_channel(
        self, name: str, addresses: str, timeout_s: float, job: RelayJob, child: int, urgent: bool
    ) -> tuple[LinkPort, int]:
        """Return a link to a node, and a channel on it. ValueError: something is not an address."""
        link = self.around.dial(name, addresses, timeout_s, job.uid, urgent)
        party = self.parties.setdefault(link, Party())
        if not (party.children or party.parents):
            link.heard_s = self._timers.time()  # an idle link is not pinged: what it is silent for begins now
        channel = next(party.numbers) & 0xFFFFFFFF
        party.children[channel] = (job, child)
        self.beat_soon()
        return link, channel

    def close_channel(self, link: LinkPort, channel: int) -> None:
        """Stop handling a child's channel."""
        party = self.parties.get(link)
        if party is not None:
            party.children.pop(channel, None)
            party.quiet.discard(channel)
            if not (party.children or party.parents or link.reached or link.opened):
                link.abort(NOT_NEEDED)  # its place is for others of its user, who may wait for it

    def is_idle(self, link: LinkPort) -> bool:
        """Tell whether no job uses a link."""
        party = self.parties.get(link)
        return party is None or not (party.children or party.parents)

    def links(self) -> list[LinkPort]:
        """Return all links that were accepted, or are or were used by a job."""
        return list(self.parties)

    def link_accepted(self, link: LinkPort, uid: int | None) -> None:
        """A peer has connected: a daemon, or a client of this uid."""
        self.parties[link] = Party(uid)

    def link_begun(self, link: LinkPort) -> None:
        """It is a link's turn to be dialled."""
        party = self.parties.get(link)
        if party is not None:
            for job, number in list(party.children.values()):
                job.child_link_begun(number)

    def link_reached(self, link: LinkPort) -> None:
        """A dialled peer's machine has answered."""
        party = self.parties.get(link)
        if party is not None:
            for job, number in list(party.children.values()):
                job.child_link_reached(number)

    def link_opened(self, link: LinkPort) -> None:
        """The peer's Hello has come."""
        party = self.parties[link]
        if party.uid is not None:
            within_s = self._settings.unauthenticated_max_s
            overdue = partial(link.abort, f"protocol violation: no Submit within {within_s:g} s")
            party.deadline = Deadline(self._timers, within_s, overdue)
        for job, number in list(party.children.values()):
            job.child_link_opened(number)

    def link_closed(self, link: LinkPort, text: str) -> bool:
        """A link has ended: inform every job on it. Return whether the link was known."""
        party = self.parties.pop(link, None)
        if party is None:
            return False
        if party.deadline is not None:
            party.deadline.cancel()
        for job, number in list(party.children.values()):
            job.child_link_closed(number, text, party.silent)
        for job, number in list(party.parents.values()):
            job.parents.pop(number, None)
            job.tell(events.ParentLost(number, text))
        return True

    def link_frame(self, link: LinkPort, channel: int, frame: Frame) -> None:
        """A frame of a job has come."""
        party = self.parties[link]
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
        # Any other frame is about a job that has already ended here.

    # -- time and heartbeats --------------------------------------------------------------

    def now_s(self, wake_s: float | None) -> float:
        """Return the steady time for a job that had to wake up at ``wake_s`` at the latest.

        For a job without a deadline, the missed heartbeat shows a pause. Otherwise a deadline that the job
        sets before the clock is set back would be late by the whole pause.
        """
        due_s = earlier(wake_s, self._beat_due_s) if self._beat is not None else wake_s
        return self.clock.now(self._timers.time(), due_s)

    def _beat_within(self, delay_s: float) -> None:
        """Schedule the next heartbeat within this time."""
        due_s = self._timers.time() - self.clock.behind_s + delay_s
        if self._beat is not None:
            if self._beat_due_s <= due_s:
                return
            self._beat.cancel()
        self._beat_due_s = due_s
        self._beat = self._timers.call_at(due_s + self.clock.behind_s, self._heartbeat)

    def _heartbeat(self) -> None:
        """Ping silent peers; give up dead ones and idle links.

        Without a job on any link this runs once more, and then only at intervals of ``link_idle_s``.
        """
        self._beat = None
        settings = self._settings
        next_s = settings.link_idle_s
        share = limits.NOT_RESPONDING_S / limits.LOST_AFTER_S
        quiet_s = max(2 * settings.heartbeat_s, share * settings.lost_after_s)
        now_s = self._timers.time()
        paused_s = self._paused_s(now_s)
        for link, party in list(self.parties.items()):
            # During its own pause this process could not receive anything.
            link.heard_s = min(now_s, link.heard_s + paused_s)
            silent_s = now_s - link.heard_s
            if not link.opened:
                continue
            if not (party.children or party.parents):
                if silent_s >= settings.link_idle_s:
                    link.close("idle")
            elif party.uid is None:
                if silent_s >= settings.lost_after_s:
                    next_s = min(next_s, settings.heartbeat_s)
                    party.silent = True
                    link.abort(f"no answer for {silent_s:.0f} s")
                    continue
                party.note_quiet(silent_s >= quiet_s)
                # All jobs on the link may be waiting for this peer: not longer than they must.
                limit_s = settings.lost_after_s if party.quiet else quiet_s
                next_s = min(next_s, settings.heartbeat_s, max(_BEAT_MIN_S, limit_s - silent_s))
                if silent_s >= settings.heartbeat_s:
                    link.send(0, frames.Ping(0))
        self._end_unread()
        self._beat_within(next_s)

    def _end_unread(self) -> None:
        """End the jobs of clients that leave more output unread than their user's share, largest first."""
        unread: dict[int, list[tuple[int, LinkPort]]] = {}
        for link, party in self.parties.items():
            if party.uid is not None and party.parents:
                unread.setdefault(party.uid, []).append((link.unsent_bytes, link))
        for uid in self.around.quotas.over_unread(
            {uid: sum(n for n, _ in all_) for uid, all_ in unread.items()}
        ):
            size, link = max(unread[uid], key=lambda one: one[0])
            total = sum(n for n, _ in unread[uid])
            link.abort(f"uid {uid} leaves {total} bytes of output unread, and this client {size} of them")

    def _paused_s(self, now_s: float) -> float:
        """Return how long this process was paused since the last heartbeat."""
        self.clock.now(now_s, self._beat_due_s)
        before_s, self._beat_behind_s = self._beat_behind_s, self.clock.behind_s
        return self.clock.behind_s - before_s

    # -- jobs -----------------------------------------------------------------------------

    def _refusal(self, uid: int, spec: JobSpec, is_root: bool) -> Refused | None:
        """Return why no new job of a user is accepted now, None if one is."""
        if self.draining:
            return Refused(frames.REFUSED_BUSY, "gexecd is shutting down")
        full = None if is_root else self.around.quotas.rank_refusal(uid, spec)
        return None if full is None else Refused(frames.REFUSED_BUSY, full)

    def _checked(
        self, link: LinkPort, channel: int, frame: Start | Submit
    ) -> tuple[Credential, JobSpec] | None:
        """Return the content of a job's credential and blob; None after a refusal to the peer."""
        try:
            return self.around.entry.check(frame.credential, frame.blob, isinstance(frame, Start))
        except (CredentialError, ProtocolError) as error:
            # A job of an unknown form must not end the link, and other jobs with it.
            code = denials.JOB if isinstance(error, ProtocolError) else denials.CREDENTIAL
            self._refuse(link, channel, Refused(frames.REFUSED_DENIED, str(error)), code, None)
            return None

    def _refuse(
        self, link: LinkPort, channel: int, refusal: Refused, code: int, credential: Credential | None
    ) -> None:
        link.answer(channel, refusal)
        if not self.draining:
            self.around.denied(link, code, refusal.text, credential)

    def _start(self, link: LinkPort, party: Party, channel: int, start: Start) -> None:
        """A parent wants this node to take part in a job."""
        if party.uid is not None:
            raise ProtocolError("Start from a client")
        self.beat_soon()
        checked = self._checked(link, channel, start)
        if checked is None:
            return
        credential, spec = checked
        start.blob = self.around.entry.shared(start.credential, start.blob)
        if start.high > spec.ranks:
            raise ProtocolError(f"ranks [{start.low}, {start.high}) of a job of {spec.ranks}")
        key = (credential.job_id, start.low)
        job = self.by_key.get(key)
        text = parents.refusal(credential.host, spec, start, link.holds)
        text = text or self.around.start_refusal(link, credential.host)
        if not text and job is not None and job.credential != start.credential:
            text = f"rank {start.low} of this job runs here with another credential"
        if text:
            self._refuse(link, channel, Refused(frames.REFUSED_DENIED, text), denials.PARENT, credential)
            return
        self.last_parent = parent = self.last_parent + 1
        if job is not None:
            self.join(job, link, channel, parent)
            job.tell(events.ParentFrame(parent, start))
            return
        orphan = self.around.orphan(key, start.credential)
        if start.attach_only and orphan is None:
            link.answer(channel, Refused(frames.REFUSED_UNKNOWN, "the job is not known here"))
            return
        self.around.jobs_changed()
        refusal = self._refusal(credential.uid, spec, False)
        if refusal is not None:
            self._refuse(link, channel, refusal, denials.BUSY, credential)
            return
        node = Node(
            job_id=credential.job_id,
            spec=spec,
            start=start,
            parent=parent,
            orphan_grace_s=self.orphan_grace_s,
        )
        job = RelayJob(self, key, node, spec, start.credential, start.blob, credential.uid)
        self._begin(job, link, channel, parent, orphan)

    def _submit(self, link: LinkPort, party: Party, channel: int, submit: Submit) -> None:
        """A client of this host submits a job."""
        if party.uid is None:
            raise ProtocolError("Submit from a daemon")
        if party.parents:
            raise ProtocolError("a second job on one connection")
        if party.deadline is not None:
            party.deadline.cancel()
            party.deadline = None
        checked = self._checked(link, channel, submit)
        if checked is None:
            return
        credential, spec = checked
        self.around.jobs_changed()
        refusal = self._refusal(credential.uid, spec, True)
        key = (credential.job_id, ROOT)
        if key in self.by_key:
            refusal = Refused(frames.REFUSED_DENIED, "this job was submitted before")
        elif credential.uid != party.uid:
            text = f"the credential is of uid {credential.uid}, but uid {party.uid} submits it"
            refusal = Refused(frames.REFUSED_DENIED, text)
        elif text := parents.not_the_host(credential.host, self.around.holds):
            refusal = Refused(frames.REFUSED_DENIED, text)
        if refusal is not None:
            code = denials.CLIENT if refusal.code == frames.REFUSED_DENIED else denials.BUSY
            self._refuse(link, channel, refusal, code, credential)
            return
        self.last_parent = parent = self.last_parent + 1
        blob = submit.blob
        root = Root(
            job_id=credential.job_id, spec=spec, credential=submit.credential, blob=blob, client=parent
        )
        job = RelayJob(self, key, root, spec, submit.credential, blob, credential.uid)
        self._begin(job, link, channel, parent)

    def join(self, job: RelayJob, link: LinkPort, channel: int, parent: int) -> None:
        """A channel of this link leads to a parent of this job, or to its client."""
        party = self.parties[link]
        party.parents[channel] = (job, parent)
        job.parents[parent] = (link, channel)

    def _begin(
        self, job: RelayJob, link: LinkPort, channel: int, parent: int, orphan: OrphanTask | None = None
    ) -> None:
        self.by_key[job.key] = job
        if job.key[1] != ROOT:
            self.around.quotas.take_rank(job.uid, job.spec)
        self.around.entry.keep(job.credential)
        self.join(job, link, channel, parent)
        job.begin(orphan)

    def job_finished(self, job: RelayJob) -> None:
        """A job's machine has finished."""
        if self.by_key.pop(job.key, None) is not None:
            if job.key[1] != ROOT:
                self.around.quotas.give_rank(job.uid, job.spec)
            self.around.entry.release(job.credential)
        for link, channel in job.parents.values():
            party = self.parties.get(link)
            if party is not None:
                party.parents.pop(channel, None)
        self.around.jobs_changed()
