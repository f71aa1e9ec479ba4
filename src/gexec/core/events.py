"""What a per-job machine is told (events, past tense) and what it asks for (effects, imperative).

The shell (daemon/job.py, or the simulator) turns what happens into events, hands them to
``handle(event, now_s)`` and carries out the effects in order. A parent or child is named by a
number: parents by the shell, children by the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from gexec.core.frames import Frame, Start
from gexec.core.outcome import Outcome

# -- events -----------------------------------------------------------------------------------


@dataclass(slots=True)
class ParentFrame:
    """A parent (or, at the root, the client) sent a frame on this job's channel."""

    parent: int
    frame: Frame


@dataclass(slots=True)
class ParentLost:
    """The connection to this parent (at the root: to the client) ended."""

    parent: int
    text: str


@dataclass(slots=True)
class ChildFrame:
    """A child sent a frame."""

    child: int
    frame: Frame


@dataclass(slots=True)
class ChildReached:
    """A child's machine has answered the dial: slow from here on is not dead."""

    child: int


@dataclass(slots=True)
class ChildLost:
    """A child could not be reached, or the connection to it ended.

    ``sent`` tells whether its Start may have arrived: if not, the command surely did not run there.
    """

    child: int
    text: str
    sent: bool


@dataclass(slots=True)
class TaskReady:
    """The spawner could start this node's process (strict jobs)."""


@dataclass(slots=True)
class TaskStarted:
    """This node's process runs."""


@dataclass(slots=True)
class TaskEnded:
    """This node's process ended, or could not be started."""

    outcome: Outcome


@dataclass(slots=True)
class OutputRead:
    """The process wrote ``data`` to ``stream``."""

    stream: int
    data: bytes


@dataclass(slots=True)
class OutputClosed:
    """The process, and whoever shares it, closed ``stream``."""

    stream: int


@dataclass(slots=True)
class StdinWritten:
    """The process's pipe took ``count`` more bytes."""

    count: int


@dataclass(slots=True)
class StdinBroken:
    """The process reads no more stdin."""


@dataclass(slots=True)
class Tick:
    """Nothing but time has passed."""


Event = (
    ParentFrame
    | ParentLost
    | ChildFrame
    | ChildReached
    | ChildLost
    | TaskReady
    | TaskStarted
    | TaskEnded
    | OutputRead
    | OutputClosed
    | StdinWritten
    | StdinBroken
    | Tick
)

# -- effects ----------------------------------------------------------------------------------


@dataclass(slots=True)
class ToParent:
    """Send a frame to this parent (at the root: the client)."""

    parent: int
    frame: Frame


@dataclass(slots=True)
class OpenChild:
    """Reach rank ``start.low``'s node and send it ``start``; ChildLost if that fails.

    For a child that is being reached already the frame replaces the one that waits; for one that
    is reached it is sent.
    """

    child: int
    start: Start


@dataclass(slots=True)
class ToChild:
    """Send a frame to this child, after its Start.

    Without ``hurry`` it may wait for the next frame to the same daemon (a wake-up less there).
    """

    child: int
    frame: Frame
    hurry: bool = True


@dataclass(slots=True)
class DropChild:
    """Tell no more of this child."""

    child: int


@dataclass(slots=True)
class CheckTask:
    """Ask the spawner whether this node's process could start: TaskReady or TaskEnded."""


@dataclass(slots=True)
class RunTask:
    """Start this node's process: TaskStarted or TaskEnded."""


@dataclass(slots=True)
class SignalTask:
    """Send a signal to the process group."""

    signum: int


@dataclass(slots=True)
class KillTask:
    """End the process and all its descendants; ``now`` = SIGKILL without grace."""

    now: bool


@dataclass(slots=True)
class ForgetTask:
    """Let the process live on without this job (detached)."""


@dataclass(slots=True)
class ReadOutput:
    """Go on (or stop) reading the process's ``stream``."""

    stream: int
    on: bool


@dataclass(slots=True)
class CloseOutput:
    """Read no more of either stream: who still holds them has had its time."""


@dataclass(slots=True)
class WriteStdin:
    """Write to the process's stdin: StdinWritten as the pipe takes it."""

    data: bytes


@dataclass(slots=True)
class CloseStdin:
    """Close the process's stdin after what was written."""


@dataclass(slots=True)
class Finish:
    """The machine has done its part: drop it."""


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
    | CloseOutput
    | WriteStdin
    | CloseStdin
    | Finish
)
