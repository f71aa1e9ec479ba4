"""Handing a relay's state over to its successor: a sealed memfd and descriptors, on a socket pair.

Both sides block meanwhile: for a relay that hands over, nothing happens at all until it ends or continues, so
the state stays true. The spawner has made the socket pair, and reads nothing of it.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import socket
from collections.abc import Sequence
from struct import Struct
from typing import Final

from gexec.core.saving import VERSION, Saved
from gexec.posix import channel
from gexec.wire import values

#: Magic, version of the state, descriptors that follow.
_HEAD: Final = Struct("!8sII")
_MAGIC: Final = b"gexec rl"
#: Descriptors of one message; the kernel takes up to 253.
_PORTION: Final = 128
#: How long one message may take.
WITHIN_S: Final = 30.0
#: Parts that one call writes.
_PARTS_MAX: Final = 512


def send(sock: socket.socket, state: Saved, fds: Sequence[int]) -> None:
    """Send a state, and descriptors, to the successor.

    Raises:
        OSError: there is no room for it, or the successor has ended or does not read.
        TypeError: the state contains something that is no value.
    """
    sock.settimeout(WITHIN_S)
    memfd = os.memfd_create("gexec-relay-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _write(memfd, values.encode(state))
        channel.seal(memfd)
        _send(sock, _HEAD.pack(_MAGIC, VERSION, len(fds)), [memfd])
    finally:
        os.close(memfd)
    for begin in range(0, len(fds), _PORTION):
        _send(sock, b"+", fds[begin : begin + _PORTION])


def receive(sock: socket.socket) -> tuple[Saved, list[int]]:
    """Return the state and the descriptors that a relay has sent.

    Raises:
        OSError: it does not come, or there is no descriptor or memory for it.
        ValueError: it is no state, or one of another version.
    """
    head, fds = _receive(sock)
    if len(head) != _HEAD.size or len(fds) != 1:
        raise ValueError("the relay has sent no state")
    magic, version, count = _HEAD.unpack(head)
    (memfd,) = fds
    got: list[int] = []
    while len(got) < count:
        word, more = _receive(sock)
        if word != b"+":
            raise ValueError("the relay has not sent all of its descriptors")
        got += more
    # Only now: the relay must have sent everything, or its failure to do so would be reported instead.
    if magic != _MAGIC or version != VERSION:
        raise ValueError(f"the running relay's state has the form {version}, the new code needs {VERSION}")
    return _read(memfd), got


def _write(memfd: int, parts: list[bytes]) -> None:
    for begin in range(0, len(parts), _PARTS_MAX):
        group = parts[begin : begin + _PARTS_MAX]
        written = os.writev(memfd, group)
        if written < sum(map(len, group)):  # of memory the kernel takes all, up to 2 GiB a call
            rest = memoryview(b"".join(group))[written:]
            while rest:
                count = os.write(memfd, rest)
                rest = rest[count:]


def _read(memfd: int) -> Saved:
    try:
        if not fcntl.fcntl(memfd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE:
            raise ValueError("the state's memfd is not sealed")
        size = os.fstat(memfd).st_size
        with mmap.mmap(memfd, size, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
            state: Saved = values.decode(view)
        return state
    finally:
        os.close(memfd)


def _send(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))], socket.MSG_NOSIGNAL)


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    room = socket.CMSG_SPACE(_PORTION * 4)
    data, ancillary, flags, _ = sock.recvmsg(_HEAD.size, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise OSError("no descriptors are left for those of the running relay: raise LimitNOFILE")
    if not data:
        raise ConnectionResetError("the running relay has sent no state")
    return data, list(fds)
