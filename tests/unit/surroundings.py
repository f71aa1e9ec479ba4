"""A daemon around the relay's jobs, of ports that write down what they are asked; its time is simulated."""

from __future__ import annotations

import errno
from collections.abc import Callable

from gexec import limits
from gexec.core import events
from gexec.core.saving import Saved
from gexec.errors import CredentialError
from gexec.relay.jobs import Jobs
from gexec.relay.ports import LinkPort, OrphanTask, ProcessEvent
from gexec.relay.quotas import Quotas
from gexec.security.credential import Credential
from gexec.settings.config import GexecdSettings
from gexec.wire import denials, jobspec
from gexec.wire.frames import Frame, Start, Submit
from gexec.wire.jobspec import JobSpec
from laboratory.world import SimTimers, World

JOB_ID = b"one job of many."
CREDENTIAL = b"a good credential"
UID = 1000
HEAD = "head"


def job(ranks: int = 1, flags: int = jobspec.NO_STDIN, **more: object) -> JobSpec:
    """Return a job; ``more``: other fields of it."""
    spec = JobSpec(
        names=[b"node%d" % rank for rank in range(ranks)],
        addresses=[b"10.0.0.1:2875"] * ranks,
        program=b"/bin/true",
        argv=[b"true"],
        env=[],
        flags=flags,
        fanout=2,
        window=limits.WINDOW_MIN_BYTES,
    )
    for name, value in more.items():
        setattr(spec, name, value)
    return spec


class Peer:
    """A LinkPort: what was sent on it as (channel, frame, hurry), and why it was ended, if it was.

    Its certificate holds ``names``.
    """

    def __init__(self, opened: bool, *names: str) -> None:
        self.names = names
        self.reached = self.opened = opened
        self.leaving = False
        self.waiting = self.cut = False
        self.unsent_bytes = 0
        self.heard_s = 0.0
        self.give_up_s = 0.0
        self.label, self.source = "node9 (10.0.0.9:2875)", "10.0.0.9"
        self.sent: list[tuple[int, Frame, bool]] = []
        self.ended = ""

    def holds(self, name: str) -> bool:
        return name in self.names

    def send(self, channel: int, frame: Frame, hurry: bool = True) -> None:
        self.sent.append((channel, frame, hurry))

    def answer(self, channel: int, frame: Frame) -> None:
        self.send(channel, frame)

    def close(self, text: str) -> None:
        self.ended = text

    def abort(self, text: str) -> None:
        self.ended = text

    @property
    def frames(self) -> list[Frame]:
        """What was sent of jobs."""
        return [frame for channel, frame, _ in self.sent if channel]


class Pipes:
    """A PipesPort: ``pieces`` is what the process has written and nobody has read."""

    def __init__(self) -> None:
        self.child_fds = (10, 11, 12)
        self.pieces: list[events.Event] = []
        self.unread_bytes = 0
        self.asked: list[str] = []

    def close_child_ends(self) -> None:
        self.asked.append("close child ends")

    def started(self) -> None:
        self.asked.append("started")

    def next_piece(self) -> events.Event | None:
        return self.pieces.pop(0) if self.pieces else None

    def unread(self) -> tuple[int, int]:
        return 0, 0

    def watch(self) -> None:
        self.asked.append("watch")

    def read(self, stream: int, on: bool) -> None:
        self.asked.append(f"read {stream} {on}")

    def write(self, data: bytes) -> None:
        self.asked.append(f"write {data!r}")

    def close_stdin(self) -> None:
        self.asked.append("close stdin")

    def unread_stdin(self) -> int:
        return self.unread_bytes

    def drop_stdin(self) -> None:
        self.asked.append("drop stdin")

    def close_output(self) -> None:
        self.asked.append("close output")

    def close(self) -> None:
        self.asked.append("close")

    def when_lasting(self, tell: Callable[[tuple[int, int]], None]) -> None:
        self.lasts = tell

    def save(self, fds: list[int]) -> Saved:
        fds += self.child_fds
        return {"pipes": len(fds)}


class Spawner:
    """A ProcessPort: what it was asked, as (what, task, ...)."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.told: dict[int, Callable[[ProcessEvent], None]] = {}
        self.full = False
        self.defect: Exception | None = None

    def open_task(self, told: Callable[[ProcessEvent], None]) -> int:
        task = len(self.told) + 1
        self.told[task] = told
        return task

    def hear_task(self, task: int, told: Callable[[ProcessEvent], None]) -> None:
        self.told[task] = told

    def close_task(self, task: int) -> None:
        self.asked.append(("close", task))

    def check(self, task: int, rank: int, credential: bytes, blob: bytes) -> None:
        self._ask("check", task, rank)

    def run(self, task: int, rank: int, credential: bytes, blob: bytes, fds: tuple[int, int, int]) -> None:
        self._ask("run", task, rank, fds)

    def signal(self, task: int, signum: int) -> None:
        self._ask("signal", task, signum)

    def kill(self, task: int, now: bool) -> None:
        self.asked.append(("kill", task, now))

    def forget(self, task: int) -> None:
        self._ask("forget", task)

    def keep(self, task: int, fds: tuple[int, int]) -> None:
        self._ask("keep", task, fds)

    def release(self, task: int) -> None:
        self._ask("release", task)

    def _ask(self, *what: object) -> None:
        if self.defect is not None:
            raise self.defect
        if self.full:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        self.asked.append(what)


class Keys:
    """An EntryPort: CREDENTIAL, and ``also``, are good for the job that is there, signed at ``host``."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.lives = 0
        self.also = CREDENTIAL
        self.host = HEAD

    def check(self, raw: bytes, blob: bytes, runs_here: bool = True) -> tuple[Credential, JobSpec]:
        if raw not in (CREDENTIAL, self.also):
            raise CredentialError("key", "no key of this cluster has signed it")
        return (
            Credential(
                realm="",
                audience="gexec",
                host=self.host,
                uid=UID,
                gid=UID,
                user="",
                issued_s=0.0,
                ttl_s=60,
                job_id=JOB_ID,
                digest=b"",
                key_id=b"",
            ),
            self.spec,
        )

    def shared(self, raw: bytes, blob: bytes) -> bytes:
        return blob

    def known(self, raw: bytes, blob: bytes) -> tuple[Credential, JobSpec]:
        return self.check(raw, blob)

    def keep(self, raw: bytes) -> None:
        self.lives += 1

    def release(self, raw: bytes) -> None:
        self.lives -= 1


