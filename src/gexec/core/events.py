"""What a per-job machine receives (events, past tense) and what it requests (effects, imperative).

The shell (relay/job.py) turns what happens into events, passes them to ``handle(event, now_s)`` and carries
out the effects in order. Parents and children have numbers: the shell numbers parents, the machine numbers
children.
"""

from __future__ import annotations

from gexec.wire.frames import Frame, Start
from gexec.wire.outcome import Outcome
from gexec.wire.record import Record

# -- events -----------------------------------------------------------------------------------


class ParentFrame(Record):
    """A parent (or, at the root, the client) sent a frame on this job's channel."""

    __slots__ = ("frame", "parent")

    def __init__(self, parent: int, frame: Frame) -> None:
        self.parent = parent
        self.frame = frame


class ParentLost(Record):
    """The connection to this parent (at the root: to the client) ended."""

    __slots__ = ("parent", "text")

    def __init__(self, parent: int, text: str) -> None:
        self.parent = parent
        self.text = text


class ChildFrame(Record):
    """A child sent a frame."""

    __slots__ = ("child", "frame")

    def __init__(self, child: int, frame: Frame) -> None:
        self.child = child
        self.frame = frame


class ChildReached(Record):
    """A child's machine has answered the dial: if the child is slow now, it is not dead."""

    __slots__ = ("child",)

    def __init__(self, child: int) -> None:
        self.child = child


class ChildQuiet(Record):
    """Nothing has come on a child's connection for NOT_RESPONDING_S, or (``quiet`` false) something again."""

    __slots__ = ("child", "quiet")

    def __init__(self, child: int, quiet: bool) -> None:
        self.child = child
        self.quiet = quiet


class ChildLost(Record):
    """A child could not be reached, or the connection to it ended.

    ``sent``: its Start may have arrived; if not, the command certainly did not run there. ``silent``: the
    connection was given up because nothing came on it for LOST_AFTER_S. ``here``: this daemon has ended it,
    because it was upgraded, which says nothing about the child.
    """

    __slots__ = ("child", "here", "sent", "silent", "text")

    def __init__(self, child: int, text: str, sent: bool, silent: bool = False, here: bool = False) -> None:
        self.child = child
        self.text = text
        self.sent = sent
        self.silent = silent
        self.here = here


class TaskReady(Record):
    """The spawner could start this node's process (strict jobs)."""

    __slots__ = ()


class TaskStarted(Record):
    """This node's process runs."""

    __slots__ = ()


class TaskEnded(Record):
    """This node's process ended, or could not be started.

    ``asked``: gexecd was ending it when it ended. ``unread``: bytes of stdout and stderr that are still in
    their pipes because there is no room for them; all unread bytes of the process itself are among them.
    """

    __slots__ = ("asked", "outcome", "unread")

    def __init__(self, outcome: Outcome, asked: bool = False, unread: tuple[int, int] = (0, 0)) -> None:
        self.outcome = outcome
        self.asked = asked
        self.unread = unread


class TaskLeft(Record):
    """The process ended by itself some time ago, and this many others still hold its output."""

    __slots__ = ("holders",)

    def __init__(self, holders: int) -> None:
        self.holders = holders


class OutputDrained(Record):
    """The answer to DrainOutput: everything in both streams was read, as far as there is room."""

    __slots__ = ()


class OutputRead(Record):
    """The process wrote ``data`` to ``stream``."""

    __slots__ = ("data", "stream")

    def __init__(self, stream: int, data: bytes) -> None:
        self.stream = stream
        self.data = data


class OutputClosed(Record):
    """The process, and all others that share it, closed ``stream``."""

    __slots__ = ("stream",)

    def __init__(self, stream: int) -> None:
        self.stream = stream


