"""The cluster's keys: what openssl makes is taken, what is weak or foreign is refused."""

from __future__ import annotations

import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519

from gexec import limits
from gexec.errors import KeyFileError
from gexec.security.keys import ED25519, RSA, VerifyKey, load_public_keys
from gexec.security.signing import SigningKey

PRIVATE = serialization.PrivateFormat
NONE = serialization.NoEncryption()
PEM = serialization.Encoding.PEM


def openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=True).stdout


def public_pem(key: SigningKey) -> bytes:
    return key.public.public.public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def rsa_pem() -> bytes:
    return openssl("genrsa", "2048")


@pytest.mark.parametrize("form", [["-traditional"], []], ids=["pkcs1", "pkcs8"])
def test_rsa_of_openssl_in_both_forms(rsa_pem: bytes, form: list[str]) -> None:
    pem = openssl("rsa", *form, stdin=rsa_pem)
    key = SigningKey.load(pem)
    assert key.algorithm == RSA
    public = VerifyKey.load(openssl("rsa", "-pubout", stdin=pem))
    assert public.key_id == key.key_id
    assert len(key.key_id) == 8
    signature = key.sign(b"message")
    assert len(signature) == public.signature_bytes == 256
    assert public.verify(signature, b"message")
    assert not public.verify(signature, b"messagf")
    assert key.sign(b"message") == signature


def test_rsa_public_key_in_pkcs1(rsa_pem: bytes) -> None:
    pem = openssl("rsa", "-RSAPublicKey_out", stdin=rsa_pem)
    assert VerifyKey.load(pem).key_id == SigningKey.load(rsa_pem).key_id


def test_ed25519_of_openssl() -> None:
    pem = openssl("genpkey", "-algorithm", "ed25519")
    key = SigningKey.load(pem)
    assert key.algorithm == ED25519
    public = VerifyKey.load(openssl("pkey", "-pubout", stdin=pem))
    assert public.key_id == key.key_id
    assert public.verify(key.sign(b"m"), b"m")
    assert not public.verify(bytes(64), b"m")
    assert not public.verify(b"", b"m")


@pytest.mark.parametrize("bits", ["512", "1024", "2047"])
def test_attack_14_short_rsa_key(bits: str) -> None:
    pem = openssl("genrsa", bits)
    with pytest.raises(KeyFileError, match=r"openssl genrsa"):
        SigningKey.load(pem)
    with pytest.raises(KeyFileError, match=r"openssl"):
        VerifyKey.load(openssl("rsa", "-pubout", stdin=pem))


def test_exponent_3() -> None:
    with pytest.raises(KeyFileError, match="exponent 3"):
        SigningKey.load(openssl("genrsa", "-3", "2048"))


def test_other_kinds_are_refused() -> None:
    for key in (
        ec.generate_private_key(ec.SECP256R1()),
        dsa.generate_private_key(2048),
        ed448.Ed448PrivateKey.generate(),
    ):
        with pytest.raises(KeyFileError, match="neither RSA nor Ed25519"):
            SigningKey.load(key.private_bytes(PEM, PRIVATE.PKCS8, NONE))
        public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(KeyFileError, match="neither RSA nor Ed25519"):
            VerifyKey.load(public)


def test_encrypted_ssh_and_swapped_keys_are_named() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    locked = key.private_bytes(PEM, PRIVATE.PKCS8, serialization.BestAvailableEncryption(b"x"))
    with pytest.raises(KeyFileError, match="pass phrase"):
        SigningKey.load(locked)
    with pytest.raises(KeyFileError, match="key of ssh"):
        SigningKey.load(key.private_bytes(PEM, PRIVATE.OpenSSH, NONE))
    with pytest.raises(KeyFileError, match="holds a private key"):
        VerifyKey.load(key.private_bytes(PEM, PRIVATE.PKCS8, NONE))
    with pytest.raises(KeyFileError, match="not a private key"):
        SigningKey.load(public_pem(SigningKey(key)))


@pytest.mark.parametrize("junk", [b"", b"\0" * 100, b"-----BEGIN ", b"-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_junk_is_one_sentence(junk: bytes) -> None:
    for load in (SigningKey.load, VerifyKey.load, load_public_keys):
        with pytest.raises(KeyFileError, match=r"^is not a (public|private) key in PEM"):
            load(junk)


def test_several_public_keys_in_one_file() -> None:
    keys = [SigningKey(ed25519.Ed25519PrivateKey.generate()) for _ in range(3)]
    loaded = load_public_keys(b"# old and new\n" + b"".join(public_pem(key) for key in keys))
    assert set(loaded) == {key.key_id for key in keys}


def test_limits_are_the_ones_documented() -> None:
    assert (limits.RSA_MIN_BITS, limits.RSA_MAX_BITS) == (2048, 16384)


def test_repr_shows_no_key() -> None:
    assert "object at" in repr(SigningKey(ed25519.Ed25519PrivateKey.generate()))
