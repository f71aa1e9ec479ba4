"""``python -m gexec.cli.receive``: unpack an archive stream from stdin. Started on the nodes by ensync and
gexec-copy.

See docs/files.md for the options, the lines on stdout and the exit status.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

from gexec import limits
from gexec.cli.options import parse
from gexec.cli.table import check_combination, options_of
from gexec.errors import GexecError, UsageError
from gexec.files.options import DRY_RUN, VERIFY, WRITE, CopyOptions, destination
from gexec.files.pace import Pace
from gexec.files.receiver import Receiver
from gexec.render.text import size as shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence
else:
    import _signal

#: Exit statuses.
FAILED, USAGE, INCOMPLETE, SLOW = 1, 2, 3, 4
#: What a pipe may hold for us: fewer turns between us and the writer.
_PIPE_BYTES = 1024 * 1024


class _StoppedError(GexecError):
    """A signal asks us to end."""


class _Stop:
    """Handles the signals that ask us to end: the first one raises _StoppedError, all others do nothing.

    Several come at once when a job is ended (HUP and TERM), and some while files are put away.
    """

    __slots__ = ("_is_armed",)

    def __init__(self) -> None:
        self._is_armed = True
        for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM):
            _signal.signal(number, self)

    def __call__(self, number: int, _: object) -> None:
        if self._is_armed:
            self._is_armed = False
            raise _StoppedError(f"ended by signal {number} before the stream was whole")

    def disarm(self) -> None:
        """From now on signals do nothing."""
        self._is_armed = False


class _TooSlowError(GexecError):
    """This node would hold up the others."""


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # until there is something to put away
    try:
        parsed = parse("gexec-receive", words, options_of("gexec-receive"))
        if parsed.flag("help"):
            from gexec.cli.manual import help_page

            _write(1, help_page("gexec-receive"))
            return 0
        if parsed.rest:
            raise UsageError(f"gexec-receive takes no {parsed.rest[0][:80]!r}: paths are in the stream")
        check_combination(parsed)
        options = CopyOptions(
            task=DRY_RUN if parsed.flag("dry-run") else VERIFY if parsed.flag("checksum") else WRITE,
            make_parents=parsed.flag("parents"),
            delete=parsed.flag("delete"),
            backup=parsed.flag("backup"),
            sync=parsed.flag("sync"),
            keep_set_id=parsed.flag("setuid"),
            keep_owner=False if parsed.flag("no-owner") else None,
            numeric_ids=parsed.flag("numeric-ids"),
            compare_content=parsed.flag("checksum-compare"),
        )
        path = destination(parsed.last("dest") or "/", os.environ)
        pace = Pace(parsed.size("min-rate"))
        receiver = Receiver(path, options, say=_say, tell=_tell)
    except UsageError as error:
        _say(str(error))
        return USAGE
    except GexecError as error:
        _say(str(error))
        return FAILED
    return _receive(receiver, pace)


def _receive(receiver: Receiver, pace: Pace) -> int:
    slow = False
    try:
        stop = _Stop()
        try:
            _feed(receiver, pace)
        finally:
            stop.disarm()
    except _TooSlowError as error:
        slow = True
        _say(str(error))
    except GexecError as error:
        _say(str(error))
    except OSError as error:
        _say(f"the stream cannot be read: {error.strerror}")
    finally:
        report = receiver.finish()
    _tell(report.line())
    if slow:
        return SLOW
    if not report.is_complete:
        return INCOMPLETE
    return FAILED if report.failed or report.differing else 0


def _feed(receiver: Receiver, pace: Pace) -> None:
    try:
        fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        pass
    buffer = memoryview(bytearray(limits.ARCHIVE_DATA_MAX_BYTES))
    while count := os.readv(0, [buffer]):
        begin_s = time.monotonic()
        receiver.feed(buffer[:count])
        if pace.is_too_slow(count, time.monotonic() - begin_s):
            raise _TooSlowError(
                f"{shown_size(pace.bytes_per_s)} a second are written here: given up (--min-rate)"
            )
    receiver.end()


def _say(sentence: str) -> None:
    _write(2, f"gexec-receive: {sentence}\n")


def _tell(line: str) -> None:
    _write(1, f"{line}\n")


def _write(descriptor: int, text: str) -> None:
    left = text.encode("utf-8", "backslashreplace")
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        pass  # nobody listens any more; the files matter


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
