"""Names to addresses, on the client: GEXEC_HOSTS, literals, the system's resolver, what gmond told.

A name that does not resolve stays in the job without an address; the root reports that node as
not started, with the reason, and runs the others. Part of the thin client: ``_socket`` instead of socket.
"""

from __future__ import annotations

import _socket

from gexec import limits
from gexec.errors import UsageError
from gexec.select.nodes import folded, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gexec.select.nodes import Node

_THREADS_MAX = 16
#: An interface's name has at most 15 characters (IFNAMSIZ).
_INTERFACE_MAX = 15
#: What would end an address, or the list that it stands in.
_ZONE_NOT = frozenset("[],/% ")
#: What stands for addresses that the name server did not give (core.jobspec.why_unresolved).
_NO_ANSWER = "?"


def resolve(
    nodes: Sequence[Node], default_port: int, hosts_path: str | None, told: Mapping[str, str] | None = None
) -> list[bytes]:
    """Return the addresses of each node as a job has them (``JobSpec.addresses``), in the order of RFC 8305.

    Asks the resolver for at most limits.RESOLVE_MAX_S, about all names at the same time.

    Args:
        nodes: (name, port or 0) in rank order.
        default_port: for names without their own.
        hosts_path: the file of GEXEC_HOSTS, or None.
        told: folded name -> address, for names that do not resolve. Whoever told need not be
            trusted: a daemon that is dialled must show a certificate with the name.

    Raises:
        UsageError: the file cannot be read or is malformed.
    """
    text = _hosts_text(hosts_path) if hosts_path else ""
    table = _parsed(text, hosts_path) if hosts_path else {}
    found: dict[str, str] = {}
    unknown: dict[str, None] = {}
    for name, _ in nodes:
        if name in found:
            continue
        addresses = table.get(folded(name))
        if addresses is not None:
            found[name] = _checked(addresses, name, hosts_path or "", text)
        elif numeric := _numeric(name):
            found[name] = numeric
        else:
            unknown[name] = None
    if unknown:
        found.update(_ask(list(unknown)))
    if told:
        for name, addresses in found.items():
            if not addresses or addresses[0] == _NO_ANSWER:
                found[name] = _numeric(told.get(folded(name), "")) or addresses
    return _bounded([_entry(found[name], port or default_port) for name, port in nodes])


def read_hosts(path: str) -> dict[str, str]:
    """Return the table of a file in the format of /etc/hosts; UsageError names file and cause."""
    return _parsed(_hosts_text(path), path)


def _hosts_text(path: str) -> str:
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
    return decoded(raw, where)


def _parsed(text: str, path: str) -> dict[str, str]:
    from gexec.select import hosts

    try:
        return hosts.parse(text)
    except UsageError as error:
        raise UsageError(f"GEXEC_HOSTS file {path}: {error}") from error


def _checked(addresses: str, name: str, path: str, text: str) -> str:
    """Return a table's addresses of a node in their usual form."""
    if _literal(addresses):  # nearly all
        return addresses
    numeric = []
    for address in addresses.split(" "):
        numeric.append(_numeric(address))
        if not numeric[-1]:
            from gexec.select.hosts import line_of

            line = line_of(text, folded(name), address)
            where = f"GEXEC_HOSTS file {path}: line {line}"
            raise UsageError(f"{where}: {quoted(address)} is not an IP address (node {name[:80]})")
    return ",".join(numeric)


