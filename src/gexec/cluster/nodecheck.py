"""What `gexecctl doctor` checks in hardened mode: this node's certificate, the authorities, the signers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence

from gexec.cluster.authority import AUTHORITY_DIR
from gexec.cluster.inspection import UNITS
from gexec.errors import GexecError
from gexec.settings.config import AuthdSettings, GexecdSettings
from gexec.settings.keyfiles import REQUESTED, read_authorities, read_node_certificate, read_signing_key
from gexec.settings.signers import read_signers

#: A certificate or a signer that expires within this time is reported.
SOON_S = 30 * 86_400.0
_DAY_S = 86_400.0
_ANSWER_TIMEOUT_S = 5.0


def check_node(settings: GexecdSettings, now_s: float | None = None) -> Iterator[tuple[bool, str, str]]:
    """Yield (whether it is all right, text, what to do) for the files of hardened mode that are configured.

    Raises:
        GexecError: a file cannot be used.
    """
    now_s = time.time() if now_s is None else now_s
    names: tuple[str, ...] = ()
    if settings.node_certificate:
        certificate = read_node_certificate(settings.node_certificate)
        names = certificate.names
        role = "head" if certificate.is_head else "compute node"
        text = f"certificate {settings.node_certificate}: {role} {', '.join(names)}"
        again = "let the administrator sign it again (`gexecctl keys sign`), copy it here and reload gexecd"
        yield _dated(text, certificate.expires_s, now_s, again)
        if certificate.is_head != settings.submissions:
            fix = "set submissions in gexecd.toml" if certificate.is_head else "set submissions = false"
            yield False, f"{role}, but submissions = {str(settings.submissions).lower()}", fix
        yield from _key(settings, certificate.der)
        known = [der for der in read_authorities(settings.authorities) if _issued(certificate.der, der)]
        if not known:
            where = ", ".join(settings.authorities)
            yield False, f"none of the authorities in {where} has signed this node's certificate", again
    if settings.signers:
        signers = read_signers(settings.signers).trust(names).signers.values()
        if not signers:
            yield False, f"signers {settings.signers}: no signer, so no job can run", "`gexecctl keys signer`"
        for signer in signers:
            where = "" if signer.here else ", not for this node"
            text = f"signer {signer.name} (key {signer.key.key_id.hex()}){where}"
            if signer.expires_s is None:
                yield True, text, ""
            else:
                yield _dated(text, signer.expires_s, now_s, "`gexecctl keys signer` sets another date")


def check_compute_node(
    settings: GexecdSettings, private_key: str, authd_socket: str, units: Sequence[str] = UNITS
) -> Iterator[tuple[bool, str, str]]:
    """Yield, as check_node does, what a compute node has of a head: keys that sign, or authd.

    What a node is, its certificate says; without one, its settings.

    Args:
        private_key: the key that authd would use.
        authd_socket: where authd would listen.
        units: directories with systemd's units.

    Raises:
        GexecError: the certificate cannot be used.
    """
    is_head = settings.submissions
    if settings.node_certificate:
        is_head = read_node_certificate(settings.node_certificate).is_head
    if is_head:
        return
    place = os.path.dirname(settings.node_key)
    candidates = [private_key, AuthdSettings().private_key, f"{AUTHORITY_DIR}/ca_key.pem"]
    if place:
        candidates += [f"{place}/{name}" for name in ("signer_key.pem", "signer_new.pem", "ca_key.pem")]
    found = False
    for path in dict.fromkeys(candidates):
        if os.path.lexists(path) and path != settings.node_key:
            found = True
            yield False, f"compute node, but has the private key {path}", f"run `rm {path}`; change that key"
    stop = "run `systemctl disable --now authd`"
    if _is_served(authd_socket):
        found = True
        yield False, f"compute node, but authd runs at {authd_socket}", stop
    if wanted := [unit for unit in _wanted(units) if os.path.lexists(unit)]:
        found = True
        yield False, f"compute node, but authd starts with it ({wanted[0]})", stop
    if not found:
        yield True, "compute node: no authd, no key that signs jobs or certificates", ""


def _is_served(path: str) -> bool:
    """Tell whether a process listens at a unix socket, whoever it is."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_ANSWER_TIMEOUT_S)
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:  # busy, or not for this user
            return os.path.lexists(path)
    return True


def _wanted(units: Sequence[str]) -> list[str]:
    return [f"{place}/multi-user.target.wants/authd.service" for place in units]


def _dated(text: str, expires_s: float, now_s: float, fix: str) -> tuple[bool, str, str]:
    left_days = (expires_s - now_s) / _DAY_S
    if left_days <= 0:
        return False, f"{text}: expired {-left_days:.0f} days ago", fix
    shown = f"{text}: valid for {left_days:.0f} days"
    return (True, shown, "") if expires_s - now_s > SOON_S else (False, shown, fix)


def _key(settings: GexecdSettings, der: bytes) -> Iterator[tuple[bool, str, str]]:
    from cryptography import x509

    from gexec.security.keys import VerifyKey

    path = settings.node_key
    if os.path.lexists(path) and not os.access(path, os.R_OK):
        yield False, f"node key {path} is not readable by you", "run doctor as root to check it"
        return
    try:
        key = read_signing_key(path, REQUESTED)
    except GexecError as error:
        yield False, str(error), ""
        return
    certified = x509.load_der_x509_certificate(der).public_key()
    if VerifyKey(certified).key_id != key.key_id:  # type: ignore[arg-type]
        fix = "send a new request to the administrator: `gexecctl keys request`"
        yield False, f"node key {path} is not the key of {settings.node_certificate}", fix
    else:
        yield True, f"node key {path}: Ed25519 {key.key_id.hex()}", ""


def _issued(der: bytes, authority: bytes) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    above = x509.load_der_x509_certificate(authority)
    try:
        x509.load_der_x509_certificate(der).verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
