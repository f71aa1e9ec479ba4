"""Asking gmond: connect, read its XML within the limits, server after server.

A server that is dead, slow or talks nonsense costs at most GMOND_CONNECT_S + GMOND_ANSWER_S and is
a note, not an error. Loaded only when Ganglia is asked.
"""

from __future__ import annotations

import _socket
import time

from gexec import limits
from gexec.errors import UsageError
from gexec.select.ganglia import AnswerError, Hosts, parse
from gexec.select.nodes import split_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READ_BYTES = 256 * 1024


class Answer:
    """What the asking of servers gave.

    Attributes:
        server: the one whose answer was good enough, "" if none was.
        hosts: what that one said.
        notes: why each one before it was not taken, in words.
    """

    __slots__ = ("hosts", "notes", "server")

    def __init__(self) -> None:
        self.server = ""
        self.hosts = Hosts()
        self.notes: list[str] = []


def ask(servers: str, source: str, good: Callable[[Hosts], object]) -> Answer:
    """Ask servers in order until one gives a good answer.

    Args:
        servers: ``host[:port]`` with white space between (port 8649).
        source: where they come from, such as GEXEC_GMOND_SVRS, for the sentence of an error.
        good: tells whether the hosts of an answer will do. Why they do not is a note.

    Raises:
        UsageError: a malformed name or port, or too many servers. A server's failure is a note.
    """
    answer = Answer()
    words = servers.replace(",", " ").split()
    if len(words) > limits.GMOND_SERVERS_MAX:
        raise UsageError(f"{source}: {len(words)} servers: expected {limits.GMOND_SERVERS_MAX} at most")
    for name, port in [split_port(word, source) for word in words]:
        port = port or limits.GMOND_PORT
        shown = f"gmond at {f'[{name}]' if ':' in name else name}:{port}"
        try:
            hosts = parse(_answer(name, port))
        except AnswerError as error:
            answer.notes.append(f"{shown}: {error}")
        except OSError as error:
            answer.notes.append(f"{shown} does not answer: {error.strerror or error}")
        else:
            if good(hosts):
                answer.server = shown
                answer.hosts = hosts
                break
            answer.notes.append(f"{shown} {hosts.lack()}")
    return answer


def _answer(name: str, port: int) -> Iterator[bytes]:
    """Yield what a server sends, up to its end. Raises OSError or AnswerError."""
    sock = _connect(name, port, time.monotonic() + limits.GMOND_CONNECT_S)
    deadline_s = time.monotonic() + limits.GMOND_ANSWER_S
    try:
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise AnswerError(f"its answer takes longer than {limits.GMOND_ANSWER_S:g} s")
            sock.settimeout(left_s)
            try:
                chunk = sock.recv(_READ_BYTES)
            except TimeoutError:
                continue
            if not chunk:
                return
            yield chunk
    finally:
        sock.close()


def _connect(name: str, port: int, deadline_s: float) -> _socket.socket:
    error = OSError("its name does not resolve")
    for family, address in _addresses(name, port, deadline_s):
        sock = _socket.socket(family, _socket.SOCK_STREAM)
        try:
            sock.settimeout(max(0.001, deadline_s - time.monotonic()))
            sock.connect(address)
        except TimeoutError:
            error = _slow("connecting")
        except OSError as caught:
            error = caught
        else:
            return sock
        sock.close()
    raise error


def _addresses(name: str, port: int, deadline_s: float) -> list[tuple[int, tuple[object, ...]]]:
    """Return (family, socket address) of each address; a resolver that hangs is left behind."""
    from _thread import allocate_lock, start_new_thread

    found: list[tuple[int, tuple[object, ...]]] = []
    done = allocate_lock()
    done.acquire()

    def look_up() -> None:
        try:
            raw = name.encode("utf-8", "surrogateescape")  # a str would import encodings.idna
            answers = _socket.getaddrinfo(raw, port, 0, _socket.SOCK_STREAM)
            found.extend([(answer[0], answer[4]) for answer in answers])
        except (OSError, ValueError):
            pass  # an empty list says it
        finally:
            done.release()

    start_new_thread(look_up, ())
    if not done.acquire(timeout=max(0.001, deadline_s - time.monotonic())):
        raise _slow("looking up its name")
    return found


def _slow(what: str) -> OSError:
    return OSError(f"{what} takes longer than {limits.GMOND_CONNECT_S:g} s")