def _literal(text: str) -> bool:
    """Tell whether the text is a numeric IPv4 or IPv6 address without a zone."""
    if not text or (":" not in text and not text[-1].isdigit()):
        return False
    try:
        _socket.inet_pton(_socket.AF_INET6 if ":" in text else _socket.AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


def _numeric(text: str) -> str:
    """Return a numeric address as it is dialled, "" for anything else.

    A zone becomes the name of its interface, since the numbers of interfaces differ from host to host.
    """
    address, percent, zone = text.partition("%")
    if not _literal(address):
        return ""
    if not percent:
        return address
    if ":" not in address or not 1 <= len(zone) <= _INTERFACE_MAX or not _ZONE_NOT.isdisjoint(zone):
        return ""
    return f"{address}%{_interface(int(zone)) or zone}" if zone.isascii() and zone.isdigit() else text


def _interface(index: int) -> str:
    try:
        return _socket.if_indextoname(index)
    except (OSError, OverflowError):
        return ""


def _entry(addresses: str, port: int) -> bytes:
    if not addresses or addresses[0] == _NO_ANSWER:
        return addresses.encode()
    each = [
        f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for address in addresses.split(",")
    ]
    return ",".join(each).encode()


def _bounded(entries: list[bytes]) -> list[bytes]:
    """Leave out the last addresses of nodes with several, where all together are too long for a job."""
    most = limits.ADDRESSES_MAX
    while most > 1 and sum(map(len, entries)) > limits.JOB_ADDRESSES_BYTES:
        most //= 2
        entries = [b",".join(entry.split(b",")[:most]) for entry in entries]
    return entries


def _lookup(name: str) -> str:
    """Return the addresses that the resolver gives for a name, "" if there are none; or _NO_ANSWER."""
    # Bytes, since a str would be put through encodings.idna, whose import costs more than the lookup.
    try:
        raw = name.encode("utf-8", "surrogateescape")
        answers = _socket.getaddrinfo(raw, None, 0, _socket.SOCK_STREAM)
    except _socket.gaierror as error:
        if error.errno == _socket.EAI_AGAIN:
            return _NO_ANSWER
        # /etc/hosts has names without the dot.
        return _lookup(name[:-1]) if name.endswith(".") and len(name) > 1 else ""
    except (OSError, ValueError):
        return ""
    return ",".join(in_turn([_zoned(answer[4]) for answer in answers]))


def _zoned(place: tuple[object, ...]) -> str:
    """Return the address of getaddrinfo's (address, port) or (address, port, flow, index of the zone)."""
    zone = _interface(int(str(place[3]))) if len(place) > 3 and place[3] else ""
    return f"{place[0]}%{zone}" if zone else str(place[0])


def in_turn(addresses: Sequence[str]) -> list[str]:
    """Return addresses in the order in which they are tried, at most limits.ADDRESSES_MAX.

    The resolver has sorted them by what is reached best (RFC 6724); after each one of the first family
    comes one of the other (RFC 8305, 4), so that a family that does not work costs one attempt.
    """
    first = [address for address in dict.fromkeys(addresses) if (":" in address) == (":" in addresses[0])]
    other = [address for address in dict.fromkeys(addresses) if address not in first]
    both = min(len(first), len(other))
    mixed = [address for pair in zip(first, other, strict=False) for address in pair]
    return [*mixed, *first[both:], *other[both:]][: limits.ADDRESSES_MAX]


def _ask(names: list[str]) -> dict[str, str]:
    """Look names up, all at the same time, for at most limits.RESOLVE_MAX_S."""
    from _thread import allocate_lock, start_new_thread

    found: dict[str, str] = {}
    todo = list(names)
    all_done = allocate_lock()
    all_done.acquire()

    def work() -> None:
        try:
            while True:
                name = todo.pop()
                found[name] = _lookup(name)
                if len(found) == len(names):
                    all_done.release()
                    return
        except (IndexError, RuntimeError):
            return  # nothing is left to do, or two threads have seen that all is done

    threads = 0
    for _ in range(min(_THREADS_MAX, len(names))):
        try:
            start_new_thread(work, ())
        except RuntimeError:  # the user may have no more
            break
        threads += 1
    if not threads:
        return {name: _lookup(name) for name in names}
    all_done.acquire(True, limits.RESOLVE_MAX_S)
    todo.clear()
    late = f"{_NO_ANSWER}{max(1, round(limits.RESOLVE_MAX_S))}"
    return {name: found.get(name, late) for name in names}


def origin_ipv4(addresses: Sequence[bytes]) -> bytes:
    """Return the four bytes of this host's address towards the nodes (127.0.0.1 if there is none).

    Asks the kernel for the route by a UDP socket that is connected and never sends.
    """
    for address in b",".join(addresses).split(b","):
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
