"""Certificates of nodes: what a node's key can certify, by OpenSSL's own judgement in a real handshake."""

from __future__ import annotations

import datetime
import ssl
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gexec.errors import AuthError
from gexec.relay.tls import link_contexts
from gexec.security.certificate import authority, dated, key_identifier, leaf, signed, usage
from gexec.security.keys import VerifyKey
from gexec.security.nodecert import node_certificate, parse, request, requested
from gexec.security.signing import SigningKey

CA = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
NODE_KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
HEAD_KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32))
NAMES = ["node001.site.org", "10.0.0.1"]


def now_s() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()


def certified(key: SigningKey = NODE_KEY, **changes: Any) -> bytes:
    """Return the certificate that the administrator has made for a node."""
    fields: dict[str, Any] = {
        "realm": "gexec",
        "public": key.public,
        "name": "node001",
        "names": NAMES,
        "is_head": False,
        "now_s": now_s(),
        "ttl_s": 365 * 86_400,
        "serial": 7,
    }
    return node_certificate(CA, **fields | changes)


def leaf_of(key: SigningKey, issuer: bytes, names: list[str]) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    own = ec.generate_private_key(ec.SECP256R1())
    public = own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    made = leaf(key, issuer=issuer, public_key_der=public, names=names, now_s=now_s(), ttl_s=3600, serial=9)
    return own, made


def forged_leaf(
    key: SigningKey, issuer: x509.Name, names: list[str]
) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """Return a leaf under any issuer's name."""
    own = ec.generate_private_key(ec.SECP256R1())
    alternatives = [
        x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer)
        .public_key(own.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier(key_identifier(key).digest, None, None), critical=False)
    )
    return own, signed(dated(builder, now_s(), 3600, 9), key)


def pem_of(*chain: bytes) -> bytes:
    return "".join([ssl.DER_cert_to_PEM_cert(der) for der in chain]).encode()


def key_pem(key: ec.EllipticCurvePrivateKey | SigningKey) -> bytes:
    private = key.private if isinstance(key, SigningKey) else key
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def accepted(own: ec.EllipticCurvePrivateKey | SigningKey, *chain: bytes) -> dict[str, Any]:
    """Return what a daemon of the cluster sees of a peer with this chain; SSLError if it refuses it."""
    anchors = pem_of(authority(CA, "gexec"))
    dialling = link_contexts(key_pem(own), pem_of(*chain), anchors).dial
    dialling.verify_mode = ssl.CERT_NONE
    good, good_leaf = leaf_of(NODE_KEY, certified(), ["node001"])
    accepting = link_contexts(key_pem(good), pem_of(good_leaf, certified()), anchors).accept
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = dialling.wrap_bio(to_client, to_server)
    server = accepting.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    found = server.getpeercert()
    assert found
    return found


def test_a_leaf_of_a_node_is_accepted_and_tells_its_role() -> None:
    for is_head, role in ((False, "node"), (True, "head")):
        certificate = certified(is_head=is_head)
        found = accepted(*leaf_of(NODE_KEY, certificate, ["node001", *NAMES]), certificate)
        told = {key: value for ((key, value),) in found["issuer"]}
        assert role in told.values()
        assert told["commonName"] == "node001"
        assert told["organizationalUnitName"] == CA.key_id.hex()


def test_what_a_certificate_says() -> None:
    found = parse(certified(is_head=True, names=["Node001.site.org.", "10.0.0.1", "fd00::1"]))
    assert found.name == "node001"
    assert set(found.names) == {"node001", "node001.site.org", "10.0.0.1", "fd00::1"}
    assert found.is_head
    assert found.authority_id == CA.key_id.hex()
    assert 364 * 86_400 < found.expires_s - now_s() <= 365 * 86_400
    assert not parse(certified()).is_head


