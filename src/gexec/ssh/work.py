"""The job itself: an ssh for each rank, some at a time; their output, stdin, signals and ends.

Part of the engine, which passes on the client's frames (gexec.ssh.engine).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from gexec import limits
from gexec.errors import GexecError, ProtocolError
from gexec.posix import clock
from gexec.posix.loop import PollLoop
from gexec.ssh import script
from gexec.ssh.commands import Commands
from gexec.ssh.link import BACKLOG_MAX_BYTES, ClientLink
from gexec.ssh.messenger import Messengers
from gexec.ssh.process import SshProcess
from gexec.ssh.stalls import Stalls
from gexec.ssh.stdin import KeptStdin, SpoolError
from gexec.ssh.verdict import SILENT
from gexec.wire.frames import OFFSET_ALL, Done, Ended, Output, RanksStarted, Stdin, StdinTaken
from gexec.wire.jobspec import NO_STDIN, JobSpec
from gexec.wire.outcome import Outcome, not_started

#: From KILL to the node until ssh is ended here.
CONFIRM_S = 4.0
#: Signals that also end ranks that wait for their turn.
_DEADLY = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Work:
    """One job from its first ssh to Done.

    Args:
        job: over ssh, so neither detached nor strict.
        commands: of that job.
        mark: of that job (gexec.ssh.script).
        env: of every ssh.
        ask: ssh may ask on the terminal, however long that takes.

    Raises:
        GexecError: stdin cannot be kept.
    """

    def __init__(
        self,
        *,
        job: JobSpec,
        commands: Commands,
        mark: bytes,
        env: dict[bytes, bytes],
        ask: bool,
        loop: PollLoop,
        client: ClientLink,
    ) -> None:
        self._job = job
        self._commands = commands
        self._mark = mark
        self._env = env
        self._ask = ask
        self._loop = loop
        self._client = client
        self._messengers = Messengers(loop, env, commands.signal)
        self._stdin = None if job.flags & NO_STDIN else KeptStdin(spooled=job.ranks > job.fanout)
        self._stdin_told = 0
        #: The next rank to start, and why no more are started, or "".
        self._next = 0
        self._no_more = ""
        #: How many ssh this machine had resources for when they were exhausted.
        self._room = limits.FANOUT_MAX
        self._processes: dict[int, SshProcess] = {}
        self._of_pid: dict[int, SshProcess] = {}
        #: Streams that wait until the client has taken what is queued for it.
        self._held_up: list[tuple[SshProcess, int]] = []
        self._finished = False
        self._stalls = Stalls(job.stall_s, self._stdin, self._processes, loop, self._stands_still)

    @property
    def busy(self) -> bool:
        """True while an ssh runs."""
        return bool(self._processes or self._messengers)

    def abandon(self) -> None:
        """End all ssh, in any case."""
        for process in self._processes.values():
            process.send_signal(signal.SIGKILL)
        self._messengers.kill_all()

    def advance(self) -> None:
        """After each turn of the loop: start, report and continue reading, as far as possible."""
        if not self._finished:
            self._fill()
            self._tell_stdin()
            if self._next >= self._job.ranks and not self._processes:
                self._finished = True
                self._client.say(Done())
        self._client.flush()
        if self._held_up and self._client.backlog_bytes < BACKLOG_MAX_BYTES // 2:
            held_up, self._held_up = self._held_up, []
            for process, stream in held_up:
                self._read(process, stream)

    def reaped(self, pid: int, status: int) -> None:
        """A child has ended; ``status`` is its exit status, or 128 + signal."""
        process = self._of_pid.pop(pid, None)
        if process is None:
            self._messengers.reaped(pid)
            return
        process.status = status
        self._close_stdin(process)
        for stream in list(process.outputs):
            self._read(process, stream)
        self._finish(process)

    # -- frames of the client --------------------------------------------------------------------

    def stdin(self, frame: Stdin) -> None:
        """Add stdin for every command. ProtocolError: the frame is invalid."""
        if self._stdin is None:
            raise ProtocolError("stdin for a job without stdin")
        try:
            self._stdin.append(frame.offset, frame.data, frame.eof)
        except SpoolError as error:
            self.end_all(str(error), now=False)
        for process in list(self._processes.values()):
            self._feed(process)

    def acknowledged(self, rank: int, stream: int, offset: int) -> None:
        """The client has acknowledged a rank's output up to the offset."""
        process = self._processes.get(rank)
        if process is None:
            return
        if offset > process.sent[stream]:
            raise ProtocolError(f"rank {rank} has not written {offset} bytes to stream {stream}")
        if offset > process.acknowledged[stream]:
            process.acknowledged[stream] = offset
            if stream in process.outputs and not self._loop.watches(process.outputs[stream]):
                self._read(process, stream)

    def signal(self, signum: int) -> None:
        """Send a signal to running commands; a deadly one also ends ranks that wait for their turn."""
        name = script.SIGNALS.get(signum)
        if name is None:
            return
        if signum in _DEADLY:
            self._no_more = self._no_more or f"SIG{name} arrived before its turn"
        for process in list(self._processes.values()):
            if process.running:
                self._stalls.signalled(process.rank, signum)
                self._order(process, [name])
            elif signum in _DEADLY and not process.went:
                self._give_up(process, f"SIG{name} arrived before it began")

    def end_all(self, why: str, now: bool) -> None:
        """End running commands, and start no more; ``why`` is the reason for ranks that were not started."""
        self._no_more = self._no_more or why
        for process in list(self._processes.values()):
            self._end(process, now)

    def client_gone(self) -> None:
        """The client has disconnected: end everything."""
        self.end_all("its client is gone", now=False)
        for process in list(self._processes.values()):
            for stream in list(process.outputs):
                self._read(process, stream)  # unread output must not keep ssh from ending

    # -- starting --------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Start as many as may run at a time."""
        job = self._job
        while self._next < job.ranks and (
            self._no_more or len(self._processes) < min(job.fanout, self._room)
        ):
            rank = self._next
            if self._no_more:
                self._next += 1
                self._report(rank, not_started(self._no_more))
                continue
            try:
                process = SshProcess(rank, self._commands.of(rank), self._env, self._mark)
            except GexecError as error:
                self._next += 1
                self._report(rank, not_started(str(error)))
            except OSError as error:
                if self._processes and (self._stdin is None or self._stdin.spooled):
                    self._room = len(self._processes)  # as many as this machine has resources for
                    return
                self._next += 1
                text = f"ssh cannot be started here: {error.strerror}"
                self._report(rank, not_started(text, error.errno or 0))
            else:
                self._next += 1
                self._begin(process)

    def _begin(self, process: SshProcess) -> None:
        self._processes[process.rank] = self._of_pid[process.pid] = process
        for stream in process.outputs:
            self._watch(process, stream)
        if not self._ask:
            # ssh's own timeout ends with its handshake; after that a node may still hang.
            within_s = self._job.connect_timeout_s + limits.HANDSHAKE_TIMEOUT_S
            self._later(within_s, lambda: self._too_slow(process, within_s))

    def _too_slow(self, process: SshProcess, within_s: float) -> None:
        if not process.went:
            self._give_up(process, f"{SILENT} {within_s:g} s")

    def _went(self, process: SshProcess) -> None:
        """The script on the node has started: let it run the command."""
        if process.went or process.ended_for or process.transcript.pid is None:
            return
        process.went = True
        process.order(script.GO)
        self._client.say(RanksStarted(((process.rank, process.rank + 1),)))
        if self._job.timeout_s:
            self._later(self._job.timeout_s, lambda: self._out_of_time(process))
        if self._stdin is not None:
            process.feeding = True
            self._feed(process)

    # -- output ----------------------------------------------------------------------------------

    def _watch(self, process: SshProcess, stream: int) -> None:
        fd = process.outputs[stream]
        if not self._loop.watches(fd):
            self._loop.watch(fd, lambda: self._read(process, stream))

    def _unwatch(self, process: SshProcess, stream: int) -> None:
        self._loop.unwatch(process.outputs[stream])

    def _read(self, process: SshProcess, stream: int) -> None:
        """Read once from ssh; after its end read everything that is left, as far as there is room."""
        while stream in process.outputs:
            if self._client.open:
                if process.sent[stream] - process.acknowledged[stream] >= self._job.window:
                    self._unwatch(process, stream)  # until it is acknowledged
                    return
                if self._client.backlog_bytes > BACKLOG_MAX_BYTES:
                    self._unwatch(process, stream)
                    self._held_up.append((process, stream))
                    return
            try:
                data = os.read(process.outputs[stream], limits.READ_CHUNK_BYTES)
            except BlockingIOError:
                if process.status is None:
                    self._watch(process, stream)
                    return
                data = b""  # ssh has ended; other processes that hold its pipe are not part of this job
            except OSError:
                data = b""
            if not data:
                self._output(process, stream, process.transcript.close(stream))
                self._unwatch(process, stream)
                os.close(process.outputs.pop(stream))
                self._finish(process)
                return
            self._heard(process, stream, data)
            if process.status is None:
                self._watch(process, stream)
                return

    def _heard(self, process: SshProcess, stream: int, data: bytes) -> None:
        transcript = process.transcript
        was_complete = transcript.complete
        output = transcript.feed(stream, data)
        self._went(process)
        self._output(process, stream, output)
        if transcript.status is not None:
            self._close_stdin(process)
        if transcript.complete and not was_complete:
            # Leftovers of the command may hold the connection; they are not ended, and not waited for.
            self._later(limits.LINGER_S, lambda: self._not_waited_for(process))

    def _not_waited_for(self, process: SshProcess) -> None:
        """End an ssh whose command has ended while another process on the node holds its output."""
        if process.status is None:
            process.cut = True
            process.send_signal(signal.SIGTERM)
            self._later(CONFIRM_S, lambda: process.send_signal(signal.SIGKILL))

    def _output(self, process: SshProcess, stream: int, data: bytes) -> None:
        rank = process.rank
        for begin in range(0, len(data), limits.READ_CHUNK_BYTES):  # with what was held back it may be more
            piece = data[begin : begin + limits.READ_CHUNK_BYTES]
            self._client.say(Output(((rank, rank + 1),), stream, process.sent[stream], piece))
            process.sent[stream] += len(piece)

    # -- stdin -----------------------------------------------------------------------------------

    def _feed(self, process: SshProcess) -> None:
        """Write as much stdin to a process as its pipe takes."""
        store = self._stdin
        if store is None or not process.feeding or process.stdin is None:
            return
        fd = process.stdin
        try:
            while process.fed < store.end:
                process.fed += os.write(fd, store.read(process.fed))
        except BlockingIOError:
            if not self._loop.watches(fd):
                self._loop.watch(fd, lambda: self._feed(process))
                self._loop.want_write(fd, True)
            return
        except OSError:
            self._close_stdin(process)
            return
        self._loop.unwatch(fd)
        if store.eof:
            self._close_stdin(process)

    def _stands_still(self, process: SshProcess, why: str) -> None:
        process.stalled = why
        self._order(process, ["KILL"])
        process.send_signal(signal.SIGKILL)  # ssh: its node may never report the end

    def _close_stdin(self, process: SshProcess) -> None:
        process.feeding = False
        if process.stdin is not None:
            self._loop.unwatch(process.stdin)
            process.close_stdin()

    def _tell_stdin(self) -> None:
        """Report to the client up to where stdin was taken, which moves its window."""
        store = self._stdin
        if store is None or self._stdin_told == OFFSET_ALL:
            return
        # A command that has not begun yet counts as having read nothing.
        readers = [p.fed for p in self._processes.values() if p.feeding or not (p.went or p.ended_for)]
        taken = store.taken(readers, waiting=not self._no_more and self._next < self._job.ranks)
        if taken > self._stdin_told:
            self._stdin_told = taken
            store.forget(min(taken, store.end))
            self._client.say(StdinTaken(taken))

    # -- ends -------------------------------------------------------------------------------------

    def _out_of_time(self, process: SshProcess) -> None:
        if process.running:
            process.out_of_time = f"ran longer than {self._job.timeout_s:g} s"
            self._end(process, now=False)

    def _end(self, process: SshProcess, now: bool) -> None:
        """End a command: the gentle signals, KILL after the grace, and then ssh itself."""
        if not process.went:
            self._give_up(process, self._no_more or "ended before it began")
            return
        grace_s = 0.0
        if not now:
            grace_s = self._job.kill_grace_s
            self._order(process, list(script.GENTLE))
        self._later(grace_s, lambda: self._kill(process))
        self._later(grace_s + CONFIRM_S, lambda: self._force(process))

    def _kill(self, process: SshProcess) -> None:
        if process.running:
            process.asked_kill = True
            self._order(process, ["KILL"])

    def _force(self, process: SshProcess) -> None:
        if process.status is not None:
            return
        if self._client.open and not all(map(self._loop.watches, process.outputs.values())):
            # Its end may be reported after output that the client has not taken: that is not silence.
            self._later(CONFIRM_S, lambda: self._force(process))
            return
        process.forced = True
        process.send_signal(signal.SIGKILL)

    def _give_up(self, process: SshProcess, why: str) -> None:
        """End an ssh whose command has not begun and will not begin."""
        if not process.ended_for:
            process.ended_for = why
            self._close_stdin(process)
            process.send_signal(signal.SIGTERM)
            self._later(CONFIRM_S, lambda: process.send_signal(signal.SIGKILL))

    def _order(self, process: SshProcess, names: list[str]) -> None:
        """Let the node send signals to the command: through its control channel, or another ssh."""
        if self._stdin is None:
            process.order("".join(f"{name}\n" for name in names).encode())
        else:
            self._messengers.send(process, names)

    def _finish(self, process: SshProcess) -> None:
        """Report a rank when its ssh has ended and all its output was read."""
        if process.status is None or process.outputs or self._processes.pop(process.rank, None) is None:
            return
        self._room = limits.FANOUT_MAX
        self._report(process.rank, process.outcome(), *process.sent.values())

    def _report(self, rank: int, outcome: Outcome, stdout_bytes: int = 0, stderr_bytes: int = 0) -> None:
        self._client.say(Ended(((rank, rank + 1),), outcome, stdout_bytes, stderr_bytes))

    def _later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._loop.call_at(clock.now_s() + delay_s, callback)
