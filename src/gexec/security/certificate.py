"""Certificates of the cluster: an authority that every holder of the key builds identically, and leaves.

In simple mode no certificate is in a file: :func:`authority` depends only on the key and the realm, so two
nodes that build it separately get the same bytes and accept each other's leaves. In hardened mode only the
administrator has the authority's key, and a node's key signs its leaves (``security.nodecert``). Pure: time,
serial number and keys are arguments. Source: docs/decisions/0005-certificates.md.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from hashlib import sha256
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gexec.errors import AuthError
from gexec.security.keys import RSA, VerifyKey
from gexec.security.signers import AUTHORITY_PREFIX
from gexec.security.signing import SigningKey

NAMES_MAX = 256
NAME_MAX_BYTES = 253
#: A leaf is valid from this long before it is made: a clock that is wrong by hours should be reported by the
#: credential's error, which contains the difference, not by a failed TLS handshake.
BACKDATE_S = 24 * 3600
SERIAL_MAX = 2**159 - 1

_ALWAYS_FROM = datetime.datetime(2000, 1, 1)
_ALWAYS_UNTIL = datetime.datetime(9999, 12, 31, 23, 59, 59)
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def authority(key: SigningKey, realm: str) -> bytes:
    """Return the cluster's CA certificate in DER: the same bytes for the same key and realm.

    Reads no clock: it is valid from the year 2000 to the end of 9999; the cluster's lifetime depends on its
    key. Path length 1: in hardened mode it signs nodes' certificates, and their keys sign leaves.
    """
    serial = int.from_bytes(sha256(key.public.der + realm.encode()).digest()[:16]) | 1
    builder = (
        x509.CertificateBuilder()
        .subject_name(authority_name(key, realm))
        .issuer_name(authority_name(key, realm))
        .public_key(key.public.public)
        .serial_number(serial)
        .not_valid_before(_ALWAYS_FROM)
        .not_valid_after(_ALWAYS_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(usage(certificates=True), critical=True)
        .add_extension(key_identifier(key), critical=False)
    )
    return signed(builder, key)


def leaf(
    key: SigningKey,
    *,
    issuer: bytes,
    public_key_der: bytes,
    names: Sequence[str],
    now_s: float,
    ttl_s: float,
    serial: int,
) -> bytes:
    """Return a node's certificate in DER, for both sides of its links.

    Args:
        key: signs it: the cluster's, or in hardened mode the node's.
        issuer: the certificate of that key in DER: ``authority(key, realm)``, or the node's.
        public_key_der: the node's P-256 key as SubjectPublicKeyInfo.
        names: 1 to NAMES_MAX DNS names and IP literals of the node; a name that is an IP literal
            becomes an address, everything else a DNS name.
        now_s: UNIX time; valid from BACKDATE_S before it until ``ttl_s`` after it.
        serial: 1 to SERIAL_MAX, newly random.

    Raises:
        AuthError: the key or a name is not acceptable, or the issuer's certificate is of another key.
    """
    public = _node_key(public_key_der)
    alternatives = alternatives_of(names)
    above = x509.load_der_x509_certificate(issuer)
    if above.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != key.public.der:
        raise AuthError("certificate and private key do not belong together: get a certificate for this key")
    # The subject is only for people: the alternative names are checked.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(alternatives[0].value)[:64])])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above.subject)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(key_identifier(key).digest, None, None), critical=False)
    )
    return signed(dated(builder, now_s, ttl_s, serial), key)


def dated(
    builder: x509.CertificateBuilder, now_s: float, ttl_s: float, serial: int
) -> x509.CertificateBuilder:
    """Return the builder with a serial number, and valid from BACKDATE_S before now until ``ttl_s`` after."""
    if not 1 <= serial <= SERIAL_MAX:
        raise ValueError(f"serial number {serial}: expected 1 to {SERIAL_MAX}")
    now = datetime.datetime.fromtimestamp(now_s, datetime.UTC).replace(microsecond=0, tzinfo=None)
    return (
        builder.serial_number(serial)
        .not_valid_before(now - datetime.timedelta(seconds=BACKDATE_S))
        .not_valid_after(now + datetime.timedelta(seconds=ttl_s))
    )


def name_is_acceptable(name: str) -> bool:
    """Tell whether a certificate can hold this DNS name or IP literal."""
    try:
        _alternative(name)
    except AuthError:
        return False
    return True


def authority_name(key: SigningKey, realm: str) -> x509.Name:
    """Return the subject of a key's authority."""
    # Contains the key's id, so that the authorities of an old and a new key are not confused.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"gexec cluster {realm}"[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{AUTHORITY_PREFIX}{key.key_id.hex()}"),
        ]
    )


def key_identifier(key: SigningKey | VerifyKey) -> x509.SubjectKeyIdentifier:
    """Return the identifier of a key that certificates below it name."""
    der = key.public.der if isinstance(key, SigningKey) else key.der
    return x509.SubjectKeyIdentifier(sha256(der).digest()[:20])


def usage(*, certificates: bool) -> x509.KeyUsage:
    """Return what a key may be used for: certificates only, or TLS only."""
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def signed(builder: x509.CertificateBuilder, key: SigningKey) -> bytes:
    """Return the certificate in DER, signed with this key."""
    algorithm = SHA256() if key.algorithm == RSA else None
    return builder.sign(key.private, algorithm).public_bytes(Encoding.DER)


def _node_key(der: bytes) -> EllipticCurvePublicKey:
    try:
        public = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise AuthError("the key to certify is not a public key in DER") from cause
    if not isinstance(public, EllipticCurvePublicKey) or not isinstance(public.curve, SECP256R1):
        raise AuthError("the key to certify is not a P-256 key: node certificates need one")
    return public


def alternatives_of(names: Sequence[str]) -> list[x509.DNSName | x509.IPAddress]:
    """Return 1 to NAMES_MAX names and addresses as alternative names, each once; AuthError for others."""
    if not 1 <= len(names) <= NAMES_MAX:
        raise AuthError(f"{len(names)} names to certify: expected 1 to {NAMES_MAX}")
    unique = dict.fromkeys(name.removesuffix(".").lower() for name in names)
    return [_alternative(name) for name in unique]


def _alternative(name: str) -> x509.DNSName | x509.IPAddress:
    try:
        if "%" not in name:
            return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    labels = name.split(".")
    if (
        not 1 <= len(name) <= NAME_MAX_BYTES
        or not set(name) <= _NAME_CHARACTERS
        or not all(1 <= len(label) <= 63 for label in labels)
        or labels[-1].isdigit()  # 10.1 or 127.1: an address to some resolvers, a name to others
    ):
        raise AuthError(
            f"name to certify {name[:80]!r}: expected an IP address or a host name of letters, digits, "
            "hyphens, underscores and dots"
        )
    return x509.DNSName(name)
