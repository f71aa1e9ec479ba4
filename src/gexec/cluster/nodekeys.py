"""Keys that a node makes itself in hardened mode: its node key, and on a head the key of its signer.

node_key.pem, node.req              the node's key, and the request for its certificate
signer_key.pem, signer_pub.pem      a head's key for credentials
signer_new.pem, signer_new_pub.pem  its successor, until `rotate switch`
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gexec.cluster.whole import write_all
from gexec.errors import KeyFileError
from gexec.security.keys import VerifyKey
from gexec.security.nodecert import request
from gexec.security.signing import SigningKey
from gexec.settings.keyfiles import SIGNER_REQUESTED, read_signing_key
from gexec.settings.signers import read_signers


def new_key() -> bytes:
    """Return a new Ed25519 key, in PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def request_certificate(directory: Path, force: bool = False) -> tuple[Path, VerifyKey]:
    """Make the node's key, if there is none, and the request for its certificate.

    Args:
        force: replace the key.

    Returns:
        The request's path, and the key's public half.

    Raises:
        KeyFileError: a file cannot be used or written.
    """
    path = directory / "node_key.pem"
    if force or not path.exists():
        write_key(path, new_key(), 0o600)
    key = read_signing_key(str(path))
    made = directory / "node.req"
    write_key(made, request(key), 0o644)
    return made, key.public


def request_signer(directory: Path) -> tuple[Path, VerifyKey]:
    """Make the key of a head's signer; if there is one, its successor.

    A key whose public half is missing was not finished: only that half is written then.

    Returns:
        The path of its public half, for the administrator, and that half.

    Raises:
        KeyFileError: there is a successor already, or a file cannot be written.
    """
    for name in ("signer_key.pem", "signer_new.pem"):
        private = directory / name
        public = directory / f"{name.removesuffix('_key.pem').removesuffix('.pem')}_pub.pem"
        if not private.exists():
            key = SigningKey.load(pem := new_key())
            write_keys([(private, pem, 0o600), (public, key.public.pem, 0o644)])
            return public, key.public
        if not public.exists():
            key = read_signing_key(str(private))
            write_key(public, key.public.pem, 0o644)
            return public, key.public
    raise KeyFileError(f"{private}: already exists; `gexecctl keys rotate switch` puts it in force")


def switch_signer(directory: Path) -> VerifyKey:
    """Put the successor of a head's signer key in force: authd uses it when it reads its keys again.

    Raises:
        KeyFileError, ConfigError: there is none, or this host's signers.toml does not accept it yet.
    """
    new = directory / "signer_new.pem"
    key = read_signing_key(str(new), SIGNER_REQUESTED)
    signers = directory / "signers.toml"
    if key.key_id not in read_signers(str(signers)).trust(()).signers:
        raise KeyFileError(
            f"{new}: {signers} does not accept it yet: `gexecctl keys rotate add`, then copy signers.toml to "
            "all nodes and reload gexecd there"
        )
    # Killed between two of these steps, the next call does all of them.
    write_key(directory / "signer_pub.pem", key.public.pem, 0o644)
    (directory / "signer_new_pub.pem").unlink(missing_ok=True)
    os.replace(new, directory / "signer_key.pem")
    return key.public


def write_key(path: Path, content: bytes, mode: int) -> None:
    """Replace a file as a whole; KeyFileError if that is not possible."""
    write_keys([(path, content, mode)])


def write_keys(files: Sequence[tuple[Path, bytes, int]]) -> None:
    """Replace files that belong together (``whole.write_all``); KeyFileError if that is not possible."""
    try:
        write_all(files)
    except OSError as error:
        raise KeyFileError(f"{error.filename}: cannot be written ({error.strerror})") from error
