"""Obtaining a credential from this host's authd (what libauth did for the original).

Part of the thin client.
"""

from __future__ import annotations

import os

from gexec import limits
from gexec.errors import AuthError
from gexec.posix.unix import connect, exchange
from gexec.wire.frames import FROM_AUTHD, Refused, Sign, Signed

DEFAULT_SOCKET = "/run/gexec/authd.sock"
#: authd answers within its own deadline or not at all; a loaded host needs some more.
ANSWER_TIMEOUT_S = limits.AUTHD_IO_DEADLINE_S + 8.0


def obtain_credential(blob: bytes, audience: bytes = b"gexec", socket_path: str | None = None) -> bytes:
    """Return a credential that says: the calling user wants exactly ``blob``, now.

    Who that is, authd learns from the kernel. The credential is valid for a minute, for any host
    of the cluster that holds its public key (``gexec.security.credential.verify``).

    Args:
        blob: what the credential is bound to; for a job the bytes of ``JobSpec.encode``. 1 byte to
            JOB_BLOB_MAX_BYTES.
        audience: what it is for, 1 to 64 bytes; another program uses its own name.
        socket_path: authd's socket; None = GEXEC_AUTHD_SOCKET, else /run/gexec/authd.sock.

    Raises:
        AuthError: authd does not run, does not answer, or refuses; one sentence.
    """
    if not 1 <= len(blob) <= limits.JOB_BLOB_MAX_BYTES:
        raise AuthError(f"{len(blob)} bytes to sign: expected 1 to {limits.JOB_BLOB_MAX_BYTES}")
    if not 1 <= len(audience) <= 64:
        raise AuthError(f"audience of {len(audience)} bytes: expected 1 to 64")
    path = socket_path or os.environ.get("GEXEC_AUTHD_SOCKET") or DEFAULT_SOCKET
    sock = connect(path, "authd", AuthError, ANSWER_TIMEOUT_S)
    answer = exchange(sock, Sign(audience, blob), FROM_AUTHD, "authd", AuthError)
    if isinstance(answer, Refused):
        raise AuthError(f"authd refused: {answer.text}")
    if not isinstance(answer, Signed):
        raise AuthError("authd answered something else than a credential")
    return answer.credential
