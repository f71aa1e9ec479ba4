"""The cluster's public keys: RSA of 2048 bits or more, or Ed25519, in PEM.

Pure: takes and returns bytes. Signatures of both kinds are deterministic (PKCS #1 v1.5 with
SHA-256, and Ed25519), so the same input gives the same bytes in every run and on every node.
Source: docs/decisions/0004-credential.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Final, Self, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from gexec import limits
from gexec.errors import KeyFileError

RSA: Final = 1  #: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, 8.2)
ED25519: Final = 2  #: RFC 8032, 5.1
KEY_ID_BYTES: Final = 8

MAKE: Final = "make a key with `openssl genrsa -out auth_priv.pem 2048`"
_MAKE_PUBLIC: Final = "make it with `openssl rsa -in auth_priv.pem -pubout -out auth_pub.pem`"
PADDING: Final = PKCS1v15()
HASH: Final = SHA256()

PublicKey: TypeAlias = RSAPublicKey | Ed25519PublicKey


class VerifyKey:
    """A public key that verifies signatures.

    Attributes:
        algorithm: RSA or ED25519; the key accepts only signatures of this algorithm.
        der: the key as SubjectPublicKeyInfo.
        key_id: the first 8 bytes of SHA-256 over ``der``.
        signature_bytes: the exact length of its signatures.
        public: the key itself, for certificates.
    """

    __slots__ = ("_check", "algorithm", "der", "key_id", "public", "signature_bytes")

    def __init__(self, public: PublicKey) -> None:
        self.public = public
        self.der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_id = sha256(self.der).digest()[:KEY_ID_BYTES]
        self._check: Callable[[bytes, bytes], None]
        if isinstance(public, RSAPublicKey):
            self._check = partial(public.verify, padding=PADDING, algorithm=HASH)
            self.algorithm = RSA
            self.signature_bytes = (public.key_size + 7) // 8
        else:
            self._check = public.verify
            self.algorithm = ED25519
            self.signature_bytes = 64

    @property
    def pem(self) -> bytes:
        """The key in PEM."""
        return self.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def load(cls, pem: bytes) -> Self:
        """Return the public key of a PEM text.

        Raises:
            KeyFileError: not PEM, a private key, another kind of key, or an RSA key outside
                RSA_MIN_BITS..RSA_MAX_BITS.
        """
        if b"PRIVATE KEY-----" in pem:
            raise KeyFileError(f"holds a private key, expected the public one: {_MAKE_PUBLIC}")
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as cause:
            raise KeyFileError(f"is not a public key in PEM: {_MAKE_PUBLIC}") from cause
        if not isinstance(key, RSAPublicKey | Ed25519PublicKey):
            raise KeyFileError(f"holds a key that is neither RSA nor Ed25519: {MAKE}")
        check_size(key)
        return cls(key)

    def verify(self, signature: bytes, message: bytes) -> bool:
        """True if ``signature`` is this key's over ``message``. Costs 25 us (RSA 2048)."""
        if len(signature) != self.signature_bytes:
            return False
        try:
            self._check(signature, message)
        except InvalidSignature:
            return False
        return True


def load_public_keys(pem: bytes) -> dict[bytes, VerifyKey]:
    """Return all public keys of a PEM text by key id: during a rotation it contains the old and the new one.

    Raises:
        KeyFileError: there is none, or one of them is not acceptable.
    """
    begin = b"-----BEGIN "
    blocks = [begin + block for block in pem.split(begin)[1:]]
    if not blocks:
        raise KeyFileError(f"is not a public key in PEM: {_MAKE_PUBLIC}")
    keys = [VerifyKey.load(block) for block in blocks]
    return {key.key_id: key for key in keys}


def check_size(key: PublicKey) -> None:
    """Raise KeyFileError if this is an RSA key of a size or exponent that is not accepted."""
    if not isinstance(key, RSAPublicKey):
        return
    if not limits.RSA_MIN_BITS <= key.key_size <= limits.RSA_MAX_BITS:
        raise KeyFileError(
            f"holds an RSA key of {key.key_size} bits, expected {limits.RSA_MIN_BITS} to "
            f"{limits.RSA_MAX_BITS}: {MAKE}"
        )
    if key.public_numbers().e < 65537:
        raise KeyFileError(f"holds an RSA key with the public exponent {key.public_numbers().e}: {MAKE}")
