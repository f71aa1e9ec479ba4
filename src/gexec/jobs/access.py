"""What ``gexec-job`` does on a node, with a user's background jobs there."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from gexec.errors import GexecError, ProtocolError
from gexec.jobs import control, spool
from gexec.jobs.reading import StreamReader
from gexec.jobs.segments import STREAMS, Gap
from gexec.jobs.spool import RankPlace
from gexec.jobs.states import RankState
from gexec.posix import descendants
from gexec.wire import outcome as outcomes
from gexec.wire.outcome import Outcome

#: Offsets behind any output: news of the end only.
_FAR: Final = 10**18 - 1
#: From the request to end all until this is given up: the longest grace and the time to find no child.
_KILLED_S: Final = 90.0
#: What goes to the command if its client forwards signals.
FORWARDED: Final = (
    signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
)  # fmt: skip


class JobError(GexecError):
    """It cannot be done with this rank; one sentence."""


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Do what follows with the rights of the owner of a directory, if this process is root's.

    Its real uid stays root's, so that the owner can neither trace nor signal it.
    """
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def states(directory: str, uids: Iterable[int], now_s: float) -> Iterator[RankState]:
    """Yield the ranks of these users here; remove those whose lease is over (``now_s``: UNIX time)."""
    for uid in uids:
        with acting_as(uid):
            try:
                user_fd = spool.open_user(directory, uid)
            except OSError:
                continue  # this user has never had any
            try:
                for place in spool.places(user_fd):
                    state = _state_or_remove(user_fd, place, now_s)
                    if state is not None:
                        yield state
            finally:
                os.close(user_fd)


def _state_or_remove(user_fd: int, place: RankPlace, now_s: float) -> RankState | None:
    try:
        if spool.size_of(place, now_s) < 0:
            spool.remove(user_fd, place)
            return None
        return state_of(place)
    except (OSError, ProtocolError):
        return None  # it is just being begun or removed


def state_of(place: RankPlace) -> RankState:
    """Return a rank's state. Raises OSError, ProtocolError: it has no record that can be read."""
    record = place.record()
    is_kept = spool.is_kept(record)  # before its end is read: a keeper writes that first
    segments = [place.segments(stream) for stream in (0, 1)]
    return RankState.of(
        record,
        place.end(),
        uid=place.uid,
        is_kept=is_kept,
        boot=spool.boot_id(),
        lengths=(
            max([segment.end for segment in segments[0]], default=0),
            max([segment.end for segment in segments[1]], default=0),
        ),
        kept_bytes=sum([segment.size for each in segments for segment in each]),
    )


@contextmanager
def rank_place(directory: str, uid: int, job: str, rank: int) -> Iterator[tuple[int, RankPlace]]:
    """Give a user's directory and a rank's; JobError: it is not here."""
    with acting_as(uid):
        user_fd = -1
        try:
            user_fd = spool.open_user(directory, uid)
            place = spool.open_place(user_fd, job, rank)
        except OSError as error:
            if user_fd >= 0:
                os.close(user_fd)
            raise JobError(f"rank {rank} of job {job[:12]} is not kept here ({error.strerror})") from error
        try:
            yield user_fd, place
        finally:
            place.close()
            os.close(user_fd)


def show(place: RankPlace, tail_bytes: int | None) -> None:
    """Write what is kept to stdout and stderr; ``tail_bytes``: the last ones of each, None = all."""
    readers = _readers(place, tail_bytes)
    _pass_on(readers)
    _tell_rest(place, readers)


def attach(place: RankPlace, tail_bytes: int | None, holds: bool) -> int:
    """Write what is kept, then what comes, until the command has ended; return its exit status.

    Args:
        tail_bytes: begin with the last ones of each stream; None = with all.
        holds: nothing may be discarded before it is written here, and signals are the command's.
    """
    readers = _readers(place, tail_bytes)
    try:
        with control.connect(place.fd) as sock:
            if holds:
                _forward(place)
            _follow(sock, readers, " hold" if holds else "")
    except (ConnectionError, FileNotFoundError):
        pass  # its keeper has ended
    _pass_on(readers)
    _tell_rest(place, readers)
    return end_as(place)


def _follow(sock: socket.socket, readers: list[StreamReader], hold: str) -> None:
    """Write what comes until the command has ended, or its keeper has."""
    while True:
        _pass_on(readers)
        answer = control.ask(sock, f"news {readers[0].position} {readers[1].position}{hold}", None)
        if not answer or answer[0] != "more":
            return


def await_end(place: RankPlace) -> int:
    """Wait until the command has ended; return the exit status, as the command."""
    try:
        with control.connect(place.fd) as sock:
            control.ask(sock, f"news {_FAR} {_FAR}", None)
    except OSError:
        pass  # it has ended
    return end_as(place)


def send_signal(place: RankPlace, signum: int) -> None:
    """Send a signal to the command's process group; JobError: it has ended, or may not be signalled."""
    try:
        with control.connect(place.fd) as sock:
            answer = control.ask(sock, f"signal {signum}")
    except OSError:
        answer = []
    if answer != ["ok"]:
        reason = " ".join(answer[1:])
        raise JobError(reason or f"the command does not run: {_described(place)}")


