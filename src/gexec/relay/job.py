"""The shell around one per-job machine: turns its effects into I/O and what happens into events.

One :class:`Job` holds a ``core.node.Node`` or a ``core.root.Root``, its timer, the channels to its
parents and children and the pipes of its process. Everything is done in the order the machine
asked for; what happens while effects are carried out waits its turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from gexec.core import events
from gexec.core.deadlines import SteadyClock, wake_s
from gexec.core.node import Node
from gexec.core.root import Root
from gexec.errors import ProtocolError
from gexec.posix.channel import RelayChannel
from gexec.posix.deadline import Deadline
from gexec.relay.launches import Launches
from gexec.relay.link import Link
from gexec.relay.taskio import TaskIO
from gexec.wire import frames, jobspec, messages
from gexec.wire import outcome as outcomes
from gexec.wire.frames import Frame, Start
from gexec.wire.jobspec import JobSpec

#: What the spawner says of one task.
TaskEvent = (
    messages.ProcessStarted
    | messages.ProcessReady
    | messages.ProcessRefused
    | messages.ProcessEnded
    | messages.ProcessLeft
)


class Relay(Protocol):
    """What a job needs of the daemon around it."""

    spawner: RelayChannel
    clock: SteadyClock
    launches: Launches

    def dial(self, name: str, addresses: str, timeout_s: float) -> Link:
        """Return a link to a node, dialled if there is none. ValueError: something is not an address."""

    def open_channel(self, link: Link, job: RelayJob, child: int) -> int:
        """Return a new channel to a child on a link."""

    def close_channel(self, link: Link, channel: int) -> None:
        """Hear no more of a channel."""

    def open_task(self, job: RelayJob) -> int:
        """Return a number for a new task of this job at the spawner."""

    def close_task(self, task: int) -> None:
        """Hear no more of a task."""

    def spawner_asked(self) -> None:
        """Something was sent to the spawner."""

    def job_finished(self, job: RelayJob) -> None:
        """The machine has done its part."""

    def job_failed(self, job: RelayJob, error: Exception) -> None:
        """There is a defect, or something ran out: the job is given up, nothing else."""


class ChildLink:
    """A child's channel, and what waits for its link to open."""

    __slots__ = ("attach_by", "channel", "link", "sent", "start", "waiting")

    def __init__(self, link: Link, channel: int, start: Start) -> None:
        self.link = link
        self.channel = channel
        self.start: Start = start
        self.waiting: list[Frame] = []
        self.sent = False
        #: A lost child that is asked to attach gets so much time.
        self.attach_by: Deadline | None = None

    def close(self) -> None:
        """It is no child any more."""
        if self.attach_by is not None:
            self.attach_by.cancel()

    def send(self, frame: Frame, hurry: bool) -> None:
        """Send, or keep until the link is open."""
        if self.sent:
            self.link.send(self.channel, frame, hurry)
        else:
            self.waiting.append(frame)

    def open(self) -> None:
        """The link is open: send the Start and what came after it."""
        if self.sent:
            return
        self.sent = True
        self.link.send(self.channel, self.start)
        for frame in self.waiting:
            self.link.send(self.channel, frame)
        self.waiting.clear()


