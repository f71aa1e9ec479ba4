"""TLS of the links between daemons: version 1.3 only; both sides show a certificate of the cluster.

OpenSSL checks that the certificate is the cluster's. This module checks that it contains the dialled name,
after the handshake and before anything is sent, because OpenSSL's own check does not report the names in the
refused certificate. Source: docs/decisions/0005-certificates.md.
"""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gexec import limits
from gexec.security.names import certified, is_everybodys, normal
from gexec.security.signers import AUTHORITY_PREFIX

if TYPE_CHECKING:
    from gexec.relay.transports import ClientSocket

#: The protocol versions that this side speaks, newest first, as names for TLS to choose from (RFC 7301).
_VERSIONS: Final = {
    f"gexec/{version}": version for version in range(limits.PROTOCOL_VERSION, limits.PROTOCOL_OLDEST - 1, -1)
}
#: Added to the link's handshake timeout for the event loop's own, so that the link's comes first.
HANDSHAKE_BACKSTOP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class LinkContexts:
    """The contexts to dial and accept links; replaced as a whole when the certificate is renewed."""

    dial: ssl.SSLContext
    accept: ssl.SSLContext

    @property
    def authority_ids(self) -> list[str]:
        """The key ids of the authorities whose certificates are accepted, in hexadecimal digits."""
        subjects: list[Any] = [each["subject"] for each in self.accept.get_ca_certs()]
        values = [str(value) for subject in subjects for part in subject for _, value in part]
        return [
            value.removeprefix(AUTHORITY_PREFIX) for value in values if value.startswith(AUTHORITY_PREFIX)
        ]


def link_contexts(key_pem: bytes, certificate_pem: bytes, authority_pem: bytes) -> LinkContexts:
    """Return the contexts for one certificate.

    Args:
        key_pem: the leaf's private key, unencrypted.
        certificate_pem: the leaf.
        authority_pem: one or more certificates, one of which must have signed a peer's.

    Raises:
        ssl.SSLError: key and certificate do not belong together, or are not PEM.
    """
    dial = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    accept = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accept.verify_mode = ssl.CERT_REQUIRED
    # Links are kept for minutes and the pool never resumes sessions, so tickets would be useless.
    accept.num_tickets = 0
    dial.check_hostname = False  # link.connected() does it, with ``refusal``
    for context in (dial, accept):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(list(_VERSIONS))
        bound_certificates(context)
        context.load_verify_locations(cadata=authority_pem.decode("ascii"))
        _load_pair(context, key_pem, certificate_pem)
    return LinkContexts(dial, accept)


def bound_certificates(context: ssl.SSLContext) -> bool:
    """Let OpenSSL refuse certificates of more than CERTIFICATES_MAX_BYTES before it reads them.

    The ssl module has no way to do this. The pointer to OpenSSL's context follows the head of CPython's
    object; the limit is set only if what is read there is OpenSSL's default, or ours.

    Return whether it could be done: not with an ssl module that hides OpenSSL's functions.
    """
    if _CONTROL is None:
        return False
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    if _CONTROL(pointer, _GET_MAX_CERT_LIST, 0, None) not in (_DEFAULT_BYTES, limits.CERTIFICATES_MAX_BYTES):
        return False
    _CONTROL(pointer, _SET_MAX_CERT_LIST, limits.CERTIFICATES_MAX_BYTES, None)
    return True


def _control() -> Any:
    """Return OpenSSL's SSL_CTX_ctrl of the ssl module, None if it cannot be reached."""
    try:
        control = ctypes.CDLL(getattr(_ssl, "__file__", None)).SSL_CTX_ctrl
    except (OSError, AttributeError):
        return None
    control.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
    control.restype = ctypes.c_long
    return control


#: Found when this module is loaded: a confined relay opens no files.
_CONTROL: Final = _control()
#: From OpenSSL's ssl.h.
_GET_MAX_CERT_LIST: Final = 50
_SET_MAX_CERT_LIST: Final = 51
_DEFAULT_BYTES: Final = 100 * 1024


def _load_pair(context: ssl.SSLContext, key_pem: bytes, certificate_pem: bytes) -> None:
    # The ssl module reads key and certificate only from a path; a memfd is never on a disk.
    memfd = os.memfd_create("gexec-certificate", os.MFD_CLOEXEC)
    try:
        os.write(memfd, key_pem + b"\n" + certificate_pem)
        context.load_cert_chain(f"/proc/self/fd/{memfd}")
    finally:
        os.close(memfd)


def certificate_of(transport: asyncio.BaseTransport | ClientSocket) -> dict[str, Any]:
    """Return the peer's certificate as the ssl module shows it, {} if there is none."""
    return transport.get_extra_info("peercert") or {}


def version_of(transport: asyncio.BaseTransport | ClientSocket) -> int | None:
    """Return the protocol version of a link between daemons; None for a client's, which has no TLS.

    Version 1 did not name itself in the handshake.
    """
    tls = transport.get_extra_info("ssl_object")
    return None if tls is None else _VERSIONS.get(tls.selected_alpn_protocol() or "", 1)


def holds(names: Iterable[tuple[str, str]], wanted: str) -> bool:
    """Tell whether a certificate with these alternative names is for a node."""
    return normal(wanted) in certified(names)


def refusal(names: list[tuple[str, str]], wanted: str, address: str) -> str:
    """Return why a daemon with this certificate at this address is not the wanted one, "" if it is."""
    if holds(names, wanted):
        return ""
    values = [value for _, value in names if not is_everybodys(value)] or [value for _, value in names]
    shown = ", ".join([value[:_NAME_SHOWN] for value in values[:_NAMES_SHOWN]]) or "a daemon without a name"
    if len(values) > _NAMES_SHOWN:
        shown += f" and {len(values) - _NAMES_SHOWN} more"
    name = wanted[:_NAME_SHOWN]
    return (
        f"its certificate was refused: {address} is {shown}, not {name}: correct the address of {name}, "
        f"or start the gexecd there with `--name {name.partition('%')[0]}`"
    )


_NAMES_SHOWN = 3
_NAME_SHOWN = 80

#: OpenSSL's reasons, and their meaning here.
_REASONS = {
    "HTTP_REQUEST": "it sent plain HTTP",
    "HTTPS_PROXY_REQUEST": "it sent plain HTTP",
    "WRONG_VERSION_NUMBER": "its data is not TLS",
    "PACKET_LENGTH_TOO_LONG": "its data is not TLS",
    "RECORD_LAYER_FAILURE": "its data is not TLS",
    "UNSUPPORTED_PROTOCOL": "it does not support TLS 1.3",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it sent no certificate",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": "bytes were altered on the way",
    "UNEXPECTED_EOF_WHILE_READING": "it closed the connection",
    "EXCESSIVE_MESSAGE_SIZE": f"its certificates are over {limits.CERTIFICATES_MAX_BYTES} bytes",
}


def is_cut(error: BaseException) -> bool:
    """Tell whether a connection has failed because the peer has ended it."""
    return isinstance(error, ConnectionError | ssl.SSLEOFError)


def failure(error: BaseException) -> str:
    """Return in a few words why a link could not be made, or why it ended."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        told = _REASONS.get(reason)
        if told is None:
            told = reason.lower().replace("_", " ")
            _, alert, why = told.partition(" alert ")
            told = f"it refused this side ({why})" if alert else told
        return f"TLS failed: {told}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused (gexecd does not run there)"
    if isinstance(error, ConnectionResetError):
        return "connection reset"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower() if error.errno > 0 else str(error)
    return str(error) or type(error).__name__
