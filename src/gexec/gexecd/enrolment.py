"""gexecd's certificate: a new key for the relay, certified by the authd of this host or by the node's key.

In simple mode authd certifies it with the cluster's key. In hardened mode the node's own key does, which no
process keeps: :func:`enrol_apart` reads it in a child, so that the relay, a fork of start-up, never has it in
its memory.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, NoReturn, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gexec import limits
from gexec.errors import AuthError, GexecError
from gexec.posix import unix
from gexec.security.certificate import leaf
from gexec.settings.config import GexecdSettings
from gexec.settings.keyfiles import REQUESTED, read_authorities, read_node_certificate, read_signing_key
from gexec.wire.frames import FROM_AUTHD, Certified, Certify, Refused

_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class CertificateSource:
    """Where the certificate comes from: settings, and the names that authd certifies in simple mode."""

    names: tuple[str, ...]
    authd_socket: str
    authorities: tuple[str, ...]
    node_key: str
    node_certificate: str

    @classmethod
    def of(cls, settings: GexecdSettings, names: tuple[str, ...]) -> Self:
        """Return that of a gexecd with these settings."""
        return cls(
            names, settings.authd_socket, settings.authorities, settings.node_key, settings.node_certificate
        )

    def argument(self) -> str:
        """Return it as an argument for the renewal's program."""
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> Self:
        """Return what ``argument`` wrote."""
        told: dict[str, Any] = json.loads(text)
        return cls(
            tuple(told["names"]),
            told["authd_socket"],
            tuple(told["authorities"]),
            told["node_key"],
            told["node_certificate"],
        )


class Enrolment(NamedTuple):
    """A key, its certificate and the authority's (PEM), and when the certificate expires."""

    key_pem: bytes
    certificate_pem: bytes
    authority_pem: bytes
    expires_s: float  #: UNIX time


def enrol(source: CertificateSource, *, patience_s: float) -> Enrolment:
    """Make a P-256 key and get a certificate for it.

    Args:
        patience_s: how long to wait for an authd that is still starting.

    Raises:
        GexecError: authd does not run, or refuses, or a file cannot be used; the text gives the reason.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    authorities = read_authorities(source.authorities)
    if source.node_key:
        chain, expires_s = _by_node_key(source, public)
    else:
        answer = _patiently(source.authd_socket, Certify(public, source.names), patience_s)
        chain = [answer.certificate]
        # authd's may be among the others: each once.
        authorities = list(dict.fromkeys([answer.authority, *authorities]))
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in chain]
        pem = b"".join([_pem(der) for der in authorities])
    except ValueError as error:
        raise AuthError("authd answered with something that is no certificate") from error
    if not source.node_key:
        expires_s = certificates[0].not_valid_after_utc.timestamp()
    return Enrolment(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        b"".join([certificate.public_bytes(Encoding.PEM) for certificate in certificates]),
        pem,
        expires_s,
    )


def enrol_apart(source: CertificateSource, patience_s: float = 0) -> Enrolment:
    """Return what ``enrol`` returns; a node's key is read in a child that then ends.

    Raises:
        GexecError: as for ``enrol``.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _tell(write, source, patience_s)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        answer = file.read()
    os.waitpid(pid, 0)
    try:
        told = json.loads(answer.decode())
    except ValueError as cause:
        raise AuthError(
            "the certificate was not made: the process that reads the node's key ended"
        ) from cause
    if "error" in told:
        raise AuthError(told["error"])
    key, certificate, authority = [text.encode() for text in told["pems"]]
    return Enrolment(key, certificate, authority, told["expires_s"])


def _tell(write: int, source: CertificateSource, patience_s: float) -> NoReturn:
    """In a child: write the enrolment, or why there is none, and end."""
    told: dict[str, object] = {"error": "the certificate was not made"}
    try:
        enrolment = enrol(source, patience_s=patience_s)
        told = {"pems": [pem.decode() for pem in enrolment[:3]], "expires_s": enrolment.expires_s}
    except GexecError as error:
        told = {"error": str(error)}
    finally:
        try:
            with os.fdopen(write, "wb") as file:
                file.write(json.dumps(told).encode())
        finally:
            os._exit(0)


def _by_node_key(source: CertificateSource, public: bytes) -> tuple[list[bytes], float]:
    """Return the certificates of the relay's key and of the node's, and when the first one expires."""
    certificate = read_node_certificate(source.node_certificate)
    now_s = time.time()
    left_s = certificate.expires_s - now_s
    if left_s <= 0:
        raise AuthError(
            f"node certificate {source.node_certificate}: expired {-left_s / 86_400:.1f} days ago: let the "
            "administrator sign a new one (`gexecctl keys sign`)"
        )
    ttl_s = min(limits.CERTIFICATE_TTL_S, left_s)
    try:
        made = leaf(
            read_signing_key(source.node_key, REQUESTED),
            issuer=certificate.der,
            public_key_der=public,
            names=certificate.names,
            now_s=now_s,
            ttl_s=ttl_s,
            serial=int.from_bytes(os.urandom(16)) | 1,
        )
    except AuthError as error:
        raise AuthError(f"{source.node_key}, {source.node_certificate}: {error}") from error
    return [made, certificate.der], now_s + ttl_s


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def _patiently(path: str, request: Certify, patience_s: float) -> Certified:
    until_s = time.monotonic() + patience_s
    while True:
        try:
            sock = unix.connect(path, "authd", AuthError, limits.AUTHD_IO_DEADLINE_S)
        except AuthError:
            if time.monotonic() >= until_s:
                raise
            time.sleep(_RETRY_S)
            continue
        answer = unix.exchange(sock, request, FROM_AUTHD, "authd", AuthError)
        if isinstance(answer, Certified):
            return answer
        if isinstance(answer, Refused):
            raise AuthError(f"authd gave this node no certificate: {answer.text}")
        raise AuthError("authd answered with something else than a certificate")
