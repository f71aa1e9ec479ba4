"""What a relay's jobs need from outside: ``relay.relay`` implements it for gexecd, the simulator for tests.

The modules that use these ports (``jobs``, ``job``, ``process``) open nothing and read no clock themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gexec.core import events
from gexec.core.saving import Saved
from gexec.posix.deadline import Timers
from gexec.relay.quotas import Quotas
from gexec.security.credential import Credential
from gexec.wire import messages
from gexec.wire.frames import Frame
from gexec.wire.jobspec import JobSpec

#: The spawner's messages about one process.
ProcessEvent = messages.ProcessEvent


class OrphanTask:
    """A process whose relay died.

    Attributes:
        task: its number.
        life, age_s: as for ``core.task.Task.begin``.
        outputs: the descriptors of the streams that it has not closed.
        events: what the spawner has reported about it since.
        adopted: call it when a job has it.
    """

    __slots__ = ("adopted", "age_s", "events", "life", "outputs", "task")

    def __init__(self, task: int, life: int, age_s: float, outputs: dict[int, int]) -> None:
        self.task = task
        self.life = life
        self.age_s = age_s
        self.outputs = outputs
        self.events: list[ProcessEvent] = []
        self.adopted: Callable[[], object] = lambda: None


class LinkPort(Protocol):
    """One end of a connection to a daemon or a client (``relay.link.Link``)."""

    heard_s: float
    give_up_s: float
    label: str
    source: str
    #: The peer has ended it.
    cut: bool

    def holds(self, name: str) -> bool:
        """Tell whether the peer's certificate holds a name or address; a client has no certificate."""

    @property
    def waiting(self) -> bool:
        """It is not dialled yet: others of its user are; ``Jobs.link_begun`` follows."""

    @property
    def reached(self) -> bool:
        """The peer's machine has answered."""

    @property
    def opened(self) -> bool:
        """The peer's Hello has arrived."""

    @property
    def leaving(self) -> bool:
        """The peer takes no new jobs."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the peer has not taken yet."""

    def send(self, channel: int, frame: Frame, hurry: bool = True) -> None:
        """Send a frame; without ``hurry`` it may be delayed for a short time until another one."""

    def answer(self, channel: int, frame: Frame) -> None:
        """Send an answer that the peer can request at any time. ProtocolError: it never reads answers."""

    def close(self, text: str) -> None:
        """Send what is pending, then end the link, for this reason."""

    def abort(self, text: str) -> None:
        """End the link at once, for this reason."""


class PipesPort(Protocol):
    """This side's ends of one process's stdin, stdout and stderr (``relay.taskio.TaskIO``)."""

    child_fds: tuple[int, int, int]

    def close_child_ends(self) -> None:
        """The process has its own copies of its ends: close them here."""

    def started(self) -> None:
        """The process runs."""

    def next_piece(self) -> events.Event | None:
        """Read once from a stream that may be read; None if there is nothing more now."""

    def unread(self) -> tuple[int, int]:
        """Return how many bytes of stdout and stderr are waiting that may not be read now."""

    def watch(self) -> None:
        """The process has ended: watch the processes that still hold its output."""

    def read(self, stream: int, on: bool) -> None:
        """Continue or stop reading a stream."""

    def write(self, data: bytes) -> None:
        """Write to stdin, now or when the process reads."""

    def close_stdin(self) -> None:
        """Close stdin after the bytes that wait to be written."""

    def unread_stdin(self) -> int:
        """Return how many bytes of stdin the process has not read; 0 if its pipe is closed on this side."""

    def drop_stdin(self) -> None:
        """Close stdin, and drop the bytes that wait to be written."""

    def close_output(self) -> None:
        """Read no more of either stream."""

    def close(self) -> None:
        """Close everything."""

    def when_lasting(self, tell: Callable[[tuple[int, int]], None]) -> None:
        """Call ``tell`` with stdout's and stderr's descriptors, when the process is to outlive its relay."""

    def save(self, fds: list[int]) -> Saved:
        """Return its state, for ``Surroundings.continue_pipes``; its descriptors are added to ``fds``."""