class Daemon:
    """A Surroundings with one job of this shape, and its Jobs; ``time_s`` says how late it is."""

    def __init__(self, spec: JobSpec, settings: GexecdSettings | None = None) -> None:
        self.life = 0
        self.frozen_until_s = 0.0
        self.world = World(0)
        self.timers = SimTimers(self.world, self)
        self.quotas = Quotas(settings or GexecdSettings())
        self.entry = Keys(spec)
        self.processes = Spawner()
        self.pipes: list[Pipes] = []
        self.no_descriptors = False
        self.dialled: list[Peer] = []
        #: Links that are dialled are open at once.
        self.near = False
        #: Links wait for their turn to be dialled.
        self.waits = False
        self.failed: list[str] = []
        self.names = [HEAD]
        self.orphans: dict[tuple[bytes, int], OrphanTask] = {}
        #: Why no peer may bring ranks, "" = they may.
        self.standing = ""
        self.denials: list[tuple[str, str]] = []
        self.blob = spec.encode()
        self.jobs = Jobs(self, settings or GexecdSettings())
        self.jobs.begin()

    def dial(self, name: str, addresses: str, timeout_s: float, uid: int, urgent: bool) -> Peer:
        if addresses == "nonsense":
            raise ValueError("nonsense is no address")
        self.dialled.append(Peer(self.near))
        self.dialled[-1].waiting = self.waits
        return self.dialled[-1]

    def open_pipes(
        self,
        tell: Callable[[events.Event], None],
        with_stdin: bool,
        with_output: bool,
        freed: Callable[[], None],
    ) -> Pipes:
        if self.no_descriptors:
            raise OSError(errno.EMFILE, "Too many open files")
        self.pipes.append(Pipes())
        return self.pipes[-1]

    def adopt_pipes(
        self, tell: Callable[[events.Event], None], outputs: dict[int, int], freed: Callable[[], None]
    ) -> Pipes:
        self.pipes.append(Pipes())
        return self.pipes[-1]

    def orphan(self, key: tuple[bytes, int], credential: bytes) -> OrphanTask | None:
        return self.orphans.get(key)

    def holds(self, name: str) -> bool:
        return name in self.names

    def continue_pipes(
        self, tell: Callable[[events.Event], None], saved: Saved, freed: Callable[[], None]
    ) -> Pipes:
        self.pipes.append(Pipes())
        return self.pipes[-1]

    def start_refusal(self, link: object, host: str) -> str:
        return self.standing

    def jobs_changed(self) -> None:
        pass

    def denied(self, link: LinkPort, code: int, reason: str, credential: Credential | None = None) -> None:
        self.denials.append((denials.CODES[code], reason))

    def job_failed(self, job: str, error: Exception) -> None:
        self.failed.append(f"{job}: {error}")

    # -- what happens to it ---------------------------------------------------------------

    def submit(self) -> Peer:
        """A client submits the job."""
        client = Peer(True)
        self.jobs.link_accepted(client, UID)
        self.jobs.link_frame(client, 1, Submit(CREDENTIAL, self.blob))
        return client

    def start(self, low: int = 0, high: int = 1, epoch: int = 1, name: str = HEAD) -> Peer:
        """A parent wants ranks of the job."""
        parent = self.parent(name)
        self.jobs.link_frame(parent, 1, Start(epoch, low, high, CREDENTIAL, self.blob, False))
        return parent

    def parent(self, name: str = HEAD) -> Peer:
        """A daemon has connected."""
        parent = Peer(True, name)
        self.jobs.link_accepted(parent, None)
        return parent

    def open(self, peer: Peer) -> None:
        """A dialled peer's Hello has come."""
        peer.opened = True
        self.jobs.link_opened(peer)

    def lose(self, peer: Peer) -> None:
        """A link has ended."""
        self.jobs.link_closed(peer, "the connection was reset")

    def run_until(self, at_s: float) -> None:
        """Let time pass."""
        self.world.news = False
        self.world.at(at_s, None, setattr, self.world, "news", True)
        self.world.run(at_s)

    @property
    def lives(self) -> set[int]:
        """The ranks of jobs that live here."""
        return {low for _, low in self.jobs.by_key}
