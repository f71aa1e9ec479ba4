"""Signatures of an archive stream: whatever passes it on, it is what the copy's sender wrote. Pure.

A copy has a key of its own (Ed25519, RFC 8032). Receivers have the public one in their arguments, which are
signed with the job (docs/decisions/0022-signed-streams.md). What is signed is a stream's chain: it covers all
records before it, and contents by their digests.

The parts of cryptography that its Python modules would load take five times as long as the rest, on every
node; so its compiled module is asked first.
"""

from __future__ import annotations

from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

#: A private key, and a public one.
KEY_BYTES = 32
SIGNATURE_BYTES = 64
#: Before the chain, so that a signature is valid for nothing else.
DOMAIN = b"gexec archive stream 3\0"


class StreamSigner:
    """Signs one stream.

    Args:
        secret: the private key: KEY_BYTES random bytes, which sign nothing else.

    Raises:
        UsageError: cryptography is not installed.

    Attributes:
        public: the public key, KEY_BYTES.
    """

    __slots__ = ("_key", "public")

    def __init__(self, secret: bytes) -> None:
        self._key = _private(secret)
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, chain: bytes) -> bytes:
        """Return the signature over a chain, SIGNATURE_BYTES. Costs 50 us."""
        return self._key.sign(DOMAIN + chain)


class StreamVerifier:
    """Verifies the signatures of one stream.

    Args:
        public: the public key, KEY_BYTES.

    Raises:
        UsageError: it is none, or cryptography is not installed.
    """

    __slots__ = ("_key",)

    def __init__(self, public: bytes) -> None:
        try:
            self._key = _public(public)
        except ValueError as error:
            raise UsageError(f"{public.hex()[:80]!r} is not an Ed25519 public key: {error}") from error

    def is_signed(self, chain: bytes, signature: bytes) -> bool:
        """Return True if this is the signature over the chain. Costs 150 us."""
        try:
            self._key.verify(signature, DOMAIN + chain)
        except Exception as error:
            from cryptography.exceptions import InvalidSignature  # slow to load, and needed for attacks only

            if not isinstance(error, InvalidSignature):
                raise
            return False
        return True


def _private(secret: bytes) -> Ed25519PrivateKey:
    try:
        from cryptography.hazmat.bindings._rust import openssl

        return openssl.ed25519.from_private_bytes(secret)
    except (ImportError, AttributeError):
        pass  # another version of cryptography: by its documented way
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise _missing() from error
    return Ed25519PrivateKey.from_private_bytes(secret)


def _public(public: bytes) -> Ed25519PublicKey:
    try:
        from cryptography.hazmat.bindings._rust import openssl

        return openssl.ed25519.from_public_bytes(public)
    except (ImportError, AttributeError):
        pass
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise _missing() from error
    return Ed25519PublicKey.from_public_bytes(public)


def _missing() -> UsageError:
    return UsageError("a signed stream needs the Python package cryptography: install it, as gexecd needs it")
