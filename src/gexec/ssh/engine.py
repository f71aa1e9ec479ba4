"""The process in gexecd's place: takes one job from its client, runs an ssh for each rank, and reports.

Its descriptor 0 is the client's socket. One thread, one poll; nothing here waits for one node while
others have something to say. When the client is gone it ends what runs, and itself.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable

from gexec import limits
from gexec.core import jobspec
from gexec.core.frames import (
    OFFSET_ALL,
    REFUSED_DENIED,
    Accepted,
    Ack,
    Close,
    Done,
    Ended,
    Frame,
    Goodbye,
    Hello,
    Kill,
    Output,
    Ping,
    Pong,
    Refused,
    Signal,
    Started,
    Stdin,
    StdinTaken,
    Submit,
)
from gexec.core.jobspec import JobSpec
from gexec.core.outcome import Outcome, not_started
from gexec.errors import GexecError, ProtocolError
from gexec.proc.loop import PollLoop
from gexec.ssh import script
from gexec.ssh.commands import Commands
from gexec.ssh.link import BACKLOG_MAX_BYTES, ClientLink
from gexec.ssh.process import SshProcess, exit_status, spawn
from gexec.ssh.stdin import Stdin as StdinStore
from gexec.ssh.verdict import verdict
from gexec.version import VERSION

JOB_CHANNEL = 1
#: From a kill that the node should obey to the end of ssh here.
CONFIRM_S = 4.0
#: Signals that end what runs end also what waits for its turn.
_DEADLY = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_SIGNALS_WAITING_MAX = 8


def main(arguments: list[str]) -> int:
    """Serve the client at descriptor 0: ``(ask|batch) CHDIR SSH [OPTION]...``."""
    mode, chdir, *ssh = arguments
    client = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    # A failed import is told on stderr; from here on, whoever waits for the end of that need not wait for us.
    for fd in (0, 2):
        os.dup2(null, fd)
    os.close(null)
    _raise_descriptor_limit()
    engine = Engine(client, [os.fsencode(word) for word in ssh], os.fsencode(chdir), ask=mode == "ask")
    try:
        engine.run()
    finally:
        engine.abandon()
    return 0


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # then fewer run at a time


class Engine:
    """One job over ssh.

    Args:
        client: connected socket.
        ssh: absolute path and options.
        chdir: working directory on the nodes, b"" = home.
        ask: ssh may ask on the terminal.
    """

    def __init__(self, client: socket.socket, ssh: list[bytes], chdir: bytes, ask: bool) -> None:
        self._ssh = ssh
        self._chdir = chdir
        self._ask = ask
        self._env = dict(os.environb)
        self._loop = PollLoop(self._on_signal)
        self._client = ClientLink(client, self._loop, self._on_frame, self._client_gone, self._client_wrong)
        self._mark = os.urandom(16).hex().encode()
        self._job: JobSpec | None = None
        self._commands: Commands | None = None
        self._stdin: StdinStore | None = None
        self._stdin_told = 0
        #: The next rank to start, and why no more are started, or "".
        self._next = 0
        self._no_more = ""
        #: How many ssh this machine had room for when it was out of something.
        self._room = limits.FANOUT_MAX
        self._processes: dict[int, SshProcess] = {}
        self._of_pid: dict[int, SshProcess] = {}
        #: ssh that deliver signals, by pid.
        self._messengers: dict[int, SshProcess] = {}
        #: Streams that wait for the client to take what is queued for it.
        self._held_up: list[tuple[SshProcess, int]] = []
        self._finished = False

    def run(self) -> None:
        """Return when the job is over and told, or the client is gone and nothing runs any more."""
        self._loop.take_signals([signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP])
        for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP) if self._ask else ():
            signal.signal(signum, signal.SIG_IGN)  # from the terminal: the client passes them on
        self._client.say(0, Hello(limits.PROTOCOL_VERSION, f"gexec {VERSION} ssh"))
        while self._client.open or self._processes or self._messengers:
            self._loop.turn(None)
            self._advance()

    def abandon(self) -> None:
        """Leave no ssh behind, whatever happened."""
        for process in self._processes.values():
            process.send_signal(signal.SIGKILL)
        for pid in self._messengers:
            os.kill(pid, signal.SIGKILL)

    def _advance(self) -> None:
        """Do what a turn has made possible: start, read on, report, send."""
        if self._job is not None and self._commands is not None and not self._finished:
            self._fill(self._job, self._commands)
            self._tell_stdin()
            if self._next >= self._job.ranks and not self._processes:
                self._finished = True
                self._say(Done())
        self._client.flush()
        if self._held_up and self._client.backlog_bytes < BACKLOG_MAX_BYTES // 2:
            held_up, self._held_up = self._held_up, []
            for process, stream in held_up:
                self._read(process, stream)

    # -- the client ------------------------------------------------------------------------------

    def _say(self, frame: Frame) -> None:
        self._client.say(JOB_CHANNEL, frame)

    def _client_wrong(self, error: GexecError) -> None:
        """What the client sent cannot be: tell it, if it may still listen."""
        self._say(Refused(REFUSED_DENIED, str(error)) if self._job is None else Goodbye(str(error)))
        self._client.flush()

    def _client_gone(self) -> None:
        """Nobody is told anything any more: end everything."""
        self._end_all("its client is gone", now=False)
        for process in list(self._processes.values()):
            for stream in list(process.outputs):
                self._read(process, stream)  # what nobody reads must not keep ssh from its end

    def _on_frame(self, channel: int, frame: Frame) -> None:
        if channel == 0:
            if isinstance(frame, Ping):
                self._client.say(0, Pong(frame.token))
            return
        if isinstance(frame, Submit):
            self._submitted(frame)
        elif self._job is None:
            raise ProtocolError(f"{type(frame).__name__} before Submit")
        elif isinstance(frame, Ack):
            for rank, stream, offset in frame.entries:
                self._acknowledged(rank, stream, offset)
        elif isinstance(frame, Stdin):
            if self._stdin is None:
                raise ProtocolError("stdin for a job without stdin")
            self._stdin.append(frame.offset, frame.data, frame.eof)
            for process in list(self._processes.values()):
                self._feed(process)
        elif isinstance(frame, Signal):
            self._signalled(frame.signum)
        elif isinstance(frame, Kill):
            self._end_all("the job was killed before its turn", frame.now)
        elif isinstance(frame, Close):
            self._client.close()

    def _submitted(self, frame: Submit) -> None:
        if self._job is not None:
            raise ProtocolError("a second Submit")
        job = JobSpec.decode(frame.blob)
        if job.flags & (jobspec.DETACHED | jobspec.STRICT):
            raise ProtocolError("a job over ssh cannot be detached or strict")
        self._commands = Commands(job, self._ssh, self._mark, self._chdir, self._ask)
        if not job.flags & jobspec.NO_STDIN:
            self._stdin = StdinStore(spooled=job.ranks > job.fanout)
        self._job = job
        self._say(Accepted(os.urandom(16)))

    # -- starting --------------------------------------------------------------------------------

    def _fill(self, job: JobSpec, commands: Commands) -> None:
        """Start as many as may run at a time."""
        while self._next < job.ranks and (
            self._no_more or len(self._processes) < min(job.fanout, self._room)
        ):
            rank = self._next
            if self._no_more:
                self._next += 1
                self._report(rank, not_started(self._no_more))
                continue
            try:
                process = SshProcess(rank, commands.of(rank), self._env, self._mark)
            except GexecError as error:
                self._next += 1
                self._report(rank, not_started(str(error)))
            except OSError as error:
                if self._processes and (self._stdin is None or self._stdin.spooled):
                    self._room = len(self._processes)  # as many as this machine has room for
                    return
                self._next += 1
                text = f"ssh cannot be started here: {error.strerror}"
                self._report(rank, not_started(text, error.errno or 0))
            else:
                self._next += 1
                self._begin(process, job)

    def _begin(self, process: SshProcess, job: JobSpec) -> None:
        self._processes[process.rank] = self._of_pid[process.pid] = process
        for stream in process.outputs:
            self._watch(process, stream)
        if not self._ask:
            # ssh's own time-out ends with its handshake; after that a node may still stand.
            within_s = job.connect_timeout_s + limits.HANDSHAKE_TIMEOUT_S
            self._later(within_s, lambda: self._too_slow(process, within_s))

    def _too_slow(self, process: SshProcess, within_s: float) -> None:
        if not process.went:
            self._give_up(process, f"no answer within {within_s:g} s")

    def _went(self, process: SshProcess) -> None:
        """The script on the node is there: let it run the command."""
        if process.went or process.ended_for or process.transcript.pid is None:
            return
        assert self._job is not None
        process.went = True
        process.order(script.GO)
        self._say(Started(((process.rank, process.rank + 1),)))
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
        """Read once what ssh wrote; after its end all that is left, as far as there is room."""
        while stream in process.outputs:
            if self._client.open:
                assert self._job is not None
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
                data = b""  # ssh has gone; whoever else holds its pipe is not of this job
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
            # What the command left behind may hold the connection; it is let be, and not waited for.
            self._later(limits.LINGER_S, lambda: process.send_signal(signal.SIGTERM))
            self._later(limits.LINGER_S + CONFIRM_S, lambda: process.send_signal(signal.SIGKILL))

    def _output(self, process: SshProcess, stream: int, data: bytes) -> None:
        if data:
            rank = process.rank
            self._say(Output(((rank, rank + 1),), stream, process.sent[stream], data))
            process.sent[stream] += len(data)

    def _acknowledged(self, rank: int, stream: int, offset: int) -> None:
        process = self._processes.get(rank)
        if process is None:
            return
        if offset > process.sent[stream]:
            raise ProtocolError(f"rank {rank} has not written {offset} bytes to stream {stream}")
        if offset > process.acknowledged[stream]:
            process.acknowledged[stream] = offset
            if stream in process.outputs and not self._loop.watches(process.outputs[stream]):
                self._read(process, stream)

    # -- stdin -----------------------------------------------------------------------------------

    def _feed(self, process: SshProcess) -> None:
        """Give a process the stdin that its pipe takes."""
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

    def _close_stdin(self, process: SshProcess) -> None:
        process.feeding = False
        if process.stdin is not None:
            self._loop.unwatch(process.stdin)
            process.close_stdin()

    def _tell_stdin(self) -> None:
        """Tell the client how far stdin was taken: its window moves with that."""
        store = self._stdin
        if store is None or self._job is None or self._stdin_told == OFFSET_ALL:
            return
        # Whoever has not begun yet counts with the nothing it has read.
        readers = [p.fed for p in self._processes.values() if p.feeding or not (p.went or p.ended_for)]
        taken = store.taken(readers, waiting=not self._no_more and self._next < self._job.ranks)
        if taken > self._stdin_told:
            self._stdin_told = taken
            store.forget(min(taken, store.end))
            self._say(StdinTaken(taken))

    # -- signals and ends ------------------------------------------------------------------------

    def _signalled(self, signum: int) -> None:
        name = script.SIGNALS.get(signum)
        if name is None:
            return
        if signum in _DEADLY:
            self._no_more = self._no_more or f"SIG{name} came before its turn"
        for process in list(self._processes.values()):
            if process.running:
                self._order(process, [name])
            elif signum in _DEADLY and not process.went:
                self._give_up(process, f"SIG{name} came before it began")

    def _out_of_time(self, process: SshProcess) -> None:
        assert self._job is not None
        if process.running:
            process.out_of_time = f"ran longer than {self._job.timeout_s:g} s"
            self._end(process, now=False)

    def _end_all(self, why: str, now: bool) -> None:
        self._no_more = self._no_more or why
        for process in list(self._processes.values()):
            self._end(process, now)

    def _end(self, process: SshProcess, now: bool) -> None:
        """End a command: the gentle signals, after the grace KILL, and then ssh itself."""
        if not process.went:
            self._give_up(process, self._no_more or "ended before it began")
            return
        grace_s = 0.0
        if not now and self._job is not None:
            grace_s = self._job.kill_grace_s
            self._order(process, list(script.GENTLE))
        self._later(grace_s, lambda: self._kill(process))
        self._later(grace_s + CONFIRM_S, lambda: self._force(process))

    def _kill(self, process: SshProcess) -> None:
        if process.running:
            process.asked_kill = True
            self._order(process, ["KILL"])

    def _force(self, process: SshProcess) -> None:
        if process.status is None:
            process.forced = True
            process.send_signal(signal.SIGKILL)

    def _give_up(self, process: SshProcess, why: str) -> None:
        """End an ssh whose command has not begun, and will not."""
        if not process.ended_for:
            process.ended_for = why
            self._close_stdin(process)
            process.send_signal(signal.SIGTERM)
            self._later(CONFIRM_S, lambda: process.send_signal(signal.SIGKILL))

    def _order(self, process: SshProcess, names: list[str]) -> None:
        """Have the node send signals to the command: by its control channel, or by another ssh."""
        if self._stdin is None:
            process.order("".join(f"{name}\n" for name in names).encode())
        elif len(process.signals) < _SIGNALS_WAITING_MAX or "KILL" in names:
            process.signals += names
            self._send_messenger(process)

    def _send_messenger(self, process: SshProcess) -> None:
        """Start the ssh that delivers signals, if there are some and none is under way."""
        pid_there = process.transcript.pid
        if not process.signals or process.messenger is not None or pid_there is None or not process.running:
            return
        assert self._commands is not None
        argv = self._commands.signal(process.rank, pid_there, process.signals)
        process.signals = []
        try:
            # Descriptor 0 is /dev/null, open for reading and writing.
            null = os.dup(0)
            try:
                pid = spawn(argv, self._env, null, null, null)
            finally:
                os.close(null)
        except OSError:
            return  # no room for it: the deadlines see to the end
        process.messenger = pid
        self._messengers[pid] = process
        grace_s = limits.CONNECT_TIMEOUT_S + limits.KILL_GRACE_S
        self._later(grace_s, lambda: self._recall(pid))

    def _recall(self, pid: int) -> None:
        if pid in self._messengers:
            os.kill(pid, signal.SIGKILL)

    def _on_signal(self, signum: int) -> None:
        if signum != signal.SIGCHLD:
            self._client.close()
            return
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            messenger_of = self._messengers.pop(pid, None)
            if messenger_of is not None:
                messenger_of.messenger = None
                self._send_messenger(messenger_of)
            process = self._of_pid.pop(pid, None)
            if process is not None:
                self._reaped(process, exit_status(wait_status))

    def _reaped(self, process: SshProcess, status: int) -> None:
        process.status = status
        self._close_stdin(process)
        for stream in list(process.outputs):
            self._read(process, stream)
        self._finish(process)

    def _finish(self, process: SshProcess) -> None:
        """Report a rank once its ssh has ended and all that it wrote was read."""
        if process.status is None or process.outputs or self._processes.pop(process.rank, None) is None:
            return
        self._room = limits.FANOUT_MAX
        transcript = process.transcript
        outcome = verdict(
            went=process.went,
            status=transcript.status,
            explanation=transcript.explanation(),
            ssh_status=process.status,
            ended_for=process.ended_for,
            out_of_time=process.out_of_time,
            asked_kill=process.asked_kill,
            forced=process.forced,
        )
        self._report(process.rank, outcome, *process.sent.values())

    def _report(self, rank: int, outcome: Outcome, stdout_bytes: int = 0, stderr_bytes: int = 0) -> None:
        self._say(Ended(((rank, rank + 1),), outcome, stdout_bytes, stderr_bytes))

    def _later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._loop.call_at(time.monotonic() + delay_s, callback)
