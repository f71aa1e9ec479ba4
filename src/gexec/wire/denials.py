"""What a relay reports to its spawner about a refused request of a peer, for the audit log.

The relay cannot write to the audit log, because it is the process that an attacker reaches first. It
reports; the spawner writes *deny* with ``by: relay``, bounded and at a limited rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gexec import limits
from gexec.errors import ProtocolError

#: What a relay refuses; a report has the index.
CREDENTIAL: Final = 0  #: the credential is not acceptable, or not for this job
JOB: Final = 1  #: the job's description is malformed
PARENT: Final = 2  #: this host may not be a parent of this rank
CLIENT: Final = 3  #: this client may not submit this job, or has submitted it before
BUSY: Final = 4  #: a limit is reached
CODES: Final = ("credential", "job", "parent", "client", "busy")
#: Maximum of bytes of each text but the reason: an address, names of a certificate, a user.
TEXT_MAX_BYTES: Final = 255


@dataclass(slots=True)
class PeerDenied:
    """A relay has refused requests of a peer.

    Attributes:
        count: number of refusals that this report stands for: the relay drops reports while its spawner
            does not read them.
        code: index in CODES.
        source: the peer's address, or ``uid N``.
        peer: the peer in a message, with the names of its certificate.
        job: the job's id in hex, "" = not known.
        user: the job's user, "" = not known.
        reason: what the peer was told.
    """

    count: int
    code: int
    source: str
    peer: str
    job: str
    user: str
    reason: str


NAMES: Final = ("code", "source", "peer", "job", "user", "reason")


def pack(code: int, *texts: str) -> bytes:
    """Return the payload of a report; texts that are too long are cut."""
    parts = [text.replace("\0", " ").encode("utf-8", "backslashreplace") for text in texts]
    cut = [part[:TEXT_MAX_BYTES] for part in parts[:-1]]
    return bytes([code]) + b"\0".join([*cut, parts[-1][: limits.TEXT_MAX_BYTES]])


def unpack(payload: bytes) -> tuple[int | str, ...]:
    """Return the fields of NAMES. ProtocolError: no relay sends this."""
    parts = payload[1:].split(b"\0")
    if not payload or payload[0] >= len(CODES) or len(parts) != len(NAMES) - 1:
        raise ProtocolError(f"report of a refusal of {len(payload)} bytes is malformed")
    if len(max(parts[:-1], key=len)) > TEXT_MAX_BYTES or len(parts[-1]) > limits.TEXT_MAX_BYTES:
        raise ProtocolError(f"report of a refusal of {len(payload)} bytes has a text over the limit")
    return (payload[0], *[part.decode("utf-8", "replace") for part in parts])
