"""``python -m gexec.cli.send``: write an archive stream of files and directories to stdout.

See docs/files.md for the options and the exit status.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import time

from gexec import limits
from gexec.cli.filters import Filters
from gexec.cli.options import parse
from gexec.cli.standard import open_standard_descriptors
from gexec.cli.table import options_of
from gexec.errors import GexecError, UsageError
from gexec.files.answers import ListAnswer, answer_for
from gexec.files.compression import Compressor
from gexec.files.lister import Lister
from gexec.files.sender import Sender
from gexec.files.walking import removals, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence

    from gexec.cli.options import Parsed
    from gexec.files.signatures import StreamSigner
else:
    import _signal

#: Exit statuses.
FAILED, USAGE, INCOMPLETE = 1, 2, 3
_PIPE_BYTES = 1024 * 1024
#: With --bwlimit, so many writes a second.
_STEPS_PER_S = 8
#: While no answer comes, receivers hear of us so often.
_WAIT_S = 2.0
#: An answer is shorter by far.
_READ_BYTES = 64 * 1024


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    open_standard_descriptors()
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # ^C ends it as TERM does, without a traceback
    try:
        parsed = parse("gexec-send", words, options_of("gexec-send"))
        if parsed.flag("help"):
            from gexec.cli.manual import help_page

            _write_all(help_page("gexec-send").encode())
            return 0
        filters = Filters(parsed)
        if not parsed.rest and not filters.has_list:
            raise UsageError("gexec-send needs at least one path")
        roots, rules = filters.source(parsed.rest, parsed.value("names", "full"), expands=parsed.flag("glob"))
        problems = _Problems()
        lister = Lister(keeps_attributes=_keeps_attributes(parsed), on_problem=problems)
        sender = Sender(
            removals(roots) if parsed.flag("remove") else walk(roots, rules, lister.inspect),
            lister,
            on_problem=problems,
            compressor=Compressor(parsed.value("compress", "auto")),
            answers=_Answers().next if parsed.flag("asking") else None,
            rules=rules.lines() if rules else (),
            digests_only=parsed.flag("digests"),
            on_lacking=_Total(parsed.integer("total", -1)),
            signer=_signer(parsed.integer("sign", -1)),
        )
        if parsed.flag("loader"):
            from gexec.ssh.loader import archive

            _write_all(archive())
        _send(sender, parsed.size("bwlimit"))
        problems.finish()
    except BrokenPipeError:
        return INCOMPLETE
    except OSError as error:
        _say(f"cannot write stdout: {error.strerror}")
        return INCOMPLETE
    except GexecError as error:
        _say(str(error))
        return USAGE
    return FAILED if sender.problems else 0


def _keeps_attributes(parsed: Parsed) -> bool:
    return parsed.flag("xattrs") or (os.geteuid() == 0 and not parsed.flag("no-xattrs"))


def _signer(descriptor: int) -> StreamSigner | None:
    """Return what signs the stream, with the key that comes from a descriptor; None if there is none."""
    if descriptor < 0:
        return None
    from gexec.files.signatures import KEY_BYTES, StreamSigner  # slow

    try:
        secret = os.read(descriptor, KEY_BYTES)
        os.close(descriptor)
    except OSError as error:
        raise UsageError(
            f"option --sign: descriptor {descriptor} cannot be read: {error.strerror}"
        ) from error
    if len(secret) != KEY_BYTES:
        raise UsageError(f"option --sign: expected {KEY_BYTES} bytes from the descriptor, got {len(secret)}")
    return StreamSigner(secret)


def _send(sender: Sender, bytes_per_s: int) -> None:
    try:
        fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        pass
    begin_s, sent = time.monotonic(), 0
    for chunk in sender.chunks():
        if not bytes_per_s:
            _write_all(chunk)
            continue
        left = memoryview(chunk)
        while left:
            step = left[: max(1, bytes_per_s // _STEPS_PER_S)]
            _write_all(step)
            left = left[len(step) :]
            sent += len(step)
            _wait(begin_s + sent / bytes_per_s - time.monotonic())


def _write_all(data: bytes | bytearray | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]


def _wait(wait_s: float) -> None:
    """Wait, but not longer than somebody reads."""
    if wait_s > 0:
        poll = select.poll()
        poll.register(1, 0)
        if any(event & select.POLLERR for _, event in poll.poll(wait_s * 1000)):
            raise BrokenPipeError


class _Answers:
    """What receivers answer, from stdin: a line for each answer.

    Raises GexecError when no more can come.
    """

    def __init__(self) -> None:
        self._rank = os.environ.get("GEXEC_MY_VNN", "")
        self._held = b""
        self._lines: list[bytes] = []
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)

    def next(self) -> ListAnswer | None:
        """Wait for the next answer; None if none comes for a while."""
        while True:
            while self._lines:
                answer = answer_for(self._rank, self._lines.pop(0).decode("ascii", "replace"))
                if answer is not None:
                    return answer
            if not self._poll.poll(_WAIT_S * 1000):
                return None
            data = os.read(0, _READ_BYTES)
            if not data or len(self._held) > _READ_BYTES:
                raise BrokenPipeError  # nobody receives any more
            *self._lines, self._held = (self._held + data).split(b"\n")


class _Total:
    """Tells the client how much will be sent, for its progress: a number in a file of 8 bytes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._bytes = 0

    def __call__(self, size: int) -> None:
        self._bytes += size
        if self._descriptor >= 0:
            os.pwrite(self._descriptor, self._bytes.to_bytes(8, "big"), 0)


class _Problems:
    """Says what is not sent, at most ARCHIVE_SAID_MAX sentences of it."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, sentence: str) -> None:
        self._count += 1
        if self._count <= limits.ARCHIVE_SAID_MAX:
            _say(sentence)

    def finish(self) -> None:
        if self._count > limits.ARCHIVE_SAID_MAX:
            _say(f"and {self._count - limits.ARCHIVE_SAID_MAX} sentences more")


def _say(sentence: str) -> None:
    try:
        os.write(2, f"gexec-send: {sentence}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # the exit status remains


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
