"""The cluster's key files, /etc/auth_priv.pem and /etc/auth_pub.pem, read after checking owner and mode."""

from __future__ import annotations

from collections.abc import Sequence

from gexec import limits
from gexec.errors import KeyFileError
from gexec.posix.trusted import read_trusted
from gexec.security.keys import VerifyKey, load_public_keys
from gexec.security.signing import SigningKey


def read_signing_key(path: str) -> SigningKey:
    """Return the private key of a file that only its owner (root or the reader) can read.

    Raises:
        KeyFileError: wrong owner, mode, size or kind, or a directory above it that others may write to; one
            sentence that names the file and says what to do.
    """
    pem = read_trusted(
        path,
        what="private key",
        max_bytes=limits.KEY_FILE_MAX_BYTES,
        private=True,
        error=KeyFileError,
        missing=f"make it with `openssl genrsa -out {path}` and `chmod 600 {path}`",
    )
    try:
        return SigningKey.load(pem)
    except KeyFileError as cause:
        raise KeyFileError(f"private key {path}: {cause}") from cause


def read_verify_keys(paths: Sequence[str]) -> dict[bytes, VerifyKey]:
    """Return the accepted public keys by key id.

    Each file contains one or more keys, one after the other: during a rotation, the old and the new one.

    Raises:
        KeyFileError: as for :func:`read_signing_key`; others may read the files, but not write.
    """
    keys: dict[bytes, VerifyKey] = {}
    for path in paths:
        pem = read_trusted(
            path,
            what="public key",
            max_bytes=limits.KEY_FILE_MAX_BYTES,
            private=False,
            error=KeyFileError,
            missing=f"make it with `openssl rsa -in auth_priv.pem -pubout -out {path}`",
        )
        try:
            keys |= load_public_keys(pem)
        except KeyFileError as cause:
            raise KeyFileError(f"public key {path}: {cause}") from cause
    return keys


def read_pair(private_path: str, public_paths: Sequence[str]) -> tuple[SigningKey, dict[bytes, VerifyKey]]:
    """Return the private key and the accepted public keys, which must include the private key's public half.

    Raises:
        KeyFileError: also if the private key's public half is not among them.
    """
    signing = read_signing_key(private_path)
    accepted = read_verify_keys(public_paths)
    if signing.key_id not in accepted:
        raise KeyFileError(
            f"private key {private_path}: does not match {', '.join(public_paths)}, so every node "
            f"would refuse what it signs: run `openssl rsa -in {private_path} -pubout -out {public_paths[0]}`"
        )
    return signing, accepted
