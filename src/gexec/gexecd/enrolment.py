"""gexecd's certificate in simple mode: a new key, certified by the authd of this host."""

from __future__ import annotations

import time
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gexec import limits
from gexec.errors import AuthError
from gexec.posix import unix
from gexec.wire.frames import FROM_AUTHD, Certified, Certify, Refused

_RETRY_S = 0.1


class Enrolment(NamedTuple):
    """A key, its certificate and the authority's (PEM), and when the certificate expires."""

    key_pem: bytes
    certificate_pem: bytes
    authority_pem: bytes
    expires_s: float  #: UNIX time


def enrol(authd_socket: str, names: tuple[str, ...], *, patience_s: float) -> Enrolment:
    """Make a P-256 key and get a certificate for it.

    Args:
        patience_s: how long to wait for an authd that is still starting.

    Raises:
        AuthError: authd does not run, or refuses; the text gives the reason.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    answer = _patiently(authd_socket, Certify(public, names), patience_s)
    try:
        certificate = x509.load_der_x509_certificate(answer.certificate)
        authority = x509.load_der_x509_certificate(answer.authority)
    except ValueError as error:
        raise AuthError("authd answered with something that is no certificate") from error
    return Enrolment(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
        authority.public_bytes(Encoding.PEM),
        certificate.not_valid_after_utc.timestamp(),
    )


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