class StdinWritten(Record):
    """The process's pipe took ``count`` more bytes."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


class StdinBroken(Record):
    """The process reads no more stdin."""

    __slots__ = ()


class StdinMeasured(Record):
    """The answer to MeasureStdin: the process has not read the last ``unread`` bytes that its pipe took.

    After the StdinWritten of all these bytes. 0 if the pipe is closed on this side.
    """

    __slots__ = ("unread",)

    def __init__(self, unread: int) -> None:
        self.unread = unread


class Tick(Record):
    """Only time has passed."""

    __slots__ = ()


Event = (
    ParentFrame
    | ParentLost
    | ChildFrame
    | ChildReached
    | ChildQuiet
    | ChildLost
    | TaskReady
    | TaskStarted
    | TaskEnded
    | TaskLeft
    | OutputRead
    | OutputDrained
    | OutputClosed
    | StdinWritten
    | StdinBroken
    | StdinMeasured
    | Tick
)

# -- effects ----------------------------------------------------------------------------------


class ToParent(Record):
    """Send a frame to this parent (at the root: the client)."""

    __slots__ = ("frame", "parent")

    def __init__(self, parent: int, frame: Frame) -> None:
        self.parent = parent
        self.frame = frame


class OpenChild(Record):
    """Reach rank ``start.low``'s node and send it ``start``; ChildLost if that fails.

    If the child is already being dialled, the frame replaces the one that waits; if it is connected, the
    frame is sent. ``silent``: it is asked again because it was silent. ``urgent``: it may have this job, and
    gives it up after ORPHAN_GRACE_S.
    """

    __slots__ = ("child", "silent", "start", "urgent")

    def __init__(self, child: int, start: Start, silent: bool = False, urgent: bool = False) -> None:
        self.child = child
        self.start = start
        self.silent = silent
        self.urgent = urgent


class ToChild(Record):
    """Send a frame to this child, after its Start.

    Without ``hurry`` it may be delayed until the next frame to the same daemon, which saves a wake-up there.
    """

    __slots__ = ("child", "frame", "hurry")

    def __init__(self, child: int, frame: Frame, hurry: bool = True) -> None:
        self.child = child
        self.frame = frame
        self.hurry = hurry


class DropChild(Record):
    """Report no more events of this child."""

    __slots__ = ("child",)

    def __init__(self, child: int) -> None:
        self.child = child


class CheckTask(Record):
    """Ask the spawner whether this node's process could start: TaskReady or TaskEnded."""

    __slots__ = ()


class RunTask(Record):
    """Start this node's process: TaskStarted or TaskEnded."""

    __slots__ = ()


class SignalTask(Record):
    """Send a signal to the process group."""

    __slots__ = ("signum",)

    def __init__(self, signum: int) -> None:
        self.signum = signum


class KillTask(Record):
    """End the process and all its descendants; ``now`` = SIGKILL without grace."""

    __slots__ = ("now",)

    def __init__(self, now: bool) -> None:
        self.now = now


class ForgetTask(Record):
    """Release the process from this job (detached)."""

    __slots__ = ()


class ReadOutput(Record):
    """Continue (or stop) reading the process's ``stream``."""

    __slots__ = ("on", "stream")

    def __init__(self, stream: int, on: bool) -> None:
        self.stream = stream
        self.on = on


class DrainOutput(Record):
    """Read what is in both streams now, as far as there is room: OutputRead, OutputClosed, OutputDrained."""

    __slots__ = ()


class CloseOutput(Record):
    """Read no more of either stream: processes that still hold them had enough time."""

    __slots__ = ()


class WriteStdin(Record):
    """Write to the process's stdin: StdinWritten as the pipe takes it."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class CloseStdin(Record):
    """Close the process's stdin after what was written."""

    __slots__ = ()


class DropStdin(Record):
    """Close the process's stdin and drop what it has not taken."""

    __slots__ = ()


class MeasureStdin(Record):
    """Measure how much of its stdin the process has not read: StdinMeasured."""

    __slots__ = ()


class Finish(Record):
    """The machine is finished: drop it."""

    __slots__ = ()


Effect = (
    ToParent
    | OpenChild
    | ToChild
    | DropChild
    | CheckTask
    | RunTask
    | SignalTask
    | KillTask
    | ForgetTask
    | ReadOutput
    | DrainOutput
    | CloseOutput
    | WriteStdin
    | CloseStdin
    | DropStdin
    | MeasureStdin
    | Finish
)
