"""A gexecd and an authd that follow a test's script, on real unix sockets with real frames.

For what a client does with what its daemon says; the real daemons are in tests/system.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gexec.limits import PROTOCOL_VERSION
from gexec.wire.frames import (
    FROM_CLIENT,
    TO_AUTHD,
    Accepted,
    Decoder,
    Done,
    Ended,
    Frame,
    Hello,
    Output,
    RanksStarted,
    Sign,
    Signed,
    Submit,
    encode,
)
from gexec.wire.jobspec import JobSpec
from gexec.wire.outcome import Outcome, exited

DEADLINE_S = 60.0


class Peer:
    """One accepted connection: frames in, frames out."""

    def __init__(self, sock: socket.socket, allowed: dict[int, type[Frame]]) -> None:
        self.sock = sock
        self._decoder = Decoder(allowed)
        self._frames: list[tuple[int, Frame]] = []

    def next(self) -> Frame | None:
        """Return the next frame, None at the end of the connection."""
        while not self._frames:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)[1]

    def until(self, kind: type[Frame]) -> Frame:
        """Return the next frame of this kind; others are dropped."""
        while True:
            frame = self.next()
            assert frame is not None, f"the client left before {kind.__name__}"
            if isinstance(frame, kind):
                return frame

    def say(self, *frames: Frame) -> None:
        """Send frames on the job's channel."""
        self.sock.sendall(b"".join(encode(1, frame) for frame in frames))

    def accept_hello(self) -> JobSpec:
        """Greet and take the Submit; return the job."""
        self.sock.sendall(encode(0, Hello(PROTOCOL_VERSION, "scripted gexecd")))
        submit = self.until(Submit)
        assert isinstance(submit, Submit)
        assert submit.credential == b"signed"
        return JobSpec.decode(submit.blob)

    def accept(self) -> JobSpec:
        """Greet, take the Submit, answer Accepted; return the job."""
        job = self.accept_hello()
        self.say(Accepted(b"j" * 16))
        return job

    def finish(self, ranks: int, outcome: Outcome | None = None, lengths: tuple[int, int] = (0, 0)) -> None:
        """End ranks [0, ranks) alike, and the job."""
        if ranks:
            self.say(Ended(((0, ranks),), outcome or exited(0), *lengths))
        self.say(Done())


Script = Callable[[Peer], None]


class Daemons:
    """Both scripted daemons; ``env`` is what a client needs to find them."""

    def __init__(self, directory: Path, script: Script, sign: Script) -> None:
        self.env = dict(os.environ)
        for name in [name for name in self.env if name.startswith("GEXEC_")]:
            del self.env[name]
        self.env["GEXEC_SOCKET"] = str(directory / "gexecd.sock")
        self.env["GEXEC_AUTHD_SOCKET"] = str(directory / "authd.sock")
        self.env["GEXEC_SVRS"] = "127.0.0.1 127.0.0.2:77 127.0.0.3"
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._listeners = [
            self._serve(self.env["GEXEC_AUTHD_SOCKET"], TO_AUTHD, sign),
            self._serve(self.env["GEXEC_SOCKET"], FROM_CLIENT, script),
        ]

    def _serve(self, path: str, allowed: dict[int, type[Frame]], script: Script) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                sock.settimeout(DEADLINE_S)
                with sock:
                    try:
                        script(Peer(sock, allowed))
                    except BaseException as error:
                        self.errors.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        self._threads.append(thread)
        return listener

    def close(self) -> None:
        """Stop both, wait for their threads, and show what failed in a script."""
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join(DEADLINE_S)
        if self.errors:
            raise self.errors[0]


def sign_all(peer: Peer) -> None:
    """An authd that signs whatever it is asked to."""
    if isinstance(peer.next(), Sign):
        peer.sock.sendall(encode(0, Signed(b"signed")))


@contextmanager
def daemons(directory: Path, script: Script, sign: Script = sign_all) -> Iterator[Daemons]:
    """Run both daemons while the block runs."""
    running = Daemons(directory, script, sign)
    try:
        yield running
    finally:
        running.close()


def command(*words: str) -> list[str]:
    """Return the argv of the real gexec command."""
    return [
        sys.executable,
        "-c",
        "import sys; from gexec.cli.gexec import main; sys.exit(main(sys.argv[1:]))",
        *words,
    ]


def gexec(env: dict[str, str], *words: str, stdin: bytes | None = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the real gexec command to its end."""
    if stdin is None:
        return subprocess.run(
            command(*words), env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S
        )
    return subprocess.run(command(*words), env=env, input=stdin, capture_output=True, timeout=DEADLINE_S)


def hello_script(peer: Peer) -> None:
    """Every rank starts, says hello and exits 0."""
    ranks = peer.accept().ranks
    everyone = ((0, ranks),)
    peer.say(RanksStarted(everyone), Output(everyone, 1, 0, b"hello\n"))
    peer.finish(ranks, lengths=(6, 0))
