"""`gexecctl doctor`: checks what gexec needs on this host, and suggests fixes.

Each check yields its findings, does not raise for them, and changes nothing. It also works if nothing is
installed yet: then it says what to do first.
"""

from __future__ import annotations

import os
import platform
import pwd
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gexec import limits
from gexec.cluster.findings import OK, PROBLEM, WARNING, Finding
from gexec.errors import AuthError, CredentialError, DaemonError, GexecError, KeyFileError, UsageError
from gexec.native import manner
from gexec.version import VERSION

if TYPE_CHECKING:
    from gexec.security.keys import VerifyKey
    from gexec.settings.config import GexecdSettings

#: All variables of the manuals; tests/unit/cluster/test_cluster_layout.py compares the two.
KNOWN_VARIABLES = {
    "GEXEC_SVRS",
    "GEXEC_GMOND_SVRS",
    "GEXEC_NODELIST",
    "GEXEC_SOCKET",
    "GEXEC_AUTHD_SOCKET",
    "GEXEC_HOSTS",
    "GEXEC_PORT",
    "GEXEC_CLUSTER_DIR",
    "GEXEC_MY_VNN",
    "GEXEC_NPROCS",
    "GEXEC_GPID",
    "GEXEC_NODE",
    "GEXEC_JOB",
    "GEXEC_SPOOL",
    "GEXEC_NATIVE",
    "GEXEC_SSH",
    "GEXEC_TRACEBACK",
}
#: Most names that are listed; of further ones only the number.
_SHOWN_MAX = 8
_ANSWER_TIMEOUT_S = 5.0
#: Smaller differences between the clocks of authd and of this process are not reported.
_CLOCK_TOLERANCE_S = 2.0


@dataclass(frozen=True)
class Subject:
    """What is checked: paths, port and the environment that the commands would use."""

    private_key: str
    public_keys: tuple[str, ...]
    authd_socket: str
    gexecd_socket: str
    port: int
    realm: str
    environ: Mapping[str, str]
    relay_user: str = ""
    logs: tuple[str, ...] = ()
    spool: str = ""
    #: As configured; None = nothing of hardened mode.
    gexecd: GexecdSettings | None = None


def subject(
    private_key: str | None = None, public_key: str | None = None, environ: Mapping[str, str] = os.environ
) -> tuple[Subject, list[Finding]]:
    """Return what gexec would use here, and findings about the configuration files.

    Precedence: the arguments, a local cluster that GEXEC_CLUSTER_DIR names, the files, the defaults.
    """
    from gexec.settings import config

    findings: list[Finding] = []

    def read(reader: Callable[..., object], default: str) -> object | None:
        try:
            settings = reader(environ=environ)
        except GexecError as error:
            findings.append(Finding(PROBLEM, str(error)))
            return None
        if os.path.lexists(default):
            findings.append(Finding(OK, f"configuration {default}"))
        return settings

    found_gexecd = read(config.read_gexecd, config.GEXECD_CONFIG)
    found_authd = read(config.read_authd, config.AUTHD_CONFIG)
    gexecd = found_gexecd if isinstance(found_gexecd, config.GexecdSettings) else config.GexecdSettings()
    authd = found_authd if isinstance(found_authd, config.AuthdSettings) else config.AuthdSettings()
    private, public = authd.private_key, gexecd.public_keys
    if directory := environ.get("GEXEC_CLUSTER_DIR"):
        from gexec.cluster.layout import Layout

        place = Layout.of(directory)
        private, public = str(place.private_key), (str(place.public_key),)
        if not place.public_key.exists() and (place.dir / "ca").exists():
            from gexec.cluster import hardened

            gexecd = hardened.gexecd_settings(gexecd, place, "node001", is_head=True)
            public = ()
    return Subject(
        private_key=private_key or private,
        public_keys=(public_key,) if public_key else public,
        authd_socket=gexecd.authd_socket,
        gexecd_socket=gexecd.socket,
        port=gexecd.port,
        realm=gexecd.realm,
        environ=environ,
        relay_user=gexecd.relay_user,
        logs=tuple(path for path in (*gexecd.audit_log, *authd.audit_log) if path.startswith("/")),
        spool=gexecd.spool,
        gexecd=gexecd if gexecd.signers or gexecd.node_key else None,
    ), findings