class RelayJob:
    """One machine at work.

    Args:
        key: how the relay finds it: (job id, low), or (job id, -1) for a root.
        credential, blob: as received, for the spawner.
        uid: whom the credential speaks for.
    """

    def __init__(
        self,
        relay: Relay,
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
        self.parents: dict[int, tuple[Link, int]] = {}
        self.children: dict[int, ChildLink] = {}
        self._relay = relay
        self.credential = credential
        self._blob = blob
        self._loop = asyncio.get_running_loop()
        self._queue: deque[events.Event] = deque()
        #: What the machine is told when all that the process's pipes hold was read; then they are read first.
        self._behind_output: deque[events.Event] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        #: When the machine has something to do, and when the timer comes, in the relay's steady time.
        self._due_s: float | None = None
        self._wake_s: float | None = None
        self._uid = uid
        self._task: int | None = None
        self._io: TaskIO | None = None
        self._checked = False
        #: The spawner was asked for a launch and has not answered.
        self._launching = False
        #: A launch waits for its turn, and this is what the machine asked of the process meanwhile.
        self._waiting: list[events.Effect] | None = None

    def is_same(self, start: Start) -> bool:
        """Tell whether a Start is for this node of this job, and within the job."""
        return (
            start.low == self.key[1]
            and start.high <= self.spec.ranks
            and start.credential == self.credential
            and start.blob == self._blob
        )

    # -- driving --------------------------------------------------------------------------

    def begin(self) -> None:
        """Let the machine begin."""
        self._busy = True
        try:
            self._carry_out(self.machine.begin(self._now_s()))
        except Exception as error:
            self._fail(error)
        self._run_queue()

    def tell(self, event: events.Event) -> None:
        """Hand the machine an event, now or after what it is at.

        A ProtocolError for what a parent or client said ends that connection, nothing else.
        """
        self._queue.append(event)
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
                except ProtocolError as error:
                    self._refuse(event, error)
                    continue
                self._carry_out(effects)
        except Exception as error:
            self._fail(error)
        finally:
            self._busy = False
        if not self.machine.finished:
            self._arm()

    def _next_event(self) -> events.Event | None:
        if not self._behind_output:
            return self._queue.popleft() if self._queue else None
        piece = self._io.next_piece() if self._io is not None else None
        if piece is not None:
            return piece
        event = self._behind_output.popleft()
        if self._io is not None and isinstance(event, events.TaskEnded):
            event.unread = self._io.unread()
            self._io.watch()  # whoever holds its output yet
        return event

    def _now_s(self) -> float:
        return self._relay.clock.now(self._loop.time(), self._wake_s)

    def _refuse(self, event: events.Event, error: ProtocolError) -> None:
        if isinstance(event, events.ParentFrame) and event.parent in self.parents:
            link, _ = self.parents[event.parent]
        elif isinstance(event, events.ChildFrame) and event.child in self.children:
            link = self.children[event.child].link
        else:
            raise error
        self._loop.call_soon(link.abort, f"it broke the protocol: {error}")

    def _fail(self, error: Exception) -> None:
        """Give up this job alone: end the process, tell the parents and the children."""
        self._relay.job_failed(self, error)
        self.machine.finished = True
        refused = frames.Refused(frames.REFUSED_UNKNOWN, "gexecd failed on this job: see its log")
        for link, channel in self.parents.values():
            link.send(channel, refused)
        for child in self.children.values():
            child.send(frames.Close(), True)
        if self._task is not None:
            self._relay.spawner.kill(self._task, False)
            self._relay.spawner_asked()
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
            behind_s = self._relay.clock.behind_s
            self._wake_s = wake_s(self._loop.time() - behind_s, due_s)
            self._timer = self._loop.call_at(self._wake_s + behind_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.tell(events.Tick())

    # -- effects --------------------------------------------------------------------------

    def _carry_out(self, effects: list[events.Effect]) -> None:
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
                self._open_child(effect.child, effect.start)
            elif isinstance(effect, events.DropChild):
                self._drop_child(effect.child)
            elif isinstance(effect, events.RunTask):
                self._in_turn(self._run_task)
            elif isinstance(effect, events.CheckTask):
                self._in_turn(self._check_task)
            elif isinstance(effect, events.Finish):
                self._finish()
            else:
                self._task_effect(effect)

    def _task_effect(self, effect: events.Effect) -> None:
        """What concerns the process: nothing if there is none any more."""
        if self._waiting is not None:
            self._waiting.append(effect)
            if isinstance(effect, events.KillTask):
                self._waiting = None
                unstarted = outcomes.not_started("the job was ended before this node's process started")
                self.tell(events.TaskEnded(unstarted))
            return
        io, task = self._io, self._task
        if isinstance(effect, events.SignalTask):
            if task is not None:
                self._relay.spawner.signal(task, effect.signum)
                self._relay.spawner_asked()
        elif isinstance(effect, events.KillTask):
            if task is not None:
                self._relay.spawner.kill(task, effect.now)
                self._relay.spawner_asked()
        elif isinstance(effect, events.ForgetTask):
            if task is not None:
                self._relay.spawner.forget(task)
                self._relay.spawner_asked()
        elif isinstance(effect, events.DrainOutput):
            self._behind_output.append(events.OutputDrained())
        elif io is None:
            return
        elif isinstance(effect, events.ReadOutput):
            io.read(effect.stream, effect.on)
        elif isinstance(effect, events.CloseOutput):
            io.close_output()
        elif isinstance(effect, events.WriteStdin):
            io.write(effect.data)
        elif isinstance(effect, events.CloseStdin):
            io.close_stdin()

    # -- children -------------------------------------------------------------------------

    def _open_child(self, number: int, start: Start) -> None:
        child = self.children.get(number)
        if child is not None:
            if child.sent:
                child.link.send(child.channel, start)
            else:
                child.start = start
            return
        name = self.spec.names[start.low].decode("utf-8", "surrogateescape")
        addresses = self.spec.addresses[start.low]
        unresolved = jobspec.why_unresolved(addresses)
        if unresolved:
            self.tell(events.ChildLost(number, unresolved, False))
            return
        try:
            link = self._relay.dial(name, addresses.decode("ascii", "replace"), self.spec.connect_timeout_s)
        except ValueError as error:
            self.tell(events.ChildLost(number, str(error), False))
            return
        channel = self._relay.open_channel(link, self, number)
        child = self.children[number] = ChildLink(link, channel, start)
        if link.reached:
            self.child_link_reached(number)
        if link.opened:
            child.open()
        elif start.attach_only:
            overdue = partial(self._attach_overdue, number, child)
            child.attach_by = Deadline(self._loop, self.spec.connect_timeout_s, overdue)

    def _attach_overdue(self, number: int, child: ChildLink) -> None:
        """A lost child that is asked to attach gets no more time than a new one gets to be reached.

        The kernel of a stopped daemon still accepts connections, so being reached says little here.
        """
        if self.children.get(number) is child and not child.sent:
            self._drop_child(number)
            self.tell(events.ChildLost(number, "no answer when it was asked again", False))

    def child_link_reached(self, number: int) -> None:
        """A child's machine has answered."""
        child = self.children.get(number)
        if child is not None and child.start.high - child.start.low > 1:
            self.tell(events.ChildReached(number))

    def child_link_opened(self, number: int) -> None:
        """The link to a child is there."""
        child = self.children.get(number)
        if child is not None:
            child.open()

    def child_link_closed(self, number: int, text: str) -> None:
        """The link to a child ended, or could not be made."""
        child = self.children.pop(number, None)
        if child is not None:
            child.close()
            self.tell(events.ChildLost(number, text, child.sent))

    def _drop_child(self, number: int) -> None:
        child = self.children.pop(number, None)
        if child is not None:
            child.close()
            self._relay.close_channel(child.link, child.channel)

    # -- the process ----------------------------------------------------------------------

    def _in_turn(self, launch: Callable[[], None]) -> None:
        """Ask the spawner for a launch, now or when this user has not too many under way."""
        asked: list[events.Effect] = []
        self._waiting = asked

        def begin() -> bool:
            if self._waiting is not asked or self.machine.finished:
                return False
            self._waiting = None
            self._launching = True
            try:
                launch()
                for effect in asked:
                    self._task_effect(effect)
            except Exception as error:
                # This may be another job's turn to go on, which has nothing to do with it.
                self._launching = False
                self._fail(error)
            return self._launching

        self._relay.launches.ask(self._uid, begin)

    def _answered(self) -> None:
        if self._launching:
            self._launching = False
            self._relay.launches.done(self._uid)

    def _check_task(self) -> None:
        self._task = self._relay.open_task(self)
        self._checked = True
        try:
            self._relay.spawner.check(self._task, self.key[1], self.credential, self._blob)
        except OSError as error:
            self._not_started(error)
        self._relay.spawner_asked()

    def _run_task(self) -> None:
        try:
            detached = bool(self.spec.flags & jobspec.DETACHED)
            io = TaskIO(self.tell, not (detached or self.spec.flags & jobspec.NO_STDIN), not detached)
        except OSError as error:
            self._not_started(error)
            return
        if self._task is None:
            self._task = self._relay.open_task(self)
        self._checked = False
        try:
            self._relay.spawner.run(self._task, self.key[1], self.credential, self._blob, io.child_fds)
            self._io = io
        except OSError as error:
            io.close()
            self._not_started(error)
        finally:
            io.close_child_ends()
        self._relay.spawner_asked()

    def _not_started(self, error: OSError) -> None:
        if self._task is not None:
            self._relay.close_task(self._task)
            self._relay.spawner.kill(self._task, True)  # a check that was passed
            self._task = None
        self._launching = False
        self.tell(events.TaskEnded(outcomes.no_room(error.strerror or "no memory")))

    def task_event(self, event: TaskEvent) -> None:
        """The spawner says something of the process."""
        self._answered()
        if isinstance(event, messages.ProcessStarted):
            if self._io is not None:
                self._io.started()
            self.tell(events.TaskStarted())
        elif isinstance(event, messages.ProcessReady):
            self.tell(events.TaskReady())
        elif isinstance(event, messages.ProcessEnded):
            self._task_ended(events.TaskEnded(event.outcome, event.ending))
        elif isinstance(event, messages.ProcessRefused):
            self._task_ended(events.TaskEnded(event.outcome))
        else:
            self.tell(events.TaskLeft(event.holders))

    def _task_ended(self, ended: events.TaskEnded) -> None:
        # What was left of the output and the end are one turn of the machine's.
        self._behind_output.append(ended)
        if not self._busy:
            self._busy = True
            self._run_queue()

    # -- end ------------------------------------------------------------------------------

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._relay.close_task(self._task)
            if self._checked:  # it will not start: the spawner need not keep it
                self._relay.spawner.kill(self._task, True)
                self._relay.spawner_asked()
        self._answered()
        if self._io is not None:
            self._io.close()
        # Timers, and the rings of references in this object, may outlive the job: its bytes do not.
        self._io = None
        self._blob = b""
        self.machine.release()
        self._queue.clear()
        for number in list(self.children):
            self._drop_child(number)
        self._relay.job_finished(self)
