"""Names to addresses, on the client: GEXEC_HOSTS, literals, the system's resolver, what gmond told.

A name that does not resolve stays in the job with an empty address; the root reports that node as
not started and runs the others. Part of the thin client: ``_socket`` instead of socket.
"""

from __future__ import annotations

import _socket

from gexec import limits
from gexec.errors import UsageError
from gexec.select.nodes import folded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gexec.select.nodes import Node

#: From so many names on the resolver is asked by several threads: one slow name must not add up.
_THREADS_FROM = 8
_THREADS_MAX = 16


def resolve(
    nodes: Sequence[Node], default_port: int, hosts_path: str | None, told: Mapping[str, str] | None = None
) -> list[bytes]:
    """Return ``ip:port`` or ``[ip6]:port`` for each node, b"" for a name that does not resolve in time.

    Args:
        nodes: (name, port or 0) in rank order.
        default_port: for names without their own.
        hosts_path: the file of GEXEC_HOSTS, or None.
        told: name (lower case) -> address, for names that do not resolve. Whoever told need not be
            trusted: a daemon that is dialled must show a certificate with the name.

    Raises:
        UsageError: the file cannot be read or is malformed.
    """
    table = read_hosts(hosts_path) if hosts_path else {}
    found: dict[str, str] = {}
    unknown: dict[str, None] = {}
    for name, _ in nodes:
        if name in found:
            continue
        address = table.get(folded(name))
        if address is not None:
            found[name] = _checked(address, name, hosts_path)
        elif _literal(name):
            found[name] = name
        else:
            unknown[name] = None
    if unknown:
        found.update(_ask(list(unknown)))
    if told:
        for name, address in found.items():
            if not address and _literal(told.get(name.lower(), "")):
                found[name] = told[name.lower()]
    return [_endpoint(found[name], port or default_port) for name, port in nodes]


def read_hosts(path: str) -> dict[str, str]:
    """Return the table of a file in the form of /etc/hosts; UsageError names file and cause."""
    from gexec.select import hosts
    from gexec.select.lists import decoded

    where = f"GEXEC_HOSTS file {path}"
    try:
        with open(path, "rb") as file:
            raw = file.read(hosts.HOSTS_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{where}: {getattr(error, 'strerror', None) or error}") from error
    if len(raw) > hosts.HOSTS_MAX_BYTES:
        raise UsageError(f"{where}: over {hosts.HOSTS_MAX_BYTES} bytes")
    text = decoded(raw, where)
    try:
        return hosts.parse(text)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _checked(address: str, name: str, path: str | None) -> str:
    if _literal(address):
        return address
    raise UsageError(f"GEXEC_HOSTS file {path}: {address[:80]!r}, the address of {name[:80]}, is none")


def _literal(text: str) -> bool:
    """Tell whether the text is a numeric IPv4 or IPv6 address."""
    if not text or (":" not in text and not text[-1].isdigit()):
        return False
    try:
        _socket.inet_pton(_socket.AF_INET6 if ":" in text else _socket.AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


def _endpoint(address: str, port: int) -> bytes:
    if not address:
        return b""
    return (f"[{address}]:{port}" if ":" in address else f"{address}:{port}").encode()


def _lookup(name: str) -> str:
    # Bytes, since a str would be put through encodings.idna, whose import costs more than the lookup.
    raw = name.encode("utf-8", "surrogateescape")
    try:
        answers = _socket.getaddrinfo(raw, None, 0, _socket.SOCK_STREAM)
    except (OSError, ValueError):
        return ""
    return str(answers[0][4][0]) if answers else ""


def _ask(names: list[str]) -> dict[str, str]:
    if len(names) < _THREADS_FROM:
        return {name: _lookup(name) for name in names}
    from _thread import allocate_lock, start_new_thread

    found: dict[str, str] = {}
    todo = list(names)
    all_done = allocate_lock()
    all_done.acquire()
    last = allocate_lock()
    running = threads = min(_THREADS_MAX, len(names))

    def work() -> None:
        nonlocal running
        try:
            while True:
                try:
                    name = todo.pop()
                except IndexError:
                    return
                found[name] = _lookup(name)
        finally:
            with last:
                running -= 1
                if not running:
                    all_done.release()

    for _ in range(threads):
        start_new_thread(work, ())
    all_done.acquire(True, limits.RESOLVE_MAX_S)
    todo.clear()
    return {name: found.get(name, "") for name in names}


def origin_ipv4(addresses: Sequence[bytes]) -> bytes:
    """Return the four bytes of this host's address towards the nodes (127.0.0.1 if there is none).

    Asks the kernel for the route by a UDP socket that is connected and never sends.
    """
    for address in addresses:
        host, _, port = address.rpartition(b":")
        if host and not host.startswith(b"["):
            probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
            try:
                probe.connect((host.decode(), int(port)))
                return bytes(_socket.inet_pton(_socket.AF_INET, probe.getsockname()[0]))
            except OSError:
                break
            finally:
                probe.close()
    return b"\x7f\0\0\x01"
