"""The credential: everything but the exact bytes, in the right cluster, in time, is refused."""

from __future__ import annotations

import struct
from functools import cache
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from gexec.errors import CredentialError
from gexec.security import credential as module
from gexec.security.credential import DOMAIN, MAGIC, Credential, bound_to, verify
from gexec.security.keys import ED25519, RSA
from gexec.security.signers import Trust
from gexec.security.signing import SigningKey, issue

NOW = 1_700_000_000.0
JOB_ID = bytes(range(16))
BLOB = b"the job"
HEAD = struct.Struct("!4s8sBH")


@cache
def key_of(kind: str, number: int = 0) -> SigningKey:
    if kind == "rsa":
        return SigningKey(rsa.generate_private_key(65537, 2048))
    return SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


@pytest.fixture(params=["rsa", "ed25519"])
def key(request: pytest.FixtureRequest) -> SigningKey:
    return key_of(request.param)


def make(key: SigningKey, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "realm": "gexec",
        "audience": "gexec",
        "host": "head",
        "uid": 1000,
        "gid": 100,
        "user": "alice",
        "now_s": NOW,
        "ttl_s": 60.0,
        "job_id": JOB_ID,
        "digest": sha256(BLOB).digest(),
    }
    return issue(key, **fields | changes)


def check(raw: bytes, *keys: SigningKey, now_s: float = NOW, realm: str = "gexec") -> Credential:
    accepted = Trust.unlimited([key.public for key in keys]).signers
    return verify(raw, accepted, realm=realm, audience="gexec", now_s=now_s, skew_s=30, ttl_max_s=300)


def code_of(raw: bytes, *keys: SigningKey, **more: Any) -> str:
    with pytest.raises(CredentialError) as caught:
        check(raw, *keys, **more)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return caught.value.code


def signed(key: SigningKey, body: bytes, algorithm: int | None = None) -> bytes:
    """A credential of the cluster's own key with any body: what a broken issuer could make."""
    raw = HEAD.pack(MAGIC, key.key_id, algorithm or key.algorithm, len(body)) + body
    return raw + key.sign(DOMAIN + raw)


def body_of(raw: bytes) -> bytes:
    return raw[HEAD.size : HEAD.size + HEAD.unpack_from(raw)[3]]


def test_says_what_was_issued(key: SigningKey) -> None:
    said = check(make(key), key)
    assert (said.realm, said.audience, said.host, said.user) == ("gexec", "gexec", "head", "alice")
    assert (said.uid, said.gid, said.issued_s, said.ttl_s) == (1000, 100, NOW, 60.0)
    assert (said.job_id, said.key_id, said.expires_s) == (JOB_ID, key.key_id, NOW + 60)
    bound_to(said, BLOB)
    assert make(key) == make(key)


def test_attack_01_expired(key: SigningKey) -> None:
    raw = make(key)
    check(raw, key, now_s=NOW + 90)
    with pytest.raises(
        CredentialError, match=r"issued 3600\.0 s ago .* check NTP on head and on this node"
    ) as caught:
        check(raw, key, now_s=NOW + 3600)
    assert caught.value.code == "expired"
    assert code_of(raw, key, now_s=NOW + 90.001) == "expired"


def test_attack_02_future(key: SigningKey) -> None:
    raw = make(key)
    check(raw, key, now_s=NOW - 30)
    with pytest.raises(CredentialError, match=r"3600\.0 s in the future .* check NTP on head") as caught:
        check(raw, key, now_s=NOW - 3600)
    assert caught.value.code == "future"


def test_attack_03_ttl_over_the_maximum(key: SigningKey) -> None:
    check(make(key, ttl_s=300.0), key)
    assert code_of(make(key, ttl_s=300.001), key) == "ttl"


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, -(2.0**40)])
def test_attack_04_negative_ttl(key: SigningKey, ttl_s: float) -> None:
    assert code_of(make(key, ttl_s=ttl_s), key) == "ttl"


@pytest.mark.parametrize("bits", [0x01, 0x80, 0xFF])
def test_attack_05_flip_every_byte(key: SigningKey, bits: int) -> None:
    raw = make(key)
    for position in range(len(raw)):
        altered = bytearray(raw)
        altered[position] ^= bits
        assert code_of(bytes(altered), key) in ("malformed", "key", "algorithm", "signature")


