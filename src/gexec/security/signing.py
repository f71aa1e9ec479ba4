"""The cluster's private key, and the credentials that are signed with it. Only authd loads this.

Pure: takes and returns bytes. Signatures of both kinds are deterministic (PKCS #1 v1.5 with
SHA-256, and Ed25519), so the same input gives the same bytes in every run and on every node.
Source: docs/decisions/0004-credential.md.
"""

from __future__ import annotations

from typing import Self, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gexec.errors import KeyFileError
from gexec.security.credential import (
    BODY,
    DIGEST_BYTES,
    DOMAIN,
    HEAD,
    JOB_ID_BYTES,
    MAGIC,
    TEXTS_MAX_BYTES,
    US,
)
from gexec.security.keys import HASH, MAKE, PADDING, VerifyKey, check_size

_PrivateKey: TypeAlias = RSAPrivateKey | Ed25519PrivateKey


class SigningKey:
    """The cluster's private key. It is never printed, not even by repr."""

    __slots__ = ("_private", "public")

    def __init__(self, private: _PrivateKey) -> None:
        self._private = private
        self.public = VerifyKey(private.public_key())

    @classmethod
    def load(cls, pem: bytes) -> Self:
        """Return the private key of a PEM text, PKCS #1 or PKCS #8, not encrypted.

        Raises:
            KeyFileError: as for :meth:`VerifyKey.load`, or encrypted with a pass phrase.
        """
        if b"ENCRYPTED" in pem[:4096]:
            raise KeyFileError(
                "is encrypted with a pass phrase, which a daemon cannot ask for: "
                "remove it with `openssl pkey -in KEY -out auth_priv.pem`"
            )
        if b"OPENSSH PRIVATE KEY" in pem:
            raise KeyFileError(f"is a key of ssh, which gexec does not accept: {MAKE}")
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as cause:
            raise KeyFileError(f"is not a private key in PEM: {MAKE}") from cause
        if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
            raise KeyFileError(f"holds a key that is neither RSA nor Ed25519: {MAKE}")
        check_size(key.public_key())
        return cls(key)

    @property
    def algorithm(self) -> int:
        """RSA or ED25519."""
        return self.public.algorithm

    @property
    def key_id(self) -> bytes:
        """The id of the public key, 8 bytes."""
        return self.public.key_id

    @property
    def private(self) -> _PrivateKey:
        """The key itself, for signing certificates."""
        return self._private

    def sign(self, message: bytes) -> bytes:
        """Return the signature over ``message``, ``public.signature_bytes`` long."""
        if isinstance(self._private, RSAPrivateKey):
            return self._private.sign(message, PADDING, HASH)
        return self._private.sign(message)


def issue(
    key: SigningKey,
    *,
    realm: str,
    audience: str,
    host: str,
    uid: int,
    gid: int,
    user: str,
    now_s: float,
    ttl_s: float,
    job_id: bytes,
    digest: bytes,
) -> bytes:
    """Return a signed credential.

    The caller's duty: uid, gid and user come from the kernel and the account database, never from the
    caller's request; ``job_id`` is 16 new random bytes; ``digest`` is SHA-256 of the blob.

    Raises:
        ValueError: a field does not fit the layout.
    """
    if len(job_id) != JOB_ID_BYTES or len(digest) != DIGEST_BYTES:
        raise ValueError("job id: expected 16 bytes; digest: expected 32")
    texts = []
    for text, most in zip((realm, audience, host, user), TEXTS_MAX_BYTES, strict=True):
        raw = text.encode("utf-8", "surrogateescape")
        if not 1 <= len(raw) <= most:
            raise ValueError(f"{text[:40]!r}: expected 1 to {most} bytes")
        texts.append(bytes((len(raw),)) + raw)
    body = BODY.pack(round(now_s * US), round(ttl_s * US), uid, gid, job_id, digest) + b"".join(texts)
    signed = HEAD.pack(MAGIC, key.key_id, key.algorithm, len(body)) + body
    return signed + key.sign(DOMAIN + signed)
