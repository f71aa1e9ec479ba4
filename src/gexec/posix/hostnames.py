"""Names and addresses of this host: for its certificate, and for jobs that name it.

Addresses come from the kernel (netlink), names from the hosts files, and from DNS only if the
kernel and these files contain no full name.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from struct import Struct

from gexec import limits
from gexec.errors import ConfigError
from gexec.posix.trusted import read_trusted
from gexec.security.certificate import NAMES_MAX, name_is_acceptable

ALWAYS = ("localhost", "127.0.0.1", "::1")
HOSTS_FILE = "/etc/hosts"
#: Maximum of a hosts file; those of large clusters are long, but smaller than this.
HOSTS_MAX_BYTES = 16 * 1024 * 1024

_NLMSG_HEAD = Struct("=IHHII")
_IFADDRMSG = Struct("=BBBBI")
_ATTRIBUTE = Struct("=HH")
_RTM_NEWADDR, _RTM_GETADDR, _NLMSG_DONE, _NLMSG_ERROR = 20, 22, 3, 2
_NLM_F_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2


def node_names(extra: Iterable[str] = (), *, find: bool = True, hosts_path: str = "") -> tuple[str, ...]:
    """Return this node's names and addresses, without duplicates, the configured ones first.

    Args:
        extra: configured names and IP literals.
        find: also return the host's short and full name, the addresses of its interfaces, the names
            of these addresses in the hosts files, and ALWAYS.
        hosts_path: a file in the format of /etc/hosts that is read before /etc/hosts; empty = none.

    Returns:
        At most NAMES_MAX names, each valid in a certificate.

    Raises:
        ConfigError: a configured name is not valid in a certificate, there are too many, or no name is left.
    """
    configured = list(dict.fromkeys(extra))
    for name in configured:
        if not name_is_acceptable(name):
            raise ConfigError(
                f"node name {name[:80]!r}: expected an IP address or a host name of letters, digits, "
                "hyphens, underscores and dots"
            )
    if len(configured) > NAMES_MAX:
        raise ConfigError(f"{len(configured)} node names: at most {NAMES_MAX} fit into a certificate")
    found = _found(hosts_path) if find else []
    names = tuple(dict.fromkeys(configured + [name for name in found if name_is_acceptable(name)]))
    if not names:
        raise ConfigError("this node has no name: give it one with `names`")
    return names[:NAMES_MAX]


def _found(hosts_path: str) -> list[str]:
    host = os.uname().nodename
    addresses = interface_addresses()
    # Only a hosts file's lines about this host's addresses or name are used.
    given: list[str] = []
    for path in (hosts_path, HOSTS_FILE):
        for address, names in _hosts_entries(path) if path else ():
            if address in addresses or host in names:
                given += [address, *names]
    names = [host, host.partition(".")[0], *given, *ALWAYS, *addresses]
    if not any(name.startswith(f"{names[1]}.") for name in names):
        names.insert(1, _full_name(host))
    return names


def _full_name(host: str) -> str:
    try:
        canonical = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)[0][3]
    except (OSError, UnicodeError):
        return host
    short = host.partition(".")[0]
    return canonical if canonical.startswith(f"{short}.") else host


def _hosts_entries(path: str) -> list[tuple[str, list[str]]]:
    entries = []
    for line in _content(path).decode("utf-8", "replace").splitlines():
        words = line.partition("#")[0].split()
        try:
            entries.append((str(ip_address(words[0].partition("%")[0])), words[1:]))
        except (IndexError, ValueError):
            continue
    return entries


def _content(path: str) -> bytes:
    if path != HOSTS_FILE:  # whoever writes it gives this node the name, and so the certificate, of another
        return read_trusted(
            path, what="hosts file", max_bytes=HOSTS_MAX_BYTES, private=False, error=ConfigError,
            missing="make it, or leave GEXEC_HOSTS and `hosts` out",
        )  # fmt: skip
    try:  # the system's own: libc reads it, too, whatever its owner is
        with open(path, "rb") as file:
            content = file.read(HOSTS_MAX_BYTES + 1)
    except OSError:
        return b""
    if len(content) > HOSTS_MAX_BYTES:
        raise ConfigError(f"hosts file {path}: larger than {HOSTS_MAX_BYTES} bytes: is this the right file?")
    return content


def interface_addresses() -> list[str]:
    """Return the addresses of all interfaces of this network namespace, without link-local ones.

    Empty if netlink does not work (in a sandbox); then only the other names are used.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as netlink:
            netlink.settimeout(limits.CONNECT_TIMEOUT_S)
            netlink.bind((0, 0))
            size = _NLMSG_HEAD.size + _IFADDRMSG.size
            netlink.send(
                _NLMSG_HEAD.pack(size, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0)
                + _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
            )
            found: dict[str, None] = {}
            while _take(netlink.recv(256 * 1024), found):
                pass
            return list(found)
    except OSError:
        return []


def _take(datagram: bytes, found: dict[str, None]) -> bool:
    """Add a datagram's addresses to ``found``; False when it was the last one."""
    position = 0
    while position + _NLMSG_HEAD.size <= len(datagram):
        length, kind, _, _, _ = _NLMSG_HEAD.unpack_from(datagram, position)
        if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < _NLMSG_HEAD.size:
            return False
        if kind == _RTM_NEWADDR:
            address = _address(datagram[position + _NLMSG_HEAD.size : position + length])
            if address:
                found[address] = None
        position += (length + 3) & ~3
    return bool(datagram)


def _address(message: bytes) -> str:
    """Return the address of one RTM_NEWADDR message (rtnetlink(7)); empty for link-local ones."""
    attributes: dict[int, bytes] = {}
    position = _IFADDRMSG.size
    while position + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, position)
        if length < _ATTRIBUTE.size:
            break
        attributes[kind] = message[position + _ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3
    # On a point-to-point link, IFA_ADDRESS is the address of the other end.
    raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b""
    if len(raw) not in (4, 16):
        return ""
    address = ip_address(raw)
    return "" if address.is_link_local else str(address)