def test_attack_06_truncate_at_every_length(key: SigningKey) -> None:
    raw = make(key)
    for length in range(len(raw)):
        assert code_of(raw[:length], key) == "malformed"


@pytest.mark.parametrize("more", [b"\0", b"x" * 16, b"\0" * 10_000])
def test_attack_07_append_bytes(key: SigningKey, more: bytes) -> None:
    assert code_of(make(key) + more, key) == "malformed"


def test_attack_07_bytes_after_the_body_s_end_even_if_signed(key: SigningKey) -> None:
    assert code_of(signed(key, body_of(make(key)) + b"\0"), key) == "malformed"


def test_body_cut_short_even_if_signed(key: SigningKey) -> None:
    body = body_of(make(key))
    for length in range(0, len(body), 7):
        assert code_of(signed(key, body[:length]), key) == "malformed"


def test_attack_08_wrong_key_id(key: SigningKey) -> None:
    raw = make(key)
    altered = raw[:4] + bytes(8) + raw[12:]
    assert code_of(altered, key) == "key"
    other = key_of("ed25519", 7)
    assert code_of(raw[:4] + other.key_id + raw[12:], key, other) in ("algorithm", "malformed", "signature")


def test_attack_09_algorithm_swap(key: SigningKey) -> None:
    raw = bytearray(make(key))
    raw[12] = RSA if key.algorithm == ED25519 else ED25519
    assert code_of(bytes(raw), key) == "algorithm"
    assert code_of(signed(key, body_of(make(key)), algorithm=int(raw[12])), key) == "algorithm"
    raw[12] = 0
    assert code_of(bytes(raw), key) == "algorithm"


def test_attack_10_other_clusters_name(key: SigningKey) -> None:
    with pytest.raises(CredentialError, match="cluster 'gexec', but this node is in 'other'") as caught:
        check(make(key), key, realm="other")
    assert caught.value.code == "realm"


def test_attack_11_foreign_key(key: SigningKey) -> None:
    foreign = key_of("ed25519", 9)
    with pytest.raises(CredentialError, match="give all nodes the same") as caught:
        check(make(foreign), key)
    assert caught.value.code == "key"
    assert code_of(make(foreign)) == "key"
    # With the right key's id in front, but signed by the foreign one.
    raw = HEAD.pack(MAGIC, key.key_id, key.algorithm, len(body_of(make(key)))) + body_of(make(key))
    forged = foreign.sign(DOMAIN + raw).ljust(key.public.signature_bytes, b"\0")
    assert code_of(raw + forged, key) == "signature"


def test_attack_12_rsa_padding_forgery() -> None:
    key = key_of("rsa")
    raw = make(key)
    message = raw[:-256]
    private = key.private
    assert isinstance(private, rsa.RSAPrivateKey)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
    others = [
        private.sign(DOMAIN + message, pss, hashes.SHA256()),
        private.sign(DOMAIN + message, padding.PKCS1v15(), hashes.SHA1()),
        private.sign(DOMAIN + message, padding.PKCS1v15(), hashes.SHA512()),
    ]
    numbers = private.private_numbers()
    n = numbers.public_numbers.n
    # Blocks whose padding is too short, followed by junk (Bleichenbacher 2006), or by zeros.
    info = bytes.fromhex("3031300d060960864801650304020105000420") + sha256(DOMAIN + message).digest()
    blocks = [
        b"\0\1" + b"\xff" * 8 + b"\0" + info + b"\0" * (256 - 11 - len(info)),
        b"\0\1\0" + info + b"\0" * (256 - 3 - len(info)),
        b"\0\2" + b"\xff" * (256 - 3 - len(info)) + b"\0" + info,
        b"\0\1" + b"\xff" * (256 - 3 - 32) + b"\0" + info[-32:],
    ]
    others += [pow(int.from_bytes(block), numbers.d, n).to_bytes(256) for block in blocks]
    for signature in others:
        assert code_of(message + signature, key) == "signature"
    # The same signature plus the modulus is the same number to a careless verifier.
    larger = int.from_bytes(raw[-256:]) + n
    if larger < 2**2048:
        assert code_of(message + larger.to_bytes(256), key) == "signature"
    check(raw, key)


