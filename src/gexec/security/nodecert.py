"""Certificates of nodes in hardened mode: the authority signs the node's key, which signs the node's leaves.

OpenSSL enforces what such a key may do, on every link: its leaves have no other names than the authority
has given to the node (name constraints), it signs no other authority (path length 0), and the issuer of its
leaves is the subject of this certificate, which holds the node's name and its role. So a node, even with its
key, cannot become another node or a head. Pure. Source: docs/decisions/0027-hardened-mode.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from gexec.errors import AuthError
from gexec.security.certificate import (
    alternatives_of,
    authority_name,
    dated,
    key_identifier,
    signed,
    usage,
)
from gexec.security.keys import VerifyKey
from gexec.security.signers import HEAD, NODE, ROLE_OID
from gexec.security.signing import SigningKey

#: X.520 allows this many characters for the common name, which holds the node's name.
NODE_NAME_MAX: Final = 64

_ROLE: Final = ObjectIdentifier(ROLE_OID)
_EVERY_ADDRESS: Final = ("0.0.0.0/0", "::/0")


class NodeCertificate(NamedTuple):
    """What a node's certificate says.

    Attributes:
        name: the node's name in the inventory, by which it can be revoked.
        names: all its names and addresses, with ``name``.
        is_head: it may bring jobs of users to other nodes.
        authority_id: the id of the authority's key, in hexadecimal digits.
        expires_s: UNIX time.
        der: the certificate.
    """

    name: str
    names: tuple[str, ...]
    is_head: bool
    authority_id: str
    expires_s: float
    der: bytes


def node_certificate(
    key: SigningKey,
    *,
    realm: str,
    public: VerifyKey,
    name: str,
    names: Sequence[str] = (),
    is_head: bool,
    now_s: float,
    ttl_s: float,
    serial: int,
) -> bytes:
    """Return a node's certificate in DER.

    Args:
        key, realm: of the authority.
        public: the node's Ed25519 key.
        name: the node's name: a host name of at most NODE_NAME_MAX characters.
        names: its other names and addresses.
        now_s, ttl_s, serial: as for ``certificate.leaf``.

    Raises:
        AuthError: the key or a name is not acceptable.
    """
    if not isinstance(public.public, Ed25519PublicKey):
        raise AuthError("the node's key is not an Ed25519 key: make it with `gexecctl keys request`")
    alternatives = alternatives_of([name, *names])
    first = alternatives[0]
    if not isinstance(first, x509.DNSName) or len(name) > NODE_NAME_MAX:
        raise AuthError(f"node {name[:80]!r}: expected a host name of at most {NODE_NAME_MAX} characters")
    hosts = [each for each in alternatives if isinstance(each, x509.DNSName)]
    addresses = [x509.IPAddress(ip_network(str(each.value))) for each in alternatives if each not in hosts]
    # Of a constraint for a name, everything below this name follows, which is excluded again; of no
    # constraint for addresses, that all are permitted.
    excluded: list[x509.GeneralName] = [x509.DNSName("." + each.value) for each in hosts]
    for every in _EVERY_ADDRESS:
        version = ip_network(every).version
        if not any(address.value.version == version for address in addresses):
            excluded.append(x509.IPAddress(ip_network(every)))
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject(key, realm, first.value, HEAD if is_head else NODE))
        .issuer_name(authority_name(key, realm))
        .public_key(public.public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(certificates=True), critical=True)
        .add_extension(x509.NameConstraints([*hosts, *addresses], excluded), critical=True)
        .add_extension(key_identifier(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(key_identifier(key).digest, None, None), critical=False)
    )
    return signed(dated(builder, now_s, ttl_s, serial), key)


def parse(der: bytes) -> NodeCertificate:
    """Return what a certificate that ``node_certificate`` made says.

    Raises:
        AuthError: it is another kind of certificate, or none.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
        role = certificate.subject.get_attributes_for_oid(_ROLE)[0].value
        name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        unit = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)[0].value
    except (ValueError, IndexError, x509.ExtensionNotFound) as cause:
        raise AuthError("is not a node's certificate: `gexecctl keys sign` makes one") from cause
    names = []
    for permitted in constraints.permitted_subtrees or ():
        value = permitted.value
        names.append(value if isinstance(permitted, x509.DNSName) else str(value.network_address))
    expires_s = certificate.not_valid_after_utc.timestamp()
    return NodeCertificate(str(name), tuple(names), role == HEAD, str(unit), expires_s, der)


def request(key: SigningKey) -> bytes:
    """Return a request for a certificate of this key, in PEM: the key, signed with itself.

    It holds no name: names come from the administrator.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key.private, None).public_bytes(Encoding.PEM)


def requested(pem: bytes) -> VerifyKey:
    """Return the key of a request.

    Raises:
        AuthError: it is no request, or was not signed with the key that it holds.
    """
    try:
        found = x509.load_pem_x509_csr(pem)
        key = found.public_key()
        valid = found.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise AuthError("is not a request for a certificate: `gexecctl keys request` makes one") from cause
    if not valid or not isinstance(key, Ed25519PublicKey):
        raise AuthError("is not signed with the Ed25519 key that it holds: make the request again")
    return VerifyKey(key)


def _subject(key: SigningKey, realm: str, name: str, role: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"gexec cluster {realm}"[:64]),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, key.key_id.hex()),
            x509.NameAttribute(_ROLE, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
