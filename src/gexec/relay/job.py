"""The shell around one per-job machine: turns its effects into I/O and what happens into events.

One :class:`RelayJob` holds a ``core.node.Node`` or a ``core.root.Root``, its timer, the channels to its
parents and children, and its process (``relay.process``). Effects are carried out in the machine's order;
events that happen during this are queued. This module uses only ports (``relay.ports``): the simulator runs
the same code.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from gexec import limits
from gexec.core import events, tree
from gexec.core.deadlines import wake_s
from gexec.core.node import Node
from gexec.core.root import Root
from gexec.core.saving import Saved
from gexec.errors import ProtocolError
from gexec.posix.deadline import Deadline, Timer
from gexec.relay.children import ChildLink
from gexec.relay.openings import Openings
from gexec.relay.ports import LinkPort, OrphanTask
from gexec.relay.process import JobProcess
from gexec.wire import frames, jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import Frame, Start
from gexec.wire.jobspec import JobSpec

if TYPE_CHECKING:
    from gexec.relay.jobs import Jobs

#: Why links to other nodes have ended.
UPGRADED = "gexecd was upgraded there"
#: A root's key has this instead of a rank.
ROOT = -1


class RelayJob:
    """One machine and what it uses.

    Args:
        jobs: the daemon's jobs, among them this one.
        key: its key there: (job id, low), or (job id, -1) for a root.
        credential, blob: as received, for the spawner.
        uid: the credential's user.
    """

    def __init__(
        self,
        jobs: Jobs,
        key: tuple[bytes, int],
        machine: Node | Root,
        spec: JobSpec,
        credential: bytes,
        blob: bytes,
        uid: int,
    ) -> None:
        self.key = key
        self.spec = spec
        self.machine = machine
        self.credential = credential
        self.blob = blob
        self.uid = uid
        self.parents: dict[int, tuple[LinkPort, int]] = {}
        self.children: dict[int, ChildLink] = {}
        self._jobs = jobs
        self._timers = jobs.around.timers
        self._queue: deque[events.Event] = deque()
        self._process = JobProcess(self, jobs)
        self._openings = Openings(self._timers, self._open_later, jobs.opens_at_once)
        #: Children of the job in the relay before this one.
        self._postponed: dict[int, Saved] = {}
        #: Children whose first link was cut before it was open.
        self._dialled_again: set[int] = set()
        self._busy = False
        self._timer: Timer | None = None
        #: When the machine has something to do, and when the timer expires, in steady time.
        self._due_s: float | None = None
        self._wake_s: float | None = None

    def __str__(self) -> str:
        place = "the root" if self.key[1] == ROOT else f"rank {self.key[1]}"
        return f"{place} of job {self.key[0].hex()}"

    def is_same(self, start: Start) -> bool:
        """Tell whether a Start is for this node of this job, with a range that it may have."""
        low, high = tree.lineage(self.spec.ranks, self.spec.fanout, self.key[1])[-1]
        return (
            start.low == low
            and start.high in (high, low + 1)
            and start.credential == self.credential
            and start.blob == self.blob
        )

    # -- for the next relay ---------------------------------------------------------------

    def save(self, fds: list[int]) -> Saved:
        """Return its state, without the job's bytes; its descriptors are added to ``fds``."""
        children = {
            number: {
                "start": (child.start.epoch, child.start.low, child.start.high, child.start.attach_only),
                "waiting": child.waiting,
                "sent": child.sent,
            }
            for number, child in self.children.items()
        }
        return {
            "low": self.key[1],
            "uid": self.uid,
            "machine": self.machine.save(),
            "process": self._process.save(fds),
            "children": children,
        }

    def restore(self, saved: Saved) -> None:
        """Continue with a state that ``save`` returned, whose machine this job has; ``go_on`` follows."""
        self._process.restore(saved["process"])
        self._postponed = saved["children"]

    def go_on(self) -> None:
        """Begin after ``restore``: all links to other nodes are lost."""
        postponed, self._postponed = self._postponed, {}
        if isinstance(self.machine, Node) and self.machine.parent is not None:
            self.tell(events.ParentLost(self.machine.parent, UPGRADED))
        self._process.go_on()
        for number, child in postponed.items():
            if child["sent"]:
                self.tell(events.ChildLost(number, UPGRADED, True, here=True))
                continue
            epoch, low, high, attach_only = child["start"]
            start = Start(epoch, low, high, self.credential, self.blob, attach_only)
            self._dial_again(number, start, child["waiting"])
        if not self.machine.finished:
            self._arm()

    # -- driving --------------------------------------------------------------------------

    def begin(self, orphan: OrphanTask | None = None) -> None:
        """Begin the job; a node may begin with a process that runs already."""
        machine = self.machine
        self._busy = True
        try:
            if orphan is not None and isinstance(machine, Node):
                self._process.adopt(orphan)
                self._carry_out(machine.begin(self._now_s(), orphan.life, orphan.age_s))
            else:
                self._carry_out(machine.begin(self._now_s()))
        except Exception as error:
            self.fail(error)
        self._run_queue()
        if orphan is not None:
            self._process.adopted(orphan)

    def tell(self, event: events.Event) -> None:
        """Pass an event to the machine, now or after the events before it.

        A ProtocolError about a frame of a parent or client ends only that connection.
        """
        self._queue.append(event)
        self.wake()

    def wake(self) -> None:
        """Handle queued events, unless that is under way."""
        if not self._busy:
            self._busy = True
            self._run_queue()

    def _run_queue(self) -> None:
        try:
            while not self.machine.finished:
                event = self._next_event()
                if event is None:
                    break
                try:
                    effects = self.machine.handle(event, self._now_s())
                except ProtocolError as broken:
                    self._refuse(event, broken)
                    continue
                self._carry_out(effects)
        except Exception as error:
            self.fail(error)
        finally:
            self._busy = False
        if not self.machine.finished:
            self._arm()

    def _next_event(self) -> events.Event | None:
        if self._process.behind:
            return self._process.next_event()
        return self._queue.popleft() if self._queue else None

    def _now_s(self) -> float:
        return self._jobs.now_s(self._wake_s)

    def _refuse(self, event: events.Event, error: ProtocolError) -> None:
        link: LinkPort | None = None
        if isinstance(event, events.ParentFrame) and event.parent in self.parents:
            link, _ = self.parents[event.parent]
        elif isinstance(event, events.ChildFrame) and event.child in self.children:
            link = self.children[event.child].link
        if link is None:
            raise error
        self._timers.call_at(self._timers.time(), partial(link.abort, f"protocol violation: {error}"))

    def fail(self, error: Exception) -> None:
        """Give up only this job: end the process, inform the parents and the children."""
        self._jobs.around.job_failed(str(self), error)
        self.machine.finished = True
        refused = frames.Refused(frames.REFUSED_UNKNOWN, "gexecd failed on this job: see its log")
        for link, channel in self.parents.values():
            link.send(channel, refused)
        for child in self.children.values():
            child.send(frames.Close(), True)
        self._process.give_up()
        self._finish()

    def _arm(self) -> None:
        due_s = self.machine.next_deadline_s()
        if self._timer is not None:
            if due_s is not None and self._due_s == due_s:
                return
            self._timer.cancel()
            self._timer = None
        self._due_s = self._wake_s = due_s
        if due_s is not None:
            behind_s = self._jobs.clock.behind_s
            self._wake_s = wake_s(self._timers.time() - behind_s, due_s)
            self._timer = self._timers.call_at(self._wake_s + behind_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.tell(events.Tick())

    # -- effects --------------------------------------------------------------------------

    def _carry_out(self, effects: list[events.Effect]) -> None:
        if self._jobs.stepped is not None:
            self._jobs.stepped(self)
        for effect in effects:
            if isinstance(effect, events.ToParent):
                parent = self.parents.get(effect.parent)
                if parent is not None:
                    link, channel = parent
                    link.send(channel, effect.frame)
            elif isinstance(effect, events.ToChild):
                child = self.children.get(effect.child)
                if child is not None:
                    child.send(effect.frame, effect.hurry)
            elif isinstance(effect, events.OpenChild):
                self._open_child(effect.child, effect.start, effect.silent, effect.urgent)
            elif isinstance(effect, events.DropChild):
                self._drop_child(effect.child)
            elif isinstance(effect, events.Finish):
                self._finish()
            else:
                self._process.carry_out(effect)

    # -- children -------------------------------------------------------------------------

    def _open_child(self, number: int, start: Start, silent: bool, urgent: bool) -> None:
        child = self.children.get(number)
        if child is not None:
            if child.sent and child.link is not None:
                child.link.send(child.channel, start)
            else:
                child.start = start
            return
        unresolved = outcomes.why_unresolved(self.spec.addresses[start.low])
        if unresolved:
            self.tell(events.ChildLost(number, unresolved, False))
            return
        self.children[number] = ChildLink(start, silent)
        if urgent:
            self._request_link(number, True)
        else:
            self._openings.add(number)

    def _open_later(self, number: int) -> None:
        try:
            self._request_link(number)
        except Exception as error:  # this may run in a turn of the event loop of its own
            self.fail(error)

    def _request_link(self, number: int, urgent: bool = False) -> None:
        """Get a link for a child, and send its Start as soon as it is open."""
        child = self.children.get(number)
        if child is None or child.link is not None:
            return
        start, silent = child.start, child.silent
        name = self.spec.names[start.low].decode("utf-8", "surrogateescape")
        addresses = self.spec.addresses[start.low].decode("ascii", "replace")
        timeout_s = self.spec.connect_timeout_s
        try:
            link, channel = self._jobs.open_channel(name, addresses, timeout_s, self, number, urgent)
        except ValueError as error:
            del self.children[number]
            self.tell(events.ChildLost(number, str(error), False))
            return
        child.link, child.channel, child.heard_s = link, channel, link.heard_s
        if link.waiting:
            self._openings.waiting.add(number)
        if link.reached:
            self.child_link_reached(number)
        prompt = bool(self.spec.flags & jobspec.PROMPT)
        if link.opened:
            child.open()
            if not prompt:
                return
            link.send(0, frames.Ping(0))
        hurry = silent and (prompt or self.spec.stall_s > 0)  # in other jobs it may take its time
        if hurry or start.attach_only or prompt:
            child.within_s = min(timeout_s, limits.ASK_SILENT_S) if hurry else timeout_s
            if start.attach_only and not silent and not prompt:
                # Its gexecd has closed the link itself, and listens: it may be being upgraded.
                child.within_s = max(timeout_s, limits.LOST_AFTER_S)
            if not link.waiting:
                self.child_link_begun(number)

    def child_link_begun(self, number: int) -> None:
        """A child's link is dialled now: the time for its answer begins."""
        self._openings.begun(number)
        child = self.children.get(number)
        if child is not None and child.within_s is not None and child.answer_by is None:
            overdue = partial(self._answer_overdue, number, child, child.within_s)
            child.answer_by = Deadline(self._timers, child.within_s, overdue)

    def _answer_overdue(self, number: int, child: ChildLink, within_s: float) -> None:
        """A lost child that is asked again gets only the time in which a new one must be reached, or less.

        The kernel of a stopped daemon still accepts connections, so a reached child is not necessarily alive.
        """
        if self.children.get(number) is not child:
            return
        heard = child.link is not None and child.link.heard_s != child.heard_s
        if not child.sent or (self.spec.flags & jobspec.PROMPT and not heard):
            self._drop_child(number)
            text = f"gexecd does not answer within {within_s:g} s"
            self.tell(events.ChildLost(number, text, child.sent, silent=child.sent))

    def child_link_reached(self, number: int) -> None:
        """A child's machine has answered."""
        child = self.children.get(number)
        if child is not None and child.start.high - child.start.low > 1:
            self.tell(events.ChildReached(number))

    def child_link_opened(self, number: int) -> None:
        """The link to a child is open."""
        child = self.children.get(number)
        if child is not None:
            child.open()

    def child_link_closed(self, number: int, text: str, silent: bool) -> None:
        """The link to a child ended, because the child was ``silent`` or not; or it could not be made."""
        child = self.children.pop(number, None)
        self._openings.begun(number)
        if child is None:
            return
        child.close()
        cut = child.link is not None and child.link.cut
        if cut and not child.sent and number not in self._dialled_again:
            # Its gexecd may have been upgraded while the link was being made.
            self._dialled_again.add(number)
            self._dial_again(number, child.start, child.waiting)
        else:
            self.tell(events.ChildLost(number, text, child.sent, silent))

    def _dial_again(self, number: int, start: Start, waiting: list[Frame]) -> None:
        """Dial a child whose Start was not sent once more."""
        self._open_child(number, start, False, start.attach_only)
        for frame in waiting if number in self.children else ():
            self.children[number].send(frame, True)

    def _drop_child(self, number: int) -> None:
        child = self.children.pop(number, None)
        if child is not None:
            child.close()
            if child.link is not None:
                self._jobs.close_channel(child.link, child.channel)
            self._openings.begun(number)

    # -- end ------------------------------------------------------------------------------

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._process.end()
        # Timers and reference cycles may keep this object longer than the job: drop the job's bytes.
        self.blob = b""
        self.machine.release()
        self._queue.clear()
        self._openings.end()
        for number in list(self.children):
            self._drop_child(number)
        self._jobs.job_finished(self)
