"""The process of one job at this node: its launch by the spawner, its pipes, its events.

Part of the shell around a job's machine (``relay.job``), which passes on the effects that concern the process
and gets its events.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from gexec.core import events
from gexec.core.saving import Saved
from gexec.relay.ports import OrphanTask, PipesPort, ProcessEvent
from gexec.wire import jobspec, messages
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.record import field_names

if TYPE_CHECKING:
    from gexec.relay.job import RelayJob
    from gexec.relay.jobs import Jobs


class JobProcess:
    """One process, from the request for it to its end.

    Attributes:
        behind: events that must follow the output in the pipes; while there are any, the pipes are read
            first.
    """

    def __init__(self, job: RelayJob, jobs: Jobs) -> None:
        self.behind: deque[events.Event] = deque()
        self._job = job
        self._around = jobs.around
        self._launches = jobs.launches
        self._task: int | None = None
        self._pipes: PipesPort | None = None
        #: Descriptors that it has of its user's share.
        self._charged = 0
        self._checked = False
        self._over = False
        #: The spawner keeps its output.
        self._kept = False
        #: The spawner has a launch that it has not answered.
        self._launching = False
        #: Its launch and the effects after it, while the launch waits for its turn; None if none waits.
        self._waiting: list[events.Effect] | None = None
        #: The same, from the relay before this one.
        self._postponed: list[events.Effect] | None = None

    # -- for the next relay -----------------------------------------------------------------

    def save(self, fds: list[int]) -> Saved:
        """Return its state; its descriptors are added to ``fds``."""
        return {
            "task": self._task,
            "checked": self._checked,
            "launching": self._launching,
            "pipes": None if self._pipes is None else self._pipes.save(fds),
            "charged": self._charged,
            "kept": self._kept,
            "waiting": None if self._waiting is None else [_written(effect) for effect in self._waiting],
        }

    def restore(self, saved: Saved) -> None:
        """Continue with a state that ``save`` returned; ``go_on`` follows."""
        uid = self._job.uid
        self._task, self._checked = saved["task"], saved["checked"]
        if self._task is not None:
            self._around.processes.hear_task(self._task, self.told)
        self._launching = saved["launching"]
        if self._launching:
            self._launches.resume(uid)
        self._kept = saved["kept"]
        if saved["pipes"] is not None:
            self._pipes = self._around.continue_pipes(self._job.tell, saved["pipes"], self._freed)
            if not self._kept:
                self._pipes.when_lasting(self._keep)
        self._charged = saved["charged"]
        self._around.quotas.pipes.charge(uid, self._charged)
        self._postponed = None if saved["waiting"] is None else [_read(each) for each in saved["waiting"]]

    def go_on(self) -> None:
        """Request the launch that waited for its turn, with what was to follow it."""
        for effect in self._postponed or ():
            self.carry_out(effect)
        self._postponed = None

    def adopt(self, orphan: OrphanTask) -> None:
        """Continue with a process whose relay died; ``adopted`` follows."""
        orphan.adopted()
        self._task, self._kept = orphan.task, True
        self._around.processes.hear_task(orphan.task, self.told)
        self._charged = len(orphan.outputs)
        self._around.quotas.pipes.charge(self._job.uid, self._charged)
        self._pipes = self._around.adopt_pipes(self._job.tell, orphan.outputs, self._freed)

    def adopted(self, orphan: OrphanTask) -> None:
        """The machine knows it: report what has happened to it since."""
        for stream in (STDOUT, STDERR):
            if stream not in orphan.outputs:
                self._job.tell(events.OutputClosed(stream))
        for event in orphan.events:
            self.told(event)

    def next_event(self) -> events.Event | None:
        """Return the next event of a process whose pipes are being emptied."""
        pipes = self._pipes
        piece = pipes.next_piece() if pipes is not None else None
        if piece is not None:
            return piece
        event = self.behind.popleft()
        if pipes is not None and isinstance(event, events.TaskEnded):
            event.unread = pipes.unread()
            pipes.watch()  # for processes that still hold its output
        return event

    # -- effects ----------------------------------------------------------------------------

    def carry_out(self, effect: events.Effect) -> None:
        """Carry out an effect on the process; nothing if it no longer exists."""
        if isinstance(effect, events.RunTask):
            self._in_turn(effect, self._run)
        elif isinstance(effect, events.CheckTask):
            self._in_turn(effect, self._check)
        elif self._waiting is not None:
            if isinstance(effect, events.MeasureStdin):
                self._job.tell(events.StdinMeasured(0))
                return
            self._waiting.append(effect)
            if isinstance(effect, events.KillTask):
                self._waiting = None
                unstarted = outcomes.not_started("the job was ended before this node's process started")
                self._job.tell(events.TaskEnded(unstarted))
        elif isinstance(effect, events.DrainOutput):
            self.behind.append(events.OutputDrained())
        elif isinstance(effect, events.SignalTask | events.KillTask | events.ForgetTask):
            self._to_spawner(effect)
        elif self._pipes is not None:
            self._to_pipes(self._pipes, effect)

    def _keep(self, fds: tuple[int, int]) -> None:
        """The process lasts: it shall outlive this relay, if the spawner has room for that."""
        if self._task is not None and not self._over:
            try:
                self._around.processes.keep(self._task, fds)
                self._kept = True
            except OSError:
                pass  # it does not outlive this relay

    def _release(self) -> None:
        """Nobody reads its output any more."""
        if self._kept and self._task is not None:
            self._kept = False
            self._around.processes.release(self._task)

    def _to_spawner(self, effect: events.SignalTask | events.KillTask | events.ForgetTask) -> None:
        if self._task is None:
            return
        if isinstance(effect, events.SignalTask):
            self._around.processes.signal(self._task, effect.signum)
        elif isinstance(effect, events.KillTask):
            self._around.processes.kill(self._task, effect.now)
        else:
            self._around.processes.forget(self._task)

    def _to_pipes(self, pipes: PipesPort, effect: events.Effect) -> None:
        if isinstance(effect, events.ReadOutput):
            pipes.read(effect.stream, effect.on)
        elif isinstance(effect, events.CloseOutput):
            pipes.close_output()
            self._release()
        elif isinstance(effect, events.WriteStdin):
            pipes.write(effect.data)
        elif isinstance(effect, events.CloseStdin):
            pipes.close_stdin()
        elif isinstance(effect, events.MeasureStdin):
            self._job.tell(events.StdinMeasured(pipes.unread_stdin()))
        elif isinstance(effect, events.DropStdin):
            pipes.drop_stdin()

    def _in_turn(self, first: events.Effect, launch: Callable[[], None]) -> None:
        """Request a launch from the spawner, now or when this user has fewer launches under way."""
        asked = [first]
        self._waiting = asked

        def begin() -> bool:
            if self._waiting is not asked or self._over:
                return False
            self._waiting = None
            self._launching = True
            try:
                launch()
                for effect in asked[1:]:
                    self.carry_out(effect)
            except Exception as error:
                # This may run during another job's turn, which must not fail because of it.
                self._launching = False
                self._job.fail(error)
            return self._launching

        self._launches.ask(self._job.uid, begin)

    def _check(self) -> None:
        job = self._job
        self._task = self._around.processes.open_task(self.told)
        self._checked = True
        try:
            self._around.processes.check(self._task, job.key[1], job.credential, job.blob)
        except OSError as error:
            self._not_started(error)

    def _run(self) -> None:
        job, flags, processes = self._job, self._job.spec.flags, self._around.processes
        try:
            detached = bool(flags & jobspec.DETACHED)
            with_stdin = not (detached or flags & jobspec.NO_STDIN)
            self._charge(with_stdin + (0 if detached else 2))
            pipes = self._around.open_pipes(self._job.tell, with_stdin, not detached, self._freed)
        except OSError as error:
            self._not_started(error)
            return
        if self._task is None:
            self._task = processes.open_task(self.told)
        self._checked = False
        self._pipes = pipes  # whatever fails from here on, ``end`` closes them
        try:
            processes.run(self._task, job.key[1], job.credential, job.blob, pipes.child_fds)
            if not detached:
                pipes.when_lasting(self._keep)
        except OSError as error:
            self._pipes = None
            pipes.close()
            self._not_started(error)
        finally:
            pipes.close_child_ends()

    def _charge(self, count: int) -> None:
        """Take descriptors of this user's share; OSError: that has no more of them."""
        shares, uid = self._around.quotas.pipes, self._job.uid
        if not shares.take(uid, count):
            raise OSError(errno.EMFILE, shares.refusal(uid, "descriptors of pipes", "LimitNOFILE"))
        self._charged = count

    def _freed(self) -> None:
        """One of its pipes is closed."""
        if self._charged:
            self._charged -= 1
            self._around.quotas.pipes.give(self._job.uid)

    def _free_all(self) -> None:
        self._around.quotas.pipes.give(self._job.uid, self._charged)
        self._charged = 0

    def _not_started(self, error: OSError) -> None:
        self._free_all()
        if self._task is not None:
            self._around.processes.close_task(self._task)
            self._around.processes.kill(self._task, True)  # drops a check that was passed
            self._task = None
        self._launching = False
        self._job.tell(events.TaskEnded(outcomes.no_room(error.strerror or "no memory")))

    # -- messages from the spawner -----------------------------------------------------------

    def told(self, event: ProcessEvent) -> None:
        """Handle a message from the spawner about the process."""
        self._answered()
        if isinstance(event, messages.ProcessStarted):
            if self._pipes is not None:
                self._pipes.started()
            self._job.tell(events.TaskStarted())
        elif isinstance(event, messages.ProcessReady):
            self._job.tell(events.TaskReady())
        elif isinstance(event, messages.ProcessLeft):
            self._job.tell(events.TaskLeft(event.holders))
        else:
            self._kept = False  # the spawner keeps nothing of a process that has ended
            asked = isinstance(event, messages.ProcessEnded) and event.ending
            # The rest of the output and the end are handled in one turn of the machine.
            self.behind.append(events.TaskEnded(event.outcome, asked))
            self._job.wake()

    def _answered(self) -> None:
        if self._launching:
            self._launching = False
            self._launches.done(self._job.uid)

    # -- the end --------------------------------------------------------------------------

    def give_up(self) -> None:
        """The job failed: end the process."""
        if self._task is not None:
            self._around.processes.kill(self._task, False)

    def end(self) -> None:
        """The job is done here: handle no more events, close everything."""
        self._over = True
        if self._task is not None:
            self._around.processes.close_task(self._task)
            if self._checked:  # it will not start: let the spawner drop it
                self._around.processes.kill(self._task, True)
        self._answered()
        if self._pipes is not None:
            self._pipes.close()
            self._release()
        self._pipes = None
        self._free_all()


#: The effects that can wait for a launch, by their names.
_EFFECTS: Final[dict[str, Any]] = {
    kind.__name__: kind
    for kind in (
        events.RunTask,
        events.CheckTask,
        events.SignalTask,
        events.KillTask,
        events.ReadOutput,
        events.CloseOutput,
        events.WriteStdin,
        events.CloseStdin,
        events.DropStdin,
    )
}


def _written(effect: events.Effect) -> tuple[str, dict[str, Any]]:
    """Return an effect as plain values."""
    names = field_names(type(effect))
    return type(effect).__name__, {name: getattr(effect, name) for name in names}


def _read(saved: tuple[str, dict[str, Any]]) -> events.Effect:
    """Return the effect that ``_written`` returned. KeyError: there is none of this name."""
    made: events.Effect = _EFFECTS[saved[0]](**saved[1])
    return made