def examine(what: Subject) -> Iterator[Finding]:
    """Yield the findings of all checks; each check may depend on those before it."""
    for check in (_versions, _variables, _keys, _node, _host, _authd, _gexecd, _port, _nodes):
        name = check.__name__.lstrip("_")
        try:
            for finding in check(what):
                yield replace(finding, check=name)
        except GexecError as error:
            yield Finding(PROBLEM, str(error), check=name)
        except OSError as error:
            subject_name = f"{error.filename}: " if error.filename else ""
            yield Finding(PROBLEM, f"{subject_name}{error.strerror or error}", check=name)


def _versions(what: Subject) -> Iterator[Finding]:
    yield Finding(
        OK,
        f"gexec {VERSION} ({manner()}), protocol {limits.PROTOCOL_VERSION}, "
        f"Python {platform.python_version()}",
    )
    try:
        import cryptography

        yield Finding(OK, f"cryptography {cryptography.__version__}, {ssl.OPENSSL_VERSION}")
    except ImportError:
        yield Finding(PROBLEM, "the package cryptography is missing", "run `pip install cryptography`")
    if not ssl.HAS_TLSv1_3:
        yield Finding(PROBLEM, f"{ssl.OPENSSL_VERSION} has no TLS 1.3", "install OpenSSL 1.1.1 or later")


def _variables(what: Subject) -> Iterator[Finding]:
    environ = what.environ
    for name in sorted(environ):
        if name.startswith("GEXEC_") and name not in KNOWN_VARIABLES:
            yield Finding(WARNING, f"{name} is set, but is not a variable of gexec", "is it misspelt?")
    hosts = environ.get("GEXEC_HOSTS")
    if hosts:
        from gexec.client.resolve import read_hosts

        names = read_hosts(hosts)
        yield Finding(OK, f"GEXEC_HOSTS {hosts} has {len(names)} names")
    for name in ("GEXEC_SOCKET", "GEXEC_AUTHD_SOCKET"):
        path = environ.get(name)
        if path and not os.path.isabs(path):
            yield Finding(WARNING, f"{name}={path} is not an absolute path", "use an absolute path")


def _keys(what: Subject) -> Iterator[Finding]:
    from gexec.settings.keyfiles import read_signing_key, read_verify_keys

    if not what.public_keys:
        return  # hardened mode: the signers say which keys count
    accepted: dict[bytes, VerifyKey] | None = None
    try:
        accepted = read_verify_keys(what.public_keys)
    except KeyFileError as error:
        yield Finding(PROBLEM, str(error))
    else:
        described = ", ".join(f"{_kind(key.public)} {key.key_id.hex()}" for key in accepted.values())
        yield Finding(OK, f"public key {', '.join(what.public_keys)}: {described}")
    path = what.private_key
    if os.path.lexists(path) and not os.access(path, os.R_OK):
        yield Finding(WARNING, f"private key {path} is not readable by you", "run doctor as root to check it")
        return
    try:
        signing = read_signing_key(path)
    except KeyFileError as error:
        # A node of a hardened cluster neither has nor needs one.
        missing = not os.path.lexists(path)
        yield Finding(WARNING if missing and accepted else PROBLEM, str(error))
        return
    yield Finding(OK, f"private key {path}: {_kind(signing.public.public)} {signing.key_id.hex()}")
    if accepted is not None and signing.key_id not in accepted:
        yield Finding(
            PROBLEM,
            "private and public key are not a pair",
            f"run `openssl pkey -in {path} -pubout -out {what.public_keys[0]}`, on all nodes the same",
        )


