"""Certificates: built alike everywhere, accepted by OpenSSL's strictest checks, only for good names."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gexec.errors import AuthError
from gexec.security.certificate import BACKDATE_S, authority, leaf, name_is_acceptable
from gexec.security.signing import SigningKey

DER = serialization.Encoding.DER
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


@cache
def key_of(kind: str) -> SigningKey:
    if kind == "rsa":
        return SigningKey(rsa.generate_private_key(65537, 2048))
    return SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes([len(kind)]) * 32))


@pytest.fixture(params=["rsa", "ed25519"])
def key(request: pytest.FixtureRequest) -> SigningKey:
    return key_of(request.param)


def now_s() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()


def make(key: SigningKey, names: list[str], node: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    node = node or ec.generate_private_key(ec.SECP256R1())
    der = node.public_key().public_bytes(DER, SPKI)
    return leaf(
        key,
        issuer=authority(key, "gexec"),
        public_key_der=der,
        names=names,
        now_s=now_s(),
        ttl_s=3600,
        serial=2**127 + 1,
    )


def test_authority_is_the_same_bytes_each_time(key: SigningKey) -> None:
    assert authority(key, "gexec") == authority(key, "gexec")
    assert authority(key, "gexec") != authority(key, "other")
    certificate = x509.load_der_x509_certificate(authority(key, "gexec"))
    certificate.verify_directly_issued_by(certificate)
    assert certificate.not_valid_after_utc.year == 9999


def test_leaf_says_its_names_and_times(key: SigningKey) -> None:
    names = ["node001", "Node001.example.ORG.", "10.0.0.1", "::1", "node001", "node_2"]
    certificate = x509.load_der_x509_certificate(make(key, names))
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(authority(key, "gexec")))
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["node001", "node001.example.org", "node_2"]
    assert found.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("10.0.0.1"),
        ipaddress.ip_address("::1"),
    ]
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime == datetime.timedelta(seconds=3600 + BACKDATE_S)


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", "*.example.org", "a b", "a\0b", "ä.example", "x" * 64, "x." * 127 + "x", "127.1", "1",
     "fe80::1%eth0", "[::1]", "a/b", "a@b"],
)  # fmt: skip
def test_names_that_no_certificate_may_hold(name: str) -> None:
    assert not name_is_acceptable(name)
    with pytest.raises(AuthError, match="name to certify"):
        make(key_of("ed25519"), [name])


def test_number_of_names_is_limited() -> None:
    make(key_of("ed25519"), [f"node{number}" for number in range(256)])
    for names in ([], [f"node{number}" for number in range(257)]):
        with pytest.raises(AuthError, match="expected 1 to 256"):
            make(key_of("ed25519"), names)


def test_only_p256_keys_are_certified(key: SigningKey) -> None:
    others = [
        ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(DER, SPKI),
        key.public.der,
        b"",
        b"\x30\x80junk",
    ]
    for der in others:
        with pytest.raises(AuthError, match="key to certify"):
            leaf(
                key,
                issuer=authority(key, "gexec"),
                public_key_der=der,
                names=["a"],
                now_s=0,
                ttl_s=1,
                serial=1,
            )


def handshake(directory: Path, client_key: SigningKey, server_key: SigningKey, name: str) -> str:
    """Both ends of a real TLS 1.3 connection, each trusting what its own key says."""
    contexts = []
    for side, key, purpose in (
        ("client", client_key, ssl.PROTOCOL_TLS_CLIENT),
        ("server", server_key, ssl.PROTOCOL_TLS_SERVER),
    ):
        node = ec.generate_private_key(ec.SECP256R1())
        pem = node.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = directory / f"{side}.pem"
        path.write_bytes(pem + ssl.DER_cert_to_PEM_cert(make(key, ["node001", "127.0.0.1"], node)).encode())
        context = ssl.SSLContext(purpose)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(path)
        context.load_verify_locations(cadata=authority(key, "gexec"))
        contexts.append(context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = contexts[0].wrap_bio(to_client, to_server, server_hostname=name)
    server = contexts[1].wrap_bio(to_server, to_client, server_side=True)
    waiting = {"client": client, "server": server}
    for _ in range(10):
        for side, connection in list(waiting.items()):
            try:
                connection.do_handshake()
                del waiting[side]
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            return client.version() or ""
    raise AssertionError("no end of the handshake")


@pytest.mark.parametrize("name", ["node001", "127.0.0.1"])
def test_two_nodes_that_built_the_authority_apart_trust_each_other(
    tmp_path: Path, key: SigningKey, name: str
) -> None:
    twin = SigningKey.load(
        key.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    assert handshake(tmp_path, key, twin, name) == "TLSv1.3"


def test_attack_37_other_clusters_key(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, key_of("rsa"), key_of("ed25519"), "node001")


def test_attack_39_other_nodes_name(tmp_path: Path, key: SigningKey) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, key, key, "node002")