class ProcessPort(Protocol):
    """The spawner (``relay.spawning.Spawning``).

    OSError: there is no room for the request.
    """

    def open_task(self, told: Callable[[ProcessEvent], None]) -> int:
        """Return a number for a new task, whose events are passed to ``told``."""

    def hear_task(self, task: int, told: Callable[[ProcessEvent], None]) -> None:
        """Pass on the events of a task that another relay has opened."""

    def close_task(self, task: int) -> None:
        """Pass on no more events of a task."""

    def check(self, task: int, rank: int, credential: bytes, blob: bytes) -> None:
        """Request a check whether a rank can be started."""

    def run(self, task: int, rank: int, credential: bytes, blob: bytes, fds: tuple[int, int, int]) -> None:
        """Request the start of a rank with these descriptors."""

    def signal(self, task: int, signum: int) -> None:
        """Send a signal to its process group."""

    def kill(self, task: int, now: bool) -> None:
        """End it and all its descendants, or drop a task that was only checked."""

    def forget(self, task: int) -> None:
        """Release it: it runs on without this job."""

    def keep(self, task: int, fds: tuple[int, int]) -> None:
        """Keep its stdout and stderr for the next relay, if this one dies."""

    def release(self, task: int) -> None:
        """Keep them no longer."""


class EntryPort(Protocol):
    """Verifies credentials (``relay.admission.CredentialVerifier``)."""

    def check(self, raw: bytes, blob: bytes, runs_here: bool = True) -> tuple[Credential, JobSpec]:
        """Return their content. CredentialError, ProtocolError: the job must be refused.

        Args:
            runs_here: False if this daemon only passes the job on, as the root of its tree.
        """

    def shared(self, raw: bytes, blob: bytes) -> bytes:
        """Return the shared copy of a blob that was just checked."""

    def keep(self, raw: bytes) -> None:
        """Keep this credential, just checked, because a job with it begins here."""

    def known(self, raw: bytes, blob: bytes) -> tuple[Credential, JobSpec]:
        """Return the content of a credential that was accepted here before, and keep it for ``keep``."""

    def release(self, raw: bytes) -> None:
        """One of the jobs with this credential has ended."""


class Surroundings(Protocol):
    """The daemon, as its jobs use it."""

    @property
    def timers(self) -> Timers:
        """The clock of this machine."""

    @property
    def entry(self) -> EntryPort:
        """The verifier of credentials."""

    @property
    def quotas(self) -> Quotas:
        """What the users share here."""

    @property
    def processes(self) -> ProcessPort:
        """The spawner."""

    def dial(self, name: str, addresses: str, timeout_s: float, uid: int, urgent: bool) -> LinkPort:
        """Return a link to a node, dialled for this user if there is none; ``urgent``: it is nobody's turn.

        ValueError: something is not an address.
        """

    def open_pipes(
        self,
        tell: Callable[[events.Event], None],
        with_stdin: bool,
        with_output: bool,
        freed: Callable[[], None],
    ) -> PipesPort:
        """Return pipes for a process; their events go to ``tell``, and ``freed`` is called for each end.

        OSError: no descriptors are left.
        """

    def continue_pipes(
        self, tell: Callable[[events.Event], None], saved: Saved, freed: Callable[[], None]
    ) -> PipesPort:
        """Return the pipes that another relay has saved; nothing happens before this turn has ended."""

    def adopt_pipes(
        self, tell: Callable[[events.Event], None], outputs: dict[int, int], freed: Callable[[], None]
    ) -> PipesPort:
        """Return the pipes of a process whose relay died: the descriptors of its open streams."""

    def orphan(self, key: tuple[bytes, int], credential: bytes) -> OrphanTask | None:
        """Return the process of (job id, rank) that has run since the relay before this one, if there is one.

        Args:
            credential: the one with which it was started.
        """

    def holds(self, name: str) -> bool:
        """Tell whether this daemon's own certificate holds a name or address."""

    def start_refusal(self, link: LinkPort, host: str) -> str:
        """Return why a peer may not bring ranks of a job that ``host`` has signed, "" if it may."""

    def jobs_changed(self) -> None:
        """A job has arrived or ended."""

    def denied(self, link: LinkPort, code: int, reason: str, credential: Credential | None = None) -> None:
        """A peer's request was refused: report it for the audit log.

        Args:
            code: one of ``wire.denials``.
            reason: what the peer is told.
            credential: that of the request, if it is verified.
        """

    def job_failed(self, job: str, error: Exception) -> None:
        """There is a defect, or a resource is exhausted: only this job is given up."""