def _node(what: Subject) -> Iterator[Finding]:
    """In hardened mode: the node's certificate, authorities, signers, and what only heads may have."""
    if what.gexecd is None:
        return
    from gexec.cluster.nodecheck import check_compute_node, check_node

    for good, text, fix in check_node(what.gexecd):
        yield Finding(OK if good else WARNING if "valid for" in text else PROBLEM, text, fix)
    for good, text, fix in check_compute_node(what.gexecd, what.private_key, what.authd_socket):
        yield Finding(OK if good else PROBLEM, text, fix)


def _host(what: Subject) -> Iterator[Finding]:
    """Check what the daemons of root need and rely on; of a local cluster only its relays."""
    from gexec.cluster import inspection
    from gexec.posix.background import LOG_DIRECTORY
    from gexec.settings import config

    if directory := what.environ.get("GEXEC_CLUSTER_DIR"):
        from gexec.cluster.layout import Layout, State

        state = State.read(Layout.of(directory))
        nodes = () if state is None else state.nodes
        yield from inspection.relays({node.process.pid for node in nodes if node.process is not None})
        return
    yield from inspection.relays()
    if os.geteuid() != 0 and not inspection.is_installed():
        return
    configurations = [config.GEXECD_CONFIG, config.AUTHD_CONFIG]
    sockets = [what.gexecd_socket, what.authd_socket]
    yield from inspection.relay_user(what.relay_user)
    yield from inspection.files([*configurations, *sockets, LOG_DIRECTORY, *what.logs, what.spool])
    yield from inspection.units()
    yield from inspection.cells(what.gexecd.control_group if what.gexecd is not None else "auto")
    yield from inspection.clock()


def _kind(public: object) -> str:
    size = getattr(public, "key_size", None)
    return f"RSA of {size} bits" if size else "Ed25519"


def _authd(what: Subject) -> Iterator[Finding]:
    """Request a credential, and compare its time with the clock of this process."""
    if what.gexecd is not None and not what.gexecd.submissions:
        yield Finding(OK, "users submit no jobs on this node (submissions = false)")
        return
    from gexec.client.authd import obtain_credential
    from gexec.security.credential import verify
    from gexec.settings.keyfiles import read_trust

    before_s = time.time()
    try:
        raw = obtain_credential(b"gexecctl doctor", b"gexecctl-doctor", what.authd_socket)
    except AuthError as error:
        yield Finding(PROBLEM, str(error))
        return
    after_s = time.time()
    yield Finding(OK, f"authd at {what.authd_socket} signs")
    try:
        signers = "" if what.gexecd is None else what.gexecd.signers
        trust = read_trust(what.public_keys, signers, ())
    except GexecError:
        return  # already reported
    try:
        credential = verify(
            raw,
            trust.signers,
            realm=what.realm,
            audience="gexecctl-doctor",
            now_s=after_s,
            skew_s=86_400.0,
        )
    except CredentialError as error:
        yield Finding(PROBLEM, f"authd's signature is refused here: {error}")
        return
    off_s = max(before_s - credential.issued_s, credential.issued_s - after_s, 0.0)
    if off_s > _CLOCK_TOLERANCE_S:
        yield Finding(PROBLEM, f"authd's clock differs from this one by {off_s:.0f} s", "run an NTP client")
    else:
        yield Finding(
            OK, f"clocks of authd and of this process agree; credentials last {credential.ttl_s:g} s"
        )
    me = pwd.getpwuid(os.getuid()).pw_name if credential.uid == os.getuid() else None
    if credential.user != me:
        yield Finding(WARNING, f"authd identifies you as {credential.user} (uid {credential.uid})")


