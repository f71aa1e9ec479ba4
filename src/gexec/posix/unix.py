"""Connects to a daemon of this host over its unix socket, sends a frame, reads one.

Part of the thin client. The daemon must run as root or as the caller: any other listener has
put its own socket in the daemon's place.
"""

from __future__ import annotations

import _socket
import os
import time
from struct import Struct

from gexec.errors import ProtocolError
from gexec.wire.frames import Decoder, Frame, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.errors import GexecError

_UCRED = Struct("iII")
PATH_MAX_BYTES = 107
#: In hardened mode jobs are submitted on heads only.


def connect(path: str, what: str, error: type[GexecError], timeout_s: float) -> _socket.socket:
    """Return a connected socket with a timeout set; its peer is root or the caller's own user.

    Args:
        path: of the socket.
        what: the daemon, for error texts: ``authd``.
        error: the class to raise.
        timeout_s: for connecting, and then for each send and receive.

    Raises:
        error: nothing listens there, the caller may not use it, or another user's process listens.
    """
    if len(os.fsencode(path)) > PATH_MAX_BYTES:
        raise error(f"{what}: the socket's path {path} is over {PATH_MAX_BYTES} bytes")
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(timeout_s)
        _connect(sock, path, timeout_s)
        _, uid = peer_of(sock)
    except TimeoutError as cause:
        sock.close()
        raise error(f"{what} at {path} is too busy: it took no connection within {timeout_s:g} s") from cause
    except OSError as cause:
        sock.close()
        raise error(_sentence(path, what, cause)) from cause
    if uid not in (0, os.geteuid()):
        sock.close()
        raise error(
            f"{what}: the socket {path} is served by uid {uid}, expected root or uid {os.geteuid()}: "
            "somebody else listens there, do not use it"
        )
    return sock


def peer_of(sock: _socket.socket) -> tuple[int, int]:
    """Return the pid and the uid of the peer process, from the kernel.

    Raises:
        OSError: the socket is not a connected unix socket.
    """
    raw = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(raw)
    return pid, uid


def exchange(
    sock: _socket.socket, frame: Frame, allowed: dict[int, type[Frame]], what: str, error: type[GexecError]
) -> Frame:
    """Send one frame on channel 0, return the answer, and close the socket.

    Raises:
        error: no answer within the socket's timeout, or an answer that violates the protocol.
    """
    decoder = Decoder(allowed)
    try:
        try:
            sock.sendall(encode(0, frame))
        except (BrokenPipeError, ConnectionResetError):
            pass  # It may have refused before it read everything: its answer gives the reason.
        while True:
            data = sock.recv(65536)
            if not data:
                raise error(f"{what} closed the connection without an answer: see its log")
            for _, answer in decoder.feed(data):
                return answer
    except TimeoutError as cause:
        raise error(f"{what} did not answer in time: is it stopped or overloaded?") from cause
    except OSError as cause:
        raise error(f"{what} closed the connection without an answer ({cause.strerror})") from cause
    except ProtocolError as cause:
        raise error(f"{what} answered something else than expected: {cause}") from cause
    finally:
        sock.close()


def _connect(sock: _socket.socket, path: str, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return sock.connect(path)
        except BlockingIOError:
            # If the queue of a unix socket is full, connect fails at once and does not wait.
            if time.monotonic() > deadline_s:
                raise TimeoutError from None
            time.sleep(0.01)


def _sentence(path: str, what: str, cause: OSError) -> str:
    if isinstance(cause, FileNotFoundError):
        return f"{what} does not run here: no socket at {path}; {_to_do(path, what)}"
    if isinstance(cause, ConnectionRefusedError):
        return f"{what} does not run here: nobody listens at {path}; {_to_do(path, what)}"
    if isinstance(cause, PermissionError):
        return f"{what}: you may not use its socket {path}: it serves another user, or ask for access to it"
    return f"{what}: cannot connect to {path}: {cause.strerror}"


def _to_do(path: str, what: str) -> str:
    cluster = os.environ.get("GEXEC_CLUSTER_DIR")
    if cluster and path.startswith(cluster + "/"):
        do = "the local cluster has ended: start one with `gexecctl cluster up N`"
    else:
        do = f"start it with `{what} -d`"
    return f"{do}, or in hardened mode use a head"
