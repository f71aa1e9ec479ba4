"""What jobs of a relay need of the world around them: ``relay.relay`` has gexecd's, the simulator its own.

The modules that are written against these ports (``jobs``, ``job``, ``process``) open nothing and read no
clock by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gexec.core import events
from gexec.posix.deadline import Timers
from gexec.security.credential import Credential
from gexec.wire import messages
from gexec.wire.frames import Frame
from gexec.wire.jobspec import JobSpec

#: What the spawner says of one process.
ProcessEvent = messages.ProcessEvent


class LinkPort(Protocol):
    """One end of a connection to a daemon or a client (``relay.link.Link``)."""

    heard_s: float
    give_up_s: float

    @property
    def reached(self) -> bool:
        """The peer's machine has answered."""

    @property
    def opened(self) -> bool:
        """The peer's Hello has come."""

    @property
    def leaving(self) -> bool:
        """The peer takes no new jobs."""

    def send(self, channel: int, frame: Frame, hurry: bool = True) -> None:
        """Send a frame; without ``hurry`` it may wait a little for another one."""

    def answer(self, channel: int, frame: Frame) -> None:
        """Send what the peer can ask for at any time. ProtocolError: it asks and never reads."""

    def close(self, text: str) -> None:
        """Send what is pending, then end the link, for this reason."""

    def abort(self, text: str) -> None:
        """End the link at once, for this reason."""


class PipesPort(Protocol):
    """This side's ends of one process's stdin, stdout and stderr (``relay.taskio.TaskIO``)."""

    child_fds: tuple[int, int, int]

    def close_child_ends(self) -> None:
        """The process has its ends: close them here."""

    def started(self) -> None:
        """The process runs."""

    def next_piece(self) -> events.Event | None:
        """Read once what may be read; None when there is nothing more now."""

    def unread(self) -> tuple[int, int]:
        """Return how many bytes of stdout and stderr wait that may not be read now."""

    def watch(self) -> None:
        """The process has ended: watch whoever holds its output yet."""

    def read(self, stream: int, on: bool) -> None:
        """Go on, or stop, reading a stream."""

    def write(self, data: bytes) -> None:
        """Write to stdin, now or as it takes it."""

    def close_stdin(self) -> None:
        """Close stdin after what waits to be written."""

    def close_output(self) -> None:
        """Read no more of either stream."""

    def close(self) -> None:
        """Give everything back."""


class ProcessPort(Protocol):
    """The spawner (``relay.spawning.Spawning``).

    OSError: there is no room for what it is asked.
    """

    def open_task(self, told: Callable[[ProcessEvent], None]) -> int:
        """Return a number for a new task, of which ``told`` hears."""

    def close_task(self, task: int) -> None:
        """Hear no more of a task."""

    def check(self, task: int, rank: int, credential: bytes, blob: bytes) -> None:
        """Ask whether a rank could be started."""

    def run(self, task: int, rank: int, credential: bytes, blob: bytes, fds: tuple[int, int, int]) -> None:
        """Ask for a rank to be started on these descriptors."""

    def signal(self, task: int, signum: int) -> None:
        """Send a signal to its process group."""

    def kill(self, task: int, now: bool) -> None:
        """End it and all under it; or give up what was checked."""

    def forget(self, task: int) -> None:
        """Leave it running without this job."""


class EntryPort(Protocol):
    """Who knows good credentials from bad ones (``relay.admission.CredentialVerifier``)."""

    def check(self, raw: bytes, blob: bytes) -> tuple[Credential, JobSpec]:
        """Return what they say. CredentialError, ProtocolError: the job is not to be served."""

    def shared(self, raw: bytes, blob: bytes) -> bytes:
        """Return the one copy of a blob that was just checked."""

    def keep(self, raw: bytes) -> None:
        """A job with this credential, just checked, lives here from now on."""

    def release(self, raw: bytes) -> None:
        """One of the jobs with this credential has ended."""


class Surroundings(Protocol):
    """A daemon, as its jobs see it."""

    @property
    def timers(self) -> Timers:
        """The clock of this machine."""

    @property
    def entry(self) -> EntryPort:
        """Who knows good credentials."""

    @property
    def processes(self) -> ProcessPort:
        """The spawner."""

    def dial(self, name: str, addresses: str, timeout_s: float) -> LinkPort:
        """Return a link to a node, dialled if there is none. ValueError: something is not an address."""

    def open_pipes(
        self, tell: Callable[[events.Event], None], with_stdin: bool, with_output: bool
    ) -> PipesPort:
        """Return pipes for a process, whose events ``tell`` takes. OSError: no descriptors are left."""

    def jobs_changed(self) -> None:
        """A job came, or one has ended."""

    def job_failed(self, job: str, error: Exception) -> None:
        """There is a defect, or something ran out: this job is given up, nothing else."""
