"""Files of keys and certificates, read after checking owner and mode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gexec import limits
from gexec.errors import AuthError, KeyFileError
from gexec.posix.trusted import read_trusted
from gexec.security.keys import VerifyKey, load_public_keys
from gexec.security.nodecert import NodeCertificate, parse
from gexec.security.signers import Trust
from gexec.security.signing import SigningKey
from gexec.settings.signers import read_signers

#: What makes a missing key in hardened mode: a node's, a head's signer's.
REQUESTED = "`gexecctl keys request` makes it"
SIGNER_REQUESTED = "`gexecctl keys request --signer` makes it, on each head"


def read_signing_key(path: str, missing: str | None = None) -> SigningKey:
    """Return the private key of a file that only its owner (root or the reader) can read.

    Args:
        missing: what to do if there is no such file; None: what makes the key of simple mode.

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
        missing=f"make it with `openssl genrsa -out {path}` and `chmod 600 {path}`"
        if missing is None
        else missing,
    )
    try:
        return SigningKey.load(pem)
    except KeyFileError as cause:
        raise KeyFileError(f"private key {path}: {cause}") from cause


def read_verify_keys(paths: Sequence[str], missing: str | None = None) -> dict[bytes, VerifyKey]:
    """Return the accepted public keys by key id.

    Each file contains one or more keys, one after the other: during a rotation, the old and the new one.

    Args:
        missing: as for :func:`read_signing_key`.

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
            missing=f"make it with `openssl rsa -in auth_priv.pem -pubout -out {path}`"
            if missing is None
            else missing,
        )
        try:
            keys |= load_public_keys(pem)
        except KeyFileError as cause:
            raise KeyFileError(f"public key {path}: {cause}") from cause
    return keys


def read_trust(public_keys: Sequence[str], signers: str, names: Iterable[str]) -> Trust:
    """Return whom the node with these names trusts: public keys without limits, and signers with theirs.

    Args:
        public_keys: files; may be empty if there are ``signers``.
        signers: the path of signers.toml, maybe without a signer: then no job can start; "" = none.

    Raises:
        KeyFileError, ConfigError: a file cannot be used.
    """
    trust = Trust.unlimited(read_verify_keys(public_keys).values())
    if signers:
        limited = read_signers(signers).trust(names)
        trust = Trust(limited.signers | trust.signers, limited.revoked)
    return trust


def read_pair(private_path: str, public_paths: Sequence[str], signers: str = "") -> SigningKey:
    """Return the private key, whose public half must be accepted: in a public key's file, or a signer's.

    Raises:
        KeyFileError, ConfigError: also if the private key's public half is not among them.
    """
    signing = read_signing_key(private_path, None if public_paths else SIGNER_REQUESTED)
    if signing.key_id not in read_trust(public_paths, signers, ()).signers:
        where = ", ".join([*public_paths, *([signers] if signers else [])])
        raise KeyFileError(
            f"private key {private_path}: does not match {where}, so every node would refuse what it signs: "
            + (
                f"add it to {signers} with `gexecctl keys signer`"
                if signers
                else f"run `openssl rsa -in {private_path} -pubout -out {public_paths[0]}`"
            )
        )
    return signing


def read_node_certificate(path: str) -> NodeCertificate:
    """Return a node's certificate (hardened mode).

    Raises:
        KeyFileError: as for :func:`read_verify_keys`, or the file holds something else.
    """
    (der, *_) = _read_certificates(path, "node certificate", "get it from the administrator of the cluster")
    try:
        return parse(der)
    except AuthError as cause:
        raise KeyFileError(f"node certificate {path}: {cause}") from cause


def read_authorities(paths: Sequence[str]) -> list[bytes]:
    """Return the authorities' certificates of these files in DER.

    Raises:
        KeyFileError: as for :func:`read_verify_keys`.
    """
    return [
        der for path in paths for der in _read_certificates(path, "authority", "copy the cluster's ca.pem")
    ]


def _read_certificates(path: str, what: str, missing: str) -> list[bytes]:
    pem = read_trusted(
        path,
        what=what,
        max_bytes=limits.KEY_FILE_MAX_BYTES,
        private=False,
        error=KeyFileError,
        missing=missing,
    )
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as cause:
        raise KeyFileError(f"{what} {path}: is not a certificate in PEM: {missing}") from cause
    return [certificate.public_bytes(Encoding.DER) for certificate in found]
