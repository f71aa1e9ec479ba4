"""Creates a cluster's key pair: two PEM files, like those of the original's openssl commands."""

from __future__ import annotations

import os
from pathlib import Path

from gexec import limits
from gexec.cluster.whole import write_all
from gexec.errors import KeyFileError, UsageError
from gexec.posix.trusted import check_directories

TYPES = ("ed25519", "rsa")
RSA_DEFAULT_BITS = 3072


def create(
    private: Path, public: Path, kind: str = "rsa", bits: int | None = None, force: bool = False
) -> None:
    """Create a key pair and write it: the private key with mode 0600, the public one with 0644.

    A failure leaves both files as they were. If it is killed between the two, the private key is the new
    one: never a new public key beside an older private key, which could not sign for it.

    Args:
        kind: ``ed25519``, or ``rsa`` as from `openssl genrsa`.
        bits: of an RSA key, 2048 to 16384; None: 3072.
        force: replace existing files.

    Raises:
        UsageError: a kind or a size that no daemon would accept.
        KeyFileError: a file exists and ``force`` is not set, or one cannot be written; for root also if
            another user could exchange the files.
    """
    if kind not in TYPES:
        raise UsageError(f"key type {kind}: expected {' or '.join(TYPES)}")
    if bits is not None and kind != "rsa":
        raise UsageError("--bits is for RSA keys: add --type rsa, or leave it out")
    bits = RSA_DEFAULT_BITS if bits is None else bits
    if not limits.RSA_MIN_BITS <= bits <= limits.RSA_MAX_BITS:
        raise UsageError(f"{bits} bits: expected {limits.RSA_MIN_BITS} to {limits.RSA_MAX_BITS}")
    if os.path.abspath(private) == os.path.abspath(public):
        raise UsageError(f"{private}: expected two files, one for each key")
    for path in (private, public):
        if os.geteuid() == 0 and path.parent.is_dir():
            check_directories(str(path), "key", KeyFileError)
        if not force and os.path.lexists(path):
            raise KeyFileError(f"{path}: already exists; {_instead(private, public)}")
    private_pem, public_pem = _generate(kind, bits)
    try:
        write_all([(private, private_pem, 0o600), (public, public_pem, 0o644)])
    except OSError as error:
        raise KeyFileError(f"{error.filename}: cannot be written ({error.strerror})") from error


def _instead(private: Path, public: Path) -> str:
    force = "--force creates a new pair, which every node then needs"
    if os.path.lexists(public):
        return force
    return f"`openssl pkey -in {private} -pubout -out {public}` writes its public key; {force}"


def _generate(kind: str, bits: int) -> tuple[bytes, bytes]:
    # Imported here, because these imports take longer than everything else that gexecctl does.
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    if kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    private_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private_pem, public_pem
