"""``python -m gexec.cli.receive``: unpack an archive stream from stdin. Started on the nodes by ensync and
gexec-copy.

See docs/files.md for the options, the lines on stdout and the exit status.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import time

from gexec import limits
from gexec.cli.options import parse
from gexec.cli.standard import open_standard_descriptors
from gexec.cli.table import check_combination, options_of
from gexec.errors import GexecError, UsageError
from gexec.files import answers
from gexec.files.options import DRY_RUN, VERIFY, WRITE, CopyOptions, destination
from gexec.files.pace import Pace
from gexec.files.receiver import Receiver
from gexec.render.text import size as shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence

    from gexec.files.answers import ListAnswer
    from gexec.files.signatures import StreamVerifier
else:
    import _signal

#: Exit statuses.
FAILED, USAGE, INCOMPLETE, SLOW = 1, 2, 3, 4
#: What a pipe may hold for us: fewer turns between us and the writer.
_PIPE_BYTES = 1024 * 1024
#: While we work and the sender listens, it hears of us so often.
_ALIVE_S = 2.0


class _StoppedError(GexecError):
    """A signal asks us to end."""


class _Turns:
    """Between two pieces of work: ends it after a signal, and says now and then that we are alive.

    A handler that raises could do so anywhere, also while files are put away and twice. This one only notes
    the signal, and wakes who waits for the stream.
    """

    __slots__ = ("_at_s", "_is_heard", "_number", "_poll", "_wakes")

    def __init__(self) -> None:
        self._number = 0
        self._at_s = time.monotonic()
        #: A program reads what we write.
        self._is_heard = bool(os.environ.get("GEXEC_NODE"))
        self._wakes, waking = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(waking, False)
        _signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)
        self._poll.register(self._wakes, select.POLLIN)
        for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM):
            _signal.signal(number, self._note)

    def step(self) -> None:
        """Raise _StoppedError if a signal came; write a sign of life if it is time."""
        if self._number:
            raise _StoppedError(f"ended by signal {self._number} before everything was done")
        if self._is_heard and (now_s := time.monotonic()) - self._at_s >= _ALIVE_S:
            self._at_s = now_s
            _tell(answers.ALIVE)

    def answer(self, answer: ListAnswer) -> None:
        """Write an answer to the sender."""
        _tell(answer.line())

    def wait(self) -> None:
        """Wait for more of the stream; raise _StoppedError if a signal comes."""
        while True:
            self._at_s = time.monotonic()  # who waits need not say so
            ready = [descriptor for descriptor, _ in self._poll.poll()]
            self.step()
            if 0 in ready:
                return

    def _note(self, number: int, _: object) -> None:
        self._number = self._number or number


class _TooSlowError(GexecError):
    """This node would hold up the others."""


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    open_standard_descriptors()  # what is said and told would get into the files
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # until there is something to put away
    try:
        parsed = parse("gexec-receive", words, options_of("gexec-receive"))
        if parsed.flag("help"):
            from gexec.cli.manual import help_page

            return _help(help_page("gexec-receive"))
        if parsed.rest:
            raise UsageError(f"gexec-receive takes no {parsed.rest[0][:80]!r}: paths are in the stream")
        check_combination(parsed)
        options = CopyOptions(
            task=DRY_RUN if parsed.flag("dry-run") else VERIFY if parsed.flag("checksum") else WRITE,
            make_parents=parsed.flag("parents"),
            delete=parsed.flag("delete"),
            delete_max=parsed.integer("max-delete", -1),
            backup=parsed.flag("backup"),
            sync=parsed.flag("sync"),
            keep_set_id=parsed.flag("setuid"),
            keep_owner=False if parsed.flag("no-owner") else None,
            keep_attributes=not parsed.flag("no-xattrs"),
            numeric_ids=parsed.flag("numeric-ids"),
            compare_content=parsed.flag("checksum-compare"),
        )
        path = destination(parsed.last("dest") or "/", os.environ)
        path, new_name = _target(path, parsed.value("target", "directory"))
        verifier = _verifier(parsed.last("signed-by"))
        pace = Pace(parsed.size("min-rate"))
        turns = _Turns()
        receiver = Receiver(
            path,
            options,
            say=_say,
            tell=_tell,
            answer=turns.answer,
            new_name=new_name,
            on_step=turns.step,
            verifier=verifier,
        )
    except UsageError as error:
        _say(str(error))
        return USAGE
    except GexecError as error:
        _say(str(error))
        return FAILED
    return _receive(receiver, pace, turns)


def _help(text: str) -> int:
    left = text.encode()
    try:
        while left:
            left = left[os.write(1, left) :]
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            _say(f"cannot write stdout: {error.strerror}")
        return FAILED
    return 0


def _verifier(key: str | None) -> StreamVerifier | None:
    """Return what verifies the stream; None if it is not signed."""
    if key is None:
        return None
    from gexec.files.signatures import KEY_BYTES, StreamVerifier  # slow, and not there without gexec

    try:
        public = bytes.fromhex(key)
    except ValueError:
        public = b""
    if len(public) != KEY_BYTES:
        raise UsageError(f"option --signed-by: expected {2 * KEY_BYTES} digits in hex, not {key[:80]!r}")
    return StreamVerifier(public)


def _target(path: str, kind: str) -> tuple[str, bytes]:
    """Return the directory to write below, and the new name of what is copied, or empty.

    Args:
        path: the destination.
        kind: ``directory``; ``name``: of what is copied; ``either``: a directory where there is one.
    """
    is_directory = kind == "directory" or path.endswith("/")
    if kind == "either" and not is_directory:
        is_directory = os.path.isdir(path)
        _tell(answers.INTO_DIRECTORY if is_directory else answers.INTO_NAME)
    if is_directory:
        return path, b""
    above, name = os.path.split(os.path.normpath(path))
    return above, os.fsencode(name)


def _receive(receiver: Receiver, pace: Pace, turns: _Turns) -> int:
    status = 0
    try:
        _feed(receiver, pace, turns)
    except _TooSlowError as error:
        status = SLOW
        _say(str(error))
    except GexecError as error:
        status = INCOMPLETE
        _say(str(error))
    except OSError as error:
        status = INCOMPLETE
        _say(f"the stream cannot be read: {error.strerror}")
    try:
        report = receiver.finish()
    except _StoppedError as error:
        status = INCOMPLETE
        _say(str(error))
        report = receiver.report
        report.is_complete = False
    _tell(report.line())
    if status or not report.is_complete:
        return status or INCOMPLETE
    return FAILED if report.failed or report.differing else 0


def _feed(receiver: Receiver, pace: Pace, turns: _Turns) -> None:
    try:
        fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        pass
    buffer = memoryview(bytearray(limits.ARCHIVE_DATA_MAX_BYTES))
    while True:
        turns.wait()
        count = os.readv(0, [buffer])
        if not count:
            break
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
