"""What a keeper is asked, over the socket ``control`` in its rank's directory.

One SOCK_SEQPACKET message is one request or answer, in ASCII:

======================  =========================================================================
``news A B [hold]``     answered when stdout has more than A bytes or stderr more than B, or the
                        command has ended: ``more A B`` or ``ended A B``, with how many there are.
                        With ``hold``, from the first one on and as long as the connection lasts,
                        no bytes behind A and B are discarded: the command waits instead.
``signal N``            send signal N to the command's process group: ``ok`` or ``no REASON``
``kill``, ``kill now``  end everything that the command has started: ``ok``
======================  =========================================================================

Only the user and root can reach the socket: the directory is the user's, with mode 0700, and the keeper
asks the kernel who its peer is.
"""

from __future__ import annotations

import os
import signal
import socket
from struct import Struct
from typing import Final, NamedTuple

from gexec.jobs.spool import CONTROL

MESSAGE_MAX_BYTES: Final = 128
#: For an answer that a keeper gives at once.
ANSWER_S: Final = 10.0
_TIMEVAL: Final = Struct("ll")


class News(NamedTuple):
    """The request for news behind these two offsets."""

    stdout: int
    stderr: int
    hold: bool


class SignalCommand(NamedTuple):
    """The request to send a signal."""

    signum: int


class KillCommand(NamedTuple):
    """The request to end everything."""

    now: bool


def parsed(raw: bytes) -> News | SignalCommand | KillCommand | None:
    """Return the request; None if it is none."""
    words = raw.split(b" ")
    if words in ([b"kill"], [b"kill", b"now"]):
        return KillCommand(len(words) == 2)
    numbers = [int(word) for word in words[1:3] if word.isdigit() and len(word) <= 18]
    if words[0] == b"signal" and len(words) == 2 and len(numbers) == 1:
        return SignalCommand(numbers[0]) if 1 <= numbers[0] < signal.NSIG else None
    if words[0] == b"news" and len(numbers) == 2 and words[3:] in ([], [b"hold"]):
        return News(numbers[0], numbers[1], len(words) == 4)
    return None


def listen(directory: int) -> socket.socket:
    """Return a keeper's socket; ``directory``: a descriptor of its rank's, which becomes the working one.

    The path of a socket may have 107 bytes only: so it is relative.
    """
    os.fchdir(directory)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    sock.bind(CONTROL)
    sock.listen(16)
    return sock


def connect(directory: int) -> socket.socket:
    """Return a connection to the keeper of a rank; OSError: there is none.

    Its working directory becomes the rank's.
    """
    os.fchdir(directory)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # Not a timeout of Python's: with that, a full queue of connections would be an error at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(ANSWER_S), 0))
        sock.connect(CONTROL)
    except OSError:
        sock.close()
        raise
    return sock


def ask(sock: socket.socket, request: str, timeout_s: float | None = ANSWER_S) -> list[str]:
    """Send a request; return the words of the answer, empty if the keeper has ended.

    Raises:
        OSError: no answer came in time.
    """
    sock.settimeout(timeout_s)
    try:
        sock.send(request.encode())
        return sock.recv(MESSAGE_MAX_BYTES).decode("ascii", "replace").split(" ")
    except (BrokenPipeError, ConnectionResetError):
        return []
