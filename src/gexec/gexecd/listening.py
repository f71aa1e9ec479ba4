"""gexecd's TCP listeners: one port on every bound address, IPv4 and IPv6."""

from __future__ import annotations

import errno
import socket

from gexec.errors import ConfigError

_BACKLOG = 1024


def tcp_listeners(addresses: tuple[str, ...], port: int) -> list[socket.socket]:
    """Return non-blocking listening sockets for all addresses on one port.

    Args:
        addresses: IP addresses or names; empty = all of this machine, IPv4 and, if the kernel has
            it, IPv6.
        port: 0 = any free port, the same for all addresses.

    Raises:
        ConfigError: listening failed; the text names the address and the port.
    """
    listeners: list[socket.socket] = []
    try:
        for address in addresses or ("0.0.0.0", "::"):
            try:
                listener = _listener(address, port)
            except OSError as error:
                if address == "::" and not addresses and error.errno != errno.EADDRINUSE:
                    continue  # a kernel without IPv6
                raise ConfigError(
                    f"cannot listen on {address} port {port}: {_reason(error, port)}"
                ) from error
            listeners.append(listener)
            port = listener.getsockname()[1]
    except ConfigError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _reason(error: OSError, port: int) -> str:
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}: give --bind an address of this machine"
    if error.errno == errno.EADDRINUSE and port:
        return f"{error.strerror}: is another gexecd running? choose another port with -P"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address: `ip address` shows those that it has"
    if error.errno == errno.EACCES and port:
        return f"{error.strerror}: only root may listen on it, choose another port with -P"
    return error.strerror or str(error)


def _listener(address: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = found[0]
    listener = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
