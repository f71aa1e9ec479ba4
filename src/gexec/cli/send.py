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
from gexec.cli.table import options_of
from gexec.errors import GexecError, UsageError
from gexec.files.compression import compressed
from gexec.files.sender import Sender

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence
else:
    import _signal

#: Exit statuses.
FAILED, USAGE, INCOMPLETE = 1, 2, 3
_PIPE_BYTES = 1024 * 1024
#: With --bwlimit, so many writes a second.
_STEPS_PER_S = 8


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # ^C ends it as TERM does, without a traceback
    try:
        parsed = parse("gexec-send", words, options_of("gexec-send"))
        if parsed.flag("help"):
            from gexec.cli.manual import help_page

            sys.stdout.write(help_page("gexec-send"))
            return 0
        filters = Filters(parsed)
        if not parsed.rest and not filters.has_list:
            raise UsageError("gexec-send needs at least one path")
        roots, rules = filters.source(parsed.rest, parsed.value("names", "full"), expands=parsed.flag("glob"))
        problems = _Problems()
        sender = Sender(roots, rules=rules, digests_only=parsed.flag("digests"), on_problem=problems)
        if parsed.flag("loader"):
            from gexec.ssh.loader import archive

            _write_all(archive())
        _send(sender, parsed.value("compress", "auto"), parsed.size("bwlimit"))
        problems.finish()
    except BrokenPipeError:
        return INCOMPLETE
    except OSError as error:
        _say(f"the stream cannot be written: {error.strerror}")
        return INCOMPLETE
    except GexecError as error:
        _say(str(error))
        return USAGE
    return FAILED if sender.problems else 0


def _send(sender: Sender, when: str, bytes_per_s: int) -> None:
    try:
        fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        pass
    begin_s, sent = time.monotonic(), 0
    for chunk in compressed(sender.chunks(), when):
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
    sys.stderr.write(f"gexec-send: {sentence}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
