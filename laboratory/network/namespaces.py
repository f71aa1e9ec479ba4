"""Network namespaces with one interface each, whose packets a descriptor carries. Linux, root only.

Nothing has a name: a namespace lives as long as a descriptor or a process is in it, so nothing is left when
the processes of a test have ended.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from typing import NamedTuple

# linux/sched.h, linux/if_tun.h, linux/sockios.h, linux/if.h
_CLONE_NEWNET = 0x4000_0000
_TUNSETIFF = 0x4004_54CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU, _SIOCGIFFLAGS, _SIOCSIFFLAGS = (
    0x8916,
    0x891C,
    0x8922,
    0x8913,
    0x8914,
)
_IFF_UP = 0x1
INTERFACE = "eth0"
#: Of the nodes' interfaces: 65534 addresses.
NETMASK = "255.255.0.0"

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace(NamedTuple):
    """A network namespace: a descriptor of it, and one that reads and writes the packets of its interface."""

    fd: int
    packets: int


def missing() -> str:
    """Return why there can be no such namespaces here, or ""."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    try:
        for fd in make("10.87.255.1", 1500):
            os.close(fd)
    except OSError as error:
        return f"network namespaces with a tun device cannot be made here: {error}"
    return ""


def make(address: str, mtu: int) -> Namespace:
    """Return a new namespace whose only interface has this IPv4 address; the caller closes both descriptors.

    Raises:
        OSError: the kernel has no namespaces or no tun devices, or this is not root.
    """
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.unshare(ctypes.c_int(_CLONE_NEWNET)))
        fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return Namespace(fd, _interface(address, mtu))
        except BaseException:
            os.close(fd)
            raise
    finally:
        _checked(_libc.setns(ctypes.c_int(home), ctypes.c_int(_CLONE_NEWNET)))
        os.close(home)


def enter(path: str) -> None:
    """Move the calling thread into the namespace that this path, in /proc/PID/fd or ns, stands for."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(_CLONE_NEWNET)))
    finally:
        os.close(fd)


def _interface(address: str, mtu: int) -> int:
    packets = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(packets, _TUNSETIFF, struct.pack("16sH22x", INTERFACE.encode(), _IFF_TUN | _IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, NETMASK)):
                packed = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
                _set(control, INTERFACE, request, packed)
            _set(control, INTERFACE, _SIOCSIFMTU, struct.pack("i", mtu))
            for name in ("lo", INTERFACE):
                asked = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s24x", name.encode()))
                flags = struct.unpack_from("H", asked, 16)[0]
                _set(control, name, _SIOCSIFFLAGS, struct.pack("H", flags | _IFF_UP))
    except BaseException:
        os.close(packets)
        raise
    return packets


def _set(control: socket.socket, name: str, request: int, value: bytes) -> None:
    fcntl.ioctl(control, request, struct.pack("16s24s", name.encode(), value))


def _checked(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