def test_attack_13_zero_signature(key: SigningKey) -> None:
    raw = make(key)
    size = key.public.signature_bytes
    assert code_of(raw[:-size] + bytes(size), key) == "signature"
    assert code_of(raw[:-size], key) == "malformed"
    assert code_of(raw[:-size] + b"\xff" * size, key) == "signature"
    assert code_of(raw[:-size] + bytes(size - 1) + b"\1", key) == "signature"


def test_signature_without_the_domain_is_none(key: SigningKey) -> None:
    message = make(key)[: -key.public.signature_bytes]
    assert code_of(message + key.sign(message), key) == "signature"


def test_audience_must_match(key: SigningKey) -> None:
    assert code_of(make(key, audience="pcp"), key) == "audience"


def test_digest_binds_to_one_blob(key: SigningKey) -> None:
    said = check(make(key), key)
    for blob in (b"", BLOB + b"\0", BLOB[:-1]):
        with pytest.raises(CredentialError) as caught:
            bound_to(said, blob)
        assert caught.value.code == "digest"


def test_rotation_accepts_old_and_new() -> None:
    old, new = key_of("ed25519", 1), key_of("rsa")
    for key in (old, new):
        assert check(make(key), old, new).key_id == key.key_id


def test_names_in_sentences_hold_no_terminal_escapes() -> None:
    key = key_of("ed25519")
    with pytest.raises(CredentialError) as caught:
        check(make(key, host="he\x1b[2Jad\n"), key, now_s=NOW + 999)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"realm": ""},
        {"realm": "r" * 65},
        {"user": ""},
        {"host": "h" * 256},
        {"job_id": b""},
        {"digest": b"x"},
    ],
)
def test_issue_refuses_what_does_not_fit(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        make(key_of("ed25519"), **change)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=16)


@given(
    realm=texts, audience=texts, host=texts, user=texts,
    uid=st.integers(0, 2**32 - 1), gid=st.integers(0, 2**32 - 1),
    now_s=st.floats(0, 4e9), ttl_s=st.floats(0.001, 300), job_id=st.binary(min_size=16, max_size=16),
    blob=st.binary(max_size=64),
)  # fmt: skip
def test_any_fields_round_trip(
    realm: str, audience: str, host: str, user: str, uid: int, gid: int,
    now_s: float, ttl_s: float, job_id: bytes, blob: bytes,
) -> None:  # fmt: skip
    key = key_of("ed25519")
    raw = issue(
        key, realm=realm, audience=audience, host=host, uid=uid, gid=gid, user=user,
        now_s=now_s, ttl_s=ttl_s, job_id=job_id, digest=sha256(blob).digest(),
    )  # fmt: skip
    said = verify(raw, Trust.unlimited([key.public]).signers, realm=realm, audience=audience, now_s=now_s)
    assert (said.realm, said.audience, said.host, said.user) == (realm, audience, host, user)
    assert (said.uid, said.gid, said.job_id) == (uid, gid, job_id)
    assert abs(said.issued_s - now_s) < 1e-5
    assert abs(said.ttl_s - ttl_s) < 1e-5
    bound_to(said, blob)


@given(raw=st.binary(max_size=600))
def test_garbage_raises_nothing_but_credential_error(raw: bytes) -> None:
    key = key_of("ed25519")
    for candidate in (raw, MAGIC + raw, MAGIC + key.key_id + raw):
        with pytest.raises(CredentialError):
            check(candidate, key)


@given(body=st.binary(max_size=400))
@settings(max_examples=200)
def test_garbage_that_is_signed_raises_nothing_but_credential_error(body: bytes) -> None:
    key = key_of("ed25519")
    with pytest.raises(CredentialError):
        check(signed(key, body), key)


def test_layout_is_pinned() -> None:
    """A golden vector: these bytes may change only together with the version in MAGIC."""
    raw = make(key_of("ed25519", 1))
    assert module.BODY.size == 72
    assert raw[:4] == b"GXC\x01"
    assert sha256(raw).hexdigest() == GOLDEN


GOLDEN = "1b8beeba8c8d6212512630b38745f13c35f597ce2c4ee09f1adab1ab36714d4f"
