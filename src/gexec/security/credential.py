"""The credential: "this user asked, through this authd, for exactly this job, at this time".

Layout (network order; docs/decisions/0004-credential.md):

    magic "GXC" and version 1      4
    key id                         8
    algorithm                      1
    length of the body             2
    body                           that many bytes
    signature                      the rest: exactly the length of the key's signatures

    body: issued_us i64, ttl_us i64, uid u32, gid u32, job id 16, digest 32,
          then realm, audience, host, user: each a length u8 and that many bytes

The signature covers DOMAIN and every byte before the signature. It is verified before any part of the body is
read. There is no older form and no unbound form.

Pure: the clock, the job id and the keys are arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from struct import Struct
from typing import Final

from gexec import limits
from gexec.errors import CredentialError
from gexec.security.keys import KEY_ID_BYTES
from gexec.security.names import shown
from gexec.security.signers import Signer

MAGIC: Final = b"GXC\x01"
#: So that a signature made with the same key for another purpose is not valid for a credential.
DOMAIN: Final = b"gexec credential 1\0"
JOB_ID_BYTES: Final = 16
DIGEST_BYTES: Final = 32

HEAD: Final = Struct(f"!4s{KEY_ID_BYTES}sBH")
BODY: Final = Struct(f"!qqII{JOB_ID_BYTES}s{DIGEST_BYTES}s")
TEXTS_MAX_BYTES: Final = (64, 64, 255, 255)
US: Final = 1_000_000


class Credential:
    """The content of a verified credential. Only :func:`verify` creates one.

    Attributes:
        realm: the cluster's name.
        audience: what it is for; ``gexec`` for jobs.
        host: the host whose authd signed it.
        uid, gid, user: the requesting user, from that host's account database; gid is the primary group.
        issued_s: UNIX time of the signature, in microsecond steps.
        ttl_s: how long it is valid from then.
        job_id: 16 random bytes, the job's identity and the nonce.
        digest: SHA-256 of the job blob it is bound to.
        key_id: the key that signed it.
    """

    __slots__ = (
        "audience", "digest", "gid", "host", "issued_s", "job_id", "key_id", "realm", "ttl_s", "uid", "user",
    )  # fmt: skip

    def __init__(
        self,
        *,
        realm: str,
        audience: str,
        host: str,
        uid: int,
        gid: int,
        user: str,
        issued_s: float,
        ttl_s: float,
        job_id: bytes,
        digest: bytes,
        key_id: bytes,
    ) -> None:
        self.realm = realm
        self.audience = audience
        self.host = host
        self.uid = uid
        self.gid = gid
        self.user = user
        self.issued_s = issued_s
        self.ttl_s = ttl_s
        self.job_id = job_id
        self.digest = digest
        self.key_id = key_id

    @property
    def job_key(self) -> bytes:
        """Key id and job id in one: no signer can use up the job ids of another one."""
        return self.key_id + self.job_id

    @property
    def expires_s(self) -> float:
        """UNIX time after which it is refused (plus the permitted clock skew)."""
        return self.issued_s + self.ttl_s


def verify(
    raw: bytes,
    signers: Mapping[bytes, Signer],
    *,
    realm: str,
    audience: str,
    now_s: float,
    skew_s: float = limits.CLOCK_SKEW_S,
    ttl_max_s: float = limits.CREDENTIAL_TTL_MAX_S,
    runs_here: bool = True,
) -> Credential:
    """Verify a credential's signature, cluster, audience, time and its signer's limits; return its content.

    The caller must check replay, the job's digest (:func:`bound_to`), the account, and whether the signer
    may sign for its groups.

    Args:
        raw: exactly the bytes that authd sent.
        signers: the accepted signers by key id.
        realm, audience: the required values.
        now_s: UNIX time.
        skew_s: how far the clocks of two hosts may differ.
        ttl_max_s: a credential with a longer lifetime is refused.
        runs_here: the job is to run on this node; False if the node only passes it on.

    Raises:
        CredentialError: code ``malformed``, ``key``, ``algorithm``, ``signature``, ``realm``,
            ``audience``, ``ttl``, ``future``, ``expired`` or ``signer``.
    """
    body, key_id = _authentic(raw, signers)
    credential = _parsed(body, key_id)
    if credential.realm != realm:
        raise CredentialError(
            "realm",
            f"the credential is for the cluster {credential.realm!r}, but this node is in {realm!r}: "
            "use the same realm on all nodes",
        )
    if credential.audience != audience:
        raise CredentialError(
            "audience", f"the credential is for {credential.audience!r}, not for {audience!r}"
        )
    _check_time(credential, now_s, skew_s, ttl_max_s)
    refusal = signers[key_id].refusal(
        host=credential.host, uid=credential.uid, user=credential.user, now_s=now_s, runs_here=runs_here
    )
    if refusal:
        raise CredentialError("signer", refusal)
    return credential


def content(raw: bytes) -> Credential:
    """Return the content of a credential that this gexecd has verified before (its relay was upgraded).

    Raises:
        CredentialError: code ``malformed``.
    """
    if len(raw) < HEAD.size:
        raise CredentialError("malformed", "the credential is cut short")
    _, key_id, _, length = HEAD.unpack_from(raw)
    return _parsed(raw[HEAD.size : HEAD.size + length], key_id)


def bound_to(credential: Credential, blob: bytes) -> None:
    """Check that ``blob`` is the job that the credential was signed for.

    Raises:
        CredentialError: code ``digest``; the job was modified in transit.
    """
    if credential.digest != sha256(blob).digest():
        raise CredentialError("digest", "the job is not the one that the credential was signed for")


def _authentic(raw: bytes, signers: Mapping[bytes, Signer]) -> tuple[bytes, bytes]:
    """Return the body and key id of a credential with a valid signature."""
    if len(raw) > limits.CREDENTIAL_MAX_BYTES:
        raise CredentialError("malformed", f"the credential has {len(raw)} bytes, over the limit")
    if len(raw) < HEAD.size:
        raise CredentialError("malformed", "the credential is cut short")
    magic, key_id, algorithm, length = HEAD.unpack_from(raw)
    if magic != MAGIC:
        raise CredentialError("malformed", "these bytes are not a credential of version 1")
    end = HEAD.size + length
    signer = signers.get(key_id)
    if signer is None:
        raise CredentialError(
            "key",
            f"the credential is signed with key {key_id.hex()}, which this node does not accept "
            f"(accepted: {', '.join(sorted(each.hex() for each in signers)) or 'none'}): "
            "give all nodes the same auth_pub.pem, or signers.toml",
        )
    key = signer.key
    if algorithm != key.algorithm:
        raise CredentialError(
            "algorithm", f"the credential has algorithm {algorithm}, but its key has another one"
        )
    if len(raw) != end + key.signature_bytes:
        raise CredentialError("malformed", "the credential is cut short or has bytes after its end")
    if not key.verify(raw[end:], DOMAIN + raw[:end]):
        raise CredentialError("signature", "the credential's signature is wrong: it was altered or forged")
    return raw[HEAD.size : end], key_id


def _parsed(body: bytes, key_id: bytes) -> Credential:
    if len(body) < BODY.size:
        raise CredentialError("malformed", "the credential's body is cut short")
    issued_us, ttl_us, uid, gid, job_id, digest = BODY.unpack_from(body)
    position = BODY.size
    texts = []
    for most in TEXTS_MAX_BYTES:
        length = body[position] if position < len(body) else 0
        end = position + 1 + length
        if not 1 <= length <= most or end > len(body):
            raise CredentialError("malformed", "the credential's body is cut short or a text is too long")
        texts.append(body[position + 1 : end].decode("utf-8", "surrogateescape"))
        position = end
    if position != len(body):
        raise CredentialError("malformed", "the credential's body has bytes after its end")
    realm, audience, host, user = texts
    return Credential(
        realm=realm,
        audience=audience,
        host=host,
        uid=uid,
        gid=gid,
        user=user,
        issued_s=issued_us / US,
        ttl_s=ttl_us / US,
        job_id=job_id,
        digest=digest,
        key_id=key_id,
    )


def _check_time(credential: Credential, now_s: float, skew_s: float, ttl_max_s: float) -> None:
    if not 0 < credential.ttl_s <= ttl_max_s:
        raise CredentialError(
            "ttl",
            f"the credential is valid for {credential.ttl_s:g} s; this node accepts more than 0 and at "
            f"most {ttl_max_s:g} s",
        )
    age_s = now_s - credential.issued_s
    if age_s < -skew_s:
        raise CredentialError(
            "future",
            f"the credential was issued {-age_s:.1f} s in the future by this node's clock "
            f"(allowed: {skew_s:g} s): check NTP on {shown(credential.host)} and on this node",
        )
    if age_s > credential.ttl_s + skew_s:
        raise CredentialError(
            "expired",
            f"the credential was issued {age_s:.1f} s ago by this node's clock and is valid for "
            f"{credential.ttl_s:g} s (and {skew_s:g} s for clocks that differ): if the job is new, check "
            f"NTP on {shown(credential.host)} and on this node",
        )
