"""Whose certificate it is: names as DNS compares them, addresses as addresses, never one for the other."""

from __future__ import annotations

import datetime
import ssl
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from gexec import limits
from gexec.relay.tls import _load_pair, bound_certificates, failure, holds, link_contexts, refusal
from gexec.security.certificate import NAMES_MAX, authority, leaf
from gexec.security.signing import SigningKey

NAMES = [
    ("DNS", "node004"), ("DNS", "node004.site.org"), ("DNS", "localhost"), ("IP Address", "127.0.0.1"),
    ("IP Address", "10.0.0.4"), ("IP Address", "2001:DB8:0:0:0:0:0:4"), ("IP Address", "FE80:0:0:0:0:0:0:4"),
]  # fmt: skip


@pytest.mark.parametrize(
    "wanted",
    ["node004", "NODE004", "node004.", "Node004.Site.ORG.", "10.0.0.4", "2001:db8::4", "2001:DB8:0::4",
     "fe80::4%eth0", "localhost"],
)  # fmt: skip
def test_it_is_this_node(wanted: str) -> None:
    assert holds(NAMES, wanted)
    assert refusal(NAMES, wanted, "10.0.0.4:2875") == ""


@pytest.mark.parametrize(
    "wanted",
    ["", ".", "node003", "node", "node004.site", "node004..", "*.site.org", "site.org", "10.0.0.5", "10.4",
     "2001:db8::5", "node004\0", "node004%lo", "10.0.0.4%lo"],
)  # fmt: skip
def test_it_is_another_node(wanted: str) -> None:
    assert not holds(NAMES, wanted)
    assert refusal(NAMES, wanted, "10.0.0.4:2875")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([("DNS", "*.site.org")], "node004.site.org"),  # no certificate of this cluster has wildcards
        ([("DNS", "10.0.0.4")], "10.0.0.4"),
        ([("URI", "node004"), ("email", "node004")], "node004"),
        ([("IP Address", "node004")], "node004"),
        ([("IP Address", "<invalid>")], "<invalid>"),
        ([], "node004"),
    ],
)
def test_no_name_stands_for_another_kind(names: list[tuple[str, str]], wanted: str) -> None:
    assert not holds(names, wanted)


def test_the_sentence_says_whose_certificate_it_was_and_what_to_do() -> None:
    assert refusal(NAMES, "node003", "10.0.0.4:2875") == (
        "its certificate was refused: 10.0.0.4:2875 is node004, node004.site.org, 10.0.0.4 and 2 more, "
        "not node003: correct the address of node003, or start the gexecd there with `--name node003`"
    )
    assert "is localhost, not x:" in refusal([("DNS", "localhost")], "x", "::1")
    assert "is a daemon without a name, not x:" in refusal([], "x", "::1")
    many = [("DNS", "n" * 253)] * 256
    assert len(refusal(many, "w" * 255, "10.0.0.4:2875")) < 700


# -- how much of a certificate is read -------------------------------------------------------------


def _pems(key: ec.EllipticCurvePrivateKey, *certificates: x509.Certificate) -> tuple[bytes, bytes]:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, b"".join([each.public_bytes(Encoding.PEM) for each in certificates])


def _leaf(names: list[str]) -> tuple[bytes, bytes, bytes]:
    signing = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    der = leaf(
        signing,
        issuer=authority(signing, "r"),
        public_key_der=public,
        names=names,
        now_s=time.time(),
        ttl_s=3600,
        serial=2**127 + 1,
    )
    top = x509.load_der_x509_certificate(authority(signing, "r")).public_bytes(Encoding.PEM)
    return *_pems(key, x509.load_der_x509_certificate(der)), top


def _foreign(parts: int) -> tuple[bytes, bytes]:
    """Return a key and a certificate of nobody, whose issuer's name has so many parts of 15 bytes."""
    key = ec.generate_private_key(ec.SECP256R1())
    part = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "aaaa")
    relative = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    point = x509.DistributionPoint(None, relative, None, None)
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([part]))
        .issuer_name(x509.Name([part] * parts))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.CRLDistributionPoints([point]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pems(key, made)


def _shaken(one: ssl.SSLContext, accepting: ssl.SSLContext) -> str:
    """Shake hands in memory; return what the accepting side, or the dialling one, says against it."""
    to_one, to_other = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialling = one.wrap_bio(to_one, to_other)
    accepted = accepting.wrap_bio(to_other, to_one, server_side=True)
    for _ in range(3):
        for side in (dialling, accepted):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                return failure(error)
    return ""


def test_attack_130_a_certificate_that_costs_much_is_refused_before_it_is_read() -> None:
    """By both sides: whoever reaches the port shows one, and so does a listener that a job names."""
    contexts = link_contexts(*_leaf(["node001"]))
    assert bound_certificates(contexts.accept)
    big, small = [ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for _ in range(2)]
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for context, parts in ((big, 1800), (small, 1), (listening, 1800)):
        _load_pair(context, *_foreign(parts))
    for context in (big, small):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    over = f"TLS failed: its certificates are over {limits.CERTIFICATES_MAX_BYTES} bytes"
    assert _shaken(big, contexts.accept) == over
    assert _shaken(contexts.dial, listening) == over
    assert _shaken(small, contexts.accept).startswith("its certificate was refused: ")


def test_certificates_with_as_many_names_as_there_may_be_fit() -> None:
    names = [f"{number:03}.{'n' * 60}.org" for number in range(NAMES_MAX)]
    contexts = link_contexts(*_leaf(names))
    assert _shaken(contexts.dial, contexts.accept) == ""