@pytest.mark.parametrize(
    "names",
    [["node002"], ["x.node001"], ["10.0.0.2"], ["::1"], ["localhost"], ["node001", "node002"], ["127.0.0.1"]],
)
@pytest.mark.parametrize("own_names", [NAMES, [], ["fd00::1"]])
def test_attack_117_a_node_certifies_other_names(names: list[str], own_names: list[str]) -> None:
    certificate = certified(names=own_names)
    with pytest.raises(ssl.SSLCertVerificationError, match="subtree violation"):
        accepted(*leaf_of(NODE_KEY, certificate, names), certificate)


def test_attack_116_a_node_makes_itself_a_head() -> None:
    certificate = certified()
    head = certified(HEAD_KEY, name="head1", names=["node001"], is_head=True)
    subject = x509.load_der_x509_certificate(head).subject
    # Under the head's name, signed with the node's own key, and with every certificate that might help.
    for chain in ([head], [head, certificate], [certificate, head], [certificate]):
        with pytest.raises(ssl.SSLCertVerificationError):
            accepted(*forged_leaf(NODE_KEY, subject, ["node001"]), *chain)
    # An authority of its own, below its certificate.
    own = SigningKey(Ed25519PrivateKey.generate())
    below = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.load_der_x509_certificate(certificate).subject)
        .public_key(own.public.public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(certificates=True), critical=True)
        .add_extension(key_identifier(own.public), critical=False)
    )
    forged = signed(dated(below, now_s(), 3600, 3), NODE_KEY)
    with pytest.raises(ssl.SSLCertVerificationError, match="path length"):
        accepted(*forged_leaf(own, subject, ["node001"]), forged, certificate)


def test_attack_116_a_node_shows_its_own_certificate_as_a_leaf() -> None:
    """The issuer of that certificate is the authority, which has no role."""
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        accepted(NODE_KEY, certified())


def test_attack_118_a_relay_certifies_with_its_leaf() -> None:
    """A captured relay has a leaf and its key, and no other one."""
    certificate = certified()
    own, made = leaf_of(NODE_KEY, certificate, ["node001"])
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.load_der_x509_certificate(made).subject)
        .public_key(own.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("node001")]), critical=True)
    )
    forged = dated(builder, now_s(), 10 * 365 * 86_400, 3).sign(own, SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(ssl.SSLCertVerificationError):
        accepted(own, forged, made, certificate)


def test_an_expired_node_certificate() -> None:
    certificate = certified(now_s=now_s() - 2 * 86_400, ttl_s=86_400)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        accepted(*leaf_of(NODE_KEY, certificate, ["node001"]), certificate)


@pytest.mark.parametrize("name", ["10.0.0.1", "::1", "", "a b", "n" * 65, "*.site.org"])
def test_names_that_no_node_may_have(name: str) -> None:
    with pytest.raises(AuthError):
        certified(name=name)


def test_a_key_that_is_none_of_a_node() -> None:
    with pytest.raises(AuthError, match="gexecctl keys request"):
        certified(public=VerifyKey(rsa.generate_private_key(65537, 2048).public_key()))


def test_a_leaf_of_another_keys_certificate() -> None:
    with pytest.raises(AuthError, match="do not belong together"):
        leaf_of(HEAD_KEY, certified(), ["node001"])


def test_a_request_holds_a_key_and_the_proof_that_it_is_the_nodes() -> None:
    pem = request(NODE_KEY)
    assert requested(pem).key_id == NODE_KEY.key_id
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(Encoding.DER))
    der[-1] ^= 1
    altered = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(AuthError, match="is not signed with"):
        requested(altered)
    for junk in (b"", b"junk", NODE_KEY.public.pem):
        with pytest.raises(AuthError, match="is not a request"):
            requested(junk)


def test_certificates_that_are_none_of_a_node() -> None:
    _, made = leaf_of(NODE_KEY, certified(), ["node001"])
    for der in (authority(CA, "gexec"), made, b"junk", b""):
        with pytest.raises(AuthError, match="is not a node's certificate"):
            parse(der)