def kill(place: RankPlace, now: bool) -> str:
    """End all that the command has started; return what there is to say. JobError: it does not end."""
    try:
        sock = control.connect(place.fd)
    except OSError:
        return _kill_unkept(place)
    with sock:
        try:
            if control.ask(sock, "kill now" if now else "kill") == ["ok"]:
                sock.settimeout(_KILLED_S)
                while sock.recv(control.MESSAGE_MAX_BYTES):
                    pass
        except TimeoutError as error:
            raise JobError(f"not everything that it started has ended after {_KILLED_S:g} s") from error
        except OSError:
            pass  # its keeper has ended, after everything else
    return ""


def _kill_unkept(place: RankPlace) -> str:
    """End what runs of a rank without a keeper: processes that have its mark in their environment."""
    state = state_of(place)
    if state.outcome is None or state.outcome.kind != outcomes.LOST:
        return f"the command does not run: {_described(place)}"
    marks = {b"GEXEC_JOB=" + state.job.encode(), b"GEXEC_MY_VNN=%d" % state.rank}
    euid = os.geteuid()
    if os.getuid() == 0:
        os.seteuid(0)  # the owner of a directory may not read environments with root's group
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        found = sum([_killed(pid, marks) for pid in pids if descendants.uid_of(pid) == place.uid])
    finally:
        os.seteuid(euid)
    return f"its keeper has ended before; processes that were killed: {found}"


def _killed(pid: int, marks: set[bytes]) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not marks.issubset(descendants.environ_of(pid)):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(pidfd)


def forget(user_fd: int, place: RankPlace) -> None:
    """Remove a rank that has ended; JobError: it runs."""
    state = state_of(place)
    if state.runs or state.held:
        raise JobError("it runs: `gexecctl kill` ends it")
    try:
        spool.remove(user_fd, place)
    except OSError as error:
        raise JobError(f"it cannot be removed: {error.strerror}") from error


def end_as(place: RankPlace) -> int:
    """Return the exit status of a command that has ended; end this process by the signal that ended it."""
    outcome = _ended(place)
    if outcome.kind == outcomes.EXITED:
        return outcome.value
    if outcome.kind == outcomes.KILLED:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if outcome.value != signal.SIGKILL:
            signal.signal(outcome.value, signal.SIG_DFL)
        sys.stdout.flush()
        os.kill(os.getpid(), outcome.value)
    return outcome.exit_status  # the client asks for what a process cannot end as


def _ended(place: RankPlace) -> Outcome:
    """Return how a rank ended, whose keeper has said so or has gone."""
    for _ in range(100):
        state = state_of(place)
        if state.outcome is not None:
            return state.outcome
        time.sleep(0.02)  # a keeper that is being ended takes its time
    return outcomes.lost("its keeper does not answer")


def _described(place: RankPlace) -> str:
    state = state_of(place)
    return "its keeper does not answer" if state.outcome is None else state.outcome.describe()


def tell(text: str) -> None:
    """Write a sentence to stderr."""
    os.write(2, f"gexec-job: {text}\n".encode("utf-8", "backslashreplace"))


def _readers(place: RankPlace, tail_bytes: int | None) -> list[StreamReader]:
    readers = [StreamReader(place, stream) for stream in (0, 1)]
    if tail_bytes is not None:
        for reader in readers:
            reader.begin_at_tail(tail_bytes)
    return readers


def _pass_on(readers: list[StreamReader]) -> None:
    """Write everything that is there, a piece of each stream in turn."""
    waiting = [0, 1]
    while waiting:
        for stream in list(waiting):
            piece = readers[stream].next()
            if piece is None:
                waiting.remove(stream)
            elif isinstance(piece, Gap):
                _tell_gap(stream, piece.end - piece.offset)
            else:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(stream + 1, rest) :]


def _tell_gap(stream: int, count: int) -> None:
    tell(f"{count} bytes of {STREAMS[stream]} are missing here: they were not kept")


def _tell_rest(place: RankPlace, readers: list[StreamReader]) -> None:
    """Say what is missing at the end of the output."""
    end = place.end()
    if end is None:
        return
    for stream, reader in enumerate(readers):
        missing = end.lengths[stream] - reader.position
        if missing > 0:
            _tell_gap(stream, missing)
    if sum(end.dropped):
        tell(f"{sum(end.dropped)} bytes could not be written: {end.why}")
    if end.held:
        tell("the command has ended, but other processes hold its output and may write more")


def _forward(place: RankPlace) -> None:
    """Let signals go to the command from now on; SIGHUP still ends this process."""

    def passed(signum: int, frame: object) -> None:
        try:
            with control.connect(place.fd) as sock:
                control.ask(sock, f"signal {signum}")
        except OSError:
            pass  # it has just ended

    for signum in FORWARDED:
        signal.signal(signum, passed)
