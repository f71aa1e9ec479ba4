"""What a job's processes read: a sender of files (gexec.cli.send) in a process of its own."""

from __future__ import annotations

import os
import select
import signal
import sys

from gexec.errors import GexecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Of its stderr: more than the sentences that it may write.
_SAID_MAX_BYTES = 256 * 1024


class Feed:
    """A running sender. ``close`` it, always.

    Args:
        words: its options and paths (docs/files.md).
        secret: the private key by which it signs its stream; empty: it does not sign.

    Raises:
        GexecError: it cannot be started.

    Attributes:
        fd: the end of the pipe that its stream comes from.
        problems: sentences, once it is closed: what could not be sent.
    """

    def __init__(self, words: Sequence[str], secret: bytes = b"") -> None:
        self.problems: list[str] = []
        self._bytes_read = 0
        self.fd, writing = os.pipe()
        answers, self._answers = os.pipe()
        # Its stderr is kept there: written at once, it would be in the middle of progress and output.
        self._said = os.memfd_create("gexec-send")
        self._total = os.memfd_create("gexec-send-total", 0)  # the sender inherits it
        key, signs = -1, []
        if secret:
            key = _filled_pipe(secret)
            signs = [f"--sign={key}"]
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                [
                    sys.executable,
                    "-I",
                    "-X",
                    "utf8",
                    "-m",
                    "gexec.cli.send",
                    f"--total={self._total}",
                    *signs,
                    *words,
                ],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, answers, 0),
                    (os.POSIX_SPAWN_DUP2, writing, 1),
                    (os.POSIX_SPAWN_DUP2, self._said, 2),
                ],
                setpgroup=0,  # ^C is the job's matter
            )
        except OSError as error:
            os.close(self.fd)
            os.close(self._answers)
            os.close(self._said)
            os.close(self._total)
            raise GexecError(f"the sender cannot be started: {error.strerror}") from error
        finally:
            os.close(writing)
            os.close(answers)
            if key >= 0:
                os.close(key)

    def total(self) -> int:
        """Return how much it will read, as far as it is known."""
        return int.from_bytes(os.pread(self._total, 8, 0), "big")

    def tell(self, line: str) -> None:
        """Tell it what the receivers answered (gexec.files.answers); short, so that it never waits."""
        if self._answers >= 0:
            try:
                os.write(self._answers, line.encode())
            except BrokenPipeError:
                pass  # it has ended

    def stop(self) -> None:
        """Make it end before its stream is complete: no more answers come."""
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1

    def bytes_read(self) -> int:
        """Return how much it has read so far (the modules that it is made of included)."""
        try:
            with open(f"/proc/{self._pid}/io", "rb", 0) as file:
                counted = file.read(4096).partition(b"rchar: ")[2].split(maxsplit=1)
            self._bytes_read = int(counted[0])
        except (OSError, IndexError, ValueError):
            pass  # it has ended, or this kernel does not count
        return self._bytes_read

    def close(self) -> int:
        """End it; return its exit status: 1 if it could not send something, else 0.

        A stream that was not read to its end is no failure of the sender; the receivers report it.
        """
        poll = select.poll()
        poll.register(self.fd, 0)
        if not any(event & select.POLLHUP for _, event in poll.poll(0)):
            os.kill(self._pid, signal.SIGKILL)
        os.close(self.fd)
        self.stop()
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        text = os.pread(self._said, _SAID_MAX_BYTES, 0).decode("utf-8", "backslashreplace")
        self.problems = [line.removeprefix("gexec-send: ") for line in text.splitlines()]
        os.close(self._said)
        os.close(self._total)
        return 1 if status == 1 else 0


def _filled_pipe(data: bytes) -> int:
    """Return a descriptor that a child inherits, from which these few bytes can be read once."""
    reading, writing = os.pipe2(0)
    os.write(writing, data)
    os.close(writing)
    return reading