def _gexecd(what: Subject) -> Iterator[Finding]:
    from gexec.posix.unix import connect, exchange
    from gexec.wire.frames import FROM_ROOT, Hello

    if what.gexecd is not None and not what.gexecd.submissions:
        return
    sock = connect(what.gexecd_socket, "gexecd", DaemonError, _ANSWER_TIMEOUT_S)
    hello = Hello(limits.PROTOCOL_VERSION, f"gexecctl {VERSION}")
    answer = exchange(sock, hello, FROM_ROOT, "gexecd", DaemonError)
    if not isinstance(answer, Hello):
        yield Finding(PROBLEM, f"gexecd at {what.gexecd_socket} did not send Hello", "see its log")
    elif answer.version != limits.PROTOCOL_VERSION:
        yield Finding(
            PROBLEM,
            f"gexecd at {what.gexecd_socket} uses protocol {answer.version}, "
            f"this gexec protocol {limits.PROTOCOL_VERSION}",
            "install the same release of both",
        )
    else:
        yield Finding(OK, f"gexecd at {what.gexecd_socket} answers ({answer.software[:80]})")


def _port(what: Subject) -> Iterator[Finding]:
    listeners = list(listening(what.port))
    if not listeners:
        yield Finding(WARNING, f"no process listens on port {what.port}/tcp of this host", "start gexecd")
        return
    users = ", ".join(sorted({_user(uid) for _, uid in listeners}))
    shown = ", ".join(address for address, _ in listeners[:_SHOWN_MAX])
    more = f" and {len(listeners) - _SHOWN_MAX} more" if len(listeners) > _SHOWN_MAX else ""
    yield Finding(OK, f"port {what.port}/tcp has listeners at {shown}{more}, of {users}")


def listening(port: int) -> Iterator[tuple[str, int]]:
    """Yield (address, uid) of the TCP sockets of this network namespace that listen on a port."""
    for path, family in (("/proc/net/tcp", socket.AF_INET), ("/proc/net/tcp6", socket.AF_INET6)):
        try:
            lines = Path(path).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            address, _, port_hex = fields[1].partition(":")
            if fields[3] == "0A" and int(port_hex, 16) == port:  # 0A is TCP_LISTEN
                words = [address[at : at + 8] for at in range(0, len(address), 8)]
                raw = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
                yield socket.inet_ntop(family, raw), int(fields[7])


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _nodes(what: Subject) -> Iterator[Finding]:
    from gexec.client.nodes import choose
    from gexec.client.resolve import resolve
    from gexec.select.sources import Selection
    from gexec.wire.outcome import why_unresolved

    told: list[str] = []
    try:
        selection = Selection()
        selection.warn = told.append
        chosen = choose(selection, what.environ)
    except UsageError as error:
        yield Finding(
            WARNING,
            "; ".join([error.sentence, *error.details]),
            "docs/nodes.md lists the sources of nodes",
        )
        return
    for sentence in told:
        yield Finding(WARNING, sentence, "docs/nodes.md has the rules")
    addresses = resolve(chosen.nodes, what.port, what.environ.get("GEXEC_HOSTS"), chosen.addresses)
    whose: dict[str, list[str]] = {}
    for (name, _), entry in zip(chosen.nodes, addresses, strict=True):
        if why := why_unresolved(entry):
            whose.setdefault(why, []).append(name)
    for why, unknown in whose.items():
        shown = ", ".join(unknown[:_SHOWN_MAX]) + (" ..." if len(unknown) > _SHOWN_MAX else "")
        yield Finding(
            PROBLEM,
            f"{len(unknown)} of the {len(addresses)} nodes in {chosen.source} do not resolve: "
            f"{shown} ({why})",
            "add them to DNS, /etc/hosts or the file of GEXEC_HOSTS",
        )
    if not whose:
        all_ = f"all {len(addresses)} nodes" if len(addresses) > 1 else "the only node"
        yield Finding(OK, f"{all_} in {chosen.source} resolve{'' if len(addresses) > 1 else 's'}")
