"""Decides whether this rank of this job may run here. The spawner makes these checks in this order:

signature, cluster and time -> digest of the job -> issued after this daemon's start -> the job
itself -> rank and node -> account -> policy -> not a replay. The spawner trusts only the signed
bytes, nothing else that the relay sends. Every refusal is a CredentialError with a code for the
audit log and one sentence for the user.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

from gexec import limits
from gexec.errors import CredentialError, ProtocolError
from gexec.security import credential as credentials
from gexec.security.credential import Credential
from gexec.security.policy import Account, Policy, Terms, disagreement
from gexec.security.replay import ReplayCache
from gexec.security.signers import Signer
from gexec.wire.background import Background
from gexec.wire.jobspec import REMOTE_PATH, JobSpec
from gexec.wire.launches import Becoming, Keeping, LaunchSpec

AUDIENCE: Final = "gexec"
#: Verified jobs that are kept for the next rank of the same job on this node, and for how long.
_KNOWN_MAX: Final = 4
_KNOWN_MAX_BYTES: Final = 8 * 1024 * 1024
_KNOWN_S: Final = 5.0
#: Account facts are read again after this time, so that a locked account or a new group takes effect.
ACCOUNT_S: Final = 30.0
_ACCOUNTS_MAX: Final = 1024
#: Variables that the node sets itself; entries of the job with these names are removed.
_NODES_OWN: Final = (b"GEXEC_MY_VNN=", b"GEXEC_NODE=", b"GEXEC_SVRS=", b"GEXEC_JOB=", b"GEXEC_SPOOL=")
_LOOPBACK: Final = frozenset({b"localhost"})


class Spool(NamedTuple):
    """Where this node keeps background jobs, and how much of one user's.

    Attributes:
        directory: "" = nowhere.
        jobs_max, bytes_max: of one user.
        why: the reason if it is nowhere.
    """

    directory: str = ""
    jobs_max: int = 0
    bytes_max: int = 0
    why: str = "it has no spool (gexecd.toml)"


class Admitted:
    """A rank that may run: its credential, job, account and launch, and the helper that it needs."""

    __slots__ = ("account", "becoming", "credential", "digest", "job", "launch")

    def __init__(self, known: _Known, account: Account, becoming: Becoming, launch: LaunchSpec) -> None:
        self.credential = known.credential
        self.digest = known.digest
        self.job = known.job
        self.account = account
        self.becoming = becoming
        self.launch = launch

    @property
    def claim(self) -> tuple[bytes, int]:
        """What may happen only once: key id and job id in one, and the rank."""
        return self.credential.job_key, self.launch.rank


class _Known:
    __slots__ = ("blob", "credential", "digest", "env", "job", "until_s")

    def __init__(self, raw: bytes, blob: bytes, credential: Credential, job: JobSpec, until_s: float) -> None:
        self.blob = blob
        self.credential = credential
        #: SHA-256 of the credential as it came.
        self.digest = hashlib.sha256(raw).digest()
        self.job = job
        self.until_s = until_s
        self.env = _env_of_all(job, credential)


class Admission:
    """The checks and their state.

    Args:
        signers: the accepted signers by key id.
        realm: the cluster's name.
        names: names and addresses of this node.
        policy: who may run here.
        started_s: UNIX time of the daemon's start: a credential that was not issued after it is
            refused, because the daemon does not remember whether it was used (attacks 21, 22).
        account_of: looks an account up by uid.
        skew_s, ttl_max_s: as for ``security.credential.verify``.
        own_uid: the daemon's uid; if it is not 0, the daemon serves that uid only.
        account_s: account facts are read again after this time.
        spool: for background jobs.
    """

    def __init__(
        self,
        *,
        signers: Mapping[bytes, Signer],
        realm: str,
        names: Iterable[str],
        policy: Policy,
        started_s: float,
        account_of: Callable[[int], Account | None],
        skew_s: float = limits.CLOCK_SKEW_S,
        ttl_max_s: float = limits.CREDENTIAL_TTL_MAX_S,
        own_uid: int | None = None,
        replay: ReplayCache | None = None,
        account_s: float = ACCOUNT_S,
        spool: Spool = Spool(),  # noqa: B008  immutable
    ) -> None:
        self._signers = signers
        self._realm = realm
        self._names, self._addresses = _told_apart(names)
        self._policy = policy
        self._started_s = started_s
        self._account_of = account_of
        #: Seconds by which clocks may differ.
        self.skew_s = skew_s
        self._ttl_max_s = ttl_max_s
        self._own_uid = os.geteuid() if own_uid is None else own_uid
        self.replay = ReplayCache(superuser=self._own_uid) if replay is None else replay
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._known_bytes = 0
        self._account_s = account_s
        self._spool = spool
        self._accounts: dict[int, tuple[float, Account | None]] = {}
        self._rights: dict[int, tuple[Account, Terms, Becoming]] = {}
        #: The credential of the last ``admit``, once it is verified: for the audit log.
        self.verified: Credential | None = None

    def reload(self, signers: Mapping[bytes, Signer], policy: Policy) -> None:
        """Use new signers and a new policy; discard what was verified with the old ones."""
        self._signers = signers
        self._policy = policy
        self._known.clear()
        self._known_bytes = 0
        self._rights.clear()
        self._accounts.clear()

    def admit(
        self,
        raw: bytes,
        blob: bytes,
        rank: int,
        *,
        now_s: float,
        jobs_of: Callable[[int, bytes], int],
        claimed: tuple[bytes, int] | None = None,
    ) -> Admitted:
        """Return the rank, ready to be launched.

        Args:
            raw, blob: credential and job as received.
            now_s: UNIX time.
            jobs_of: returns how many jobs of a uid run here, without the job of the given id.
            claimed: the ``claim`` of an earlier check of the same task.

        Raises:
            CredentialError: the rank is refused; code and text give the reason.
        """
        self.verified = None
        known = self._verified(raw, blob, now_s)
        self.verified = known.credential
        credential, job = known.credential, known.job
        if rank >= job.ranks:
            raise CredentialError("rank", f"the job has {job.ranks} processes, so none is number {rank}")
        name = job.names[rank]
        self._check_target(name, credential)
        account = self._account(credential, now_s)
        groups_refusal = self._signers[credential.key_id].groups_refusal(
            account.name, account.uid, account.groups
        )
        if groups_refusal:
            raise CredentialError("signer", groups_refusal)
        refusal = self._policy.refusal(
            account, jobs_running=jobs_of(credential.uid, credential.job_key), now_s=now_s
        )
        if refusal:
            raise CredentialError("policy", refusal)
        if job.background and not self._spool.directory:
            text = f"this node keeps no background jobs: {self._spool.why}; --keep=0 discards their output"
            raise CredentialError("background", text)
        if claimed != (credential.job_key, rank):
            self.replay.claim(
                credential.key_id,
                credential.job_id,
                rank,
                uid=credential.uid,
                expires_s=credential.expires_s + self.skew_s,
                now_s=now_s,
            )
        terms, becoming = self._rights_of(account)
        launch = self._launch(known, rank, terms, account)
        return Admitted(known, account, becoming, launch)

    def _verified(self, raw: bytes, blob: bytes, now_s: float) -> _Known:
        known = self._known.get(raw)
        if known is not None and now_s <= known.until_s and known.blob == blob:
            return known
        credential = credentials.verify(
            raw,
            self._signers,
            realm=self._realm,
            audience=AUDIENCE,
            now_s=now_s,
            skew_s=self.skew_s,
            ttl_max_s=self._ttl_max_s,
        )
        credentials.bound_to(credential, blob)
        if credential.issued_s <= self._started_s:
            raise CredentialError(
                "before-start",
                "the credential was issued before this node's gexecd started, so it may have run already: "
                "send the job again; if it is refused again, check NTP here",
            )
        try:
            job = JobSpec.decode(blob)
            if job.background:
                Background.decode(job.background)
        except ProtocolError as error:
            raise CredentialError("malformed", str(error)) from error
        known = _Known(raw, blob, credential, job, min(now_s + _KNOWN_S, credential.expires_s + self.skew_s))
        self._drop(raw)
        self._known[raw] = known
        self._known_bytes += len(blob)
        while len(self._known) > 1 and (
            len(self._known) > _KNOWN_MAX or self._known_bytes > _KNOWN_MAX_BYTES
        ):
            self._drop(next(iter(self._known)))
        return known

    def _drop(self, raw: bytes) -> None:
        known = self._known.pop(raw, None)
        if known is not None:
            self._known_bytes -= len(known.blob)

    def expire(self, now_s: float) -> None:
        """Discard the verified jobs that have expired (``now_s``: UNIX time)."""
        for raw in [raw for raw, known in self._known.items() if known.until_s < now_s]:
            self._drop(raw)

    def _check_target(self, name: bytes, credential: Credential) -> None:
        """Refuse a job that was signed for another node (attacks 18, 23, 24, 66)."""
        folded = name.lower().rstrip(b".")
        address = _address(folded)
        mine = folded in self._names if address is None else address in self._addresses
        loopback = folded in _LOOPBACK or (address is not None and ip_address(address).is_loopback)
        if mine and loopback and not self._only_mine(address):
            # Every node has the name localhost, so only the host that signed the job may accept it.
            host = credential.host.lower().encode("utf-8", "surrogateescape")
            mine = host in self._names or _address(host) in self._addresses
        if not mine:
            raise CredentialError(
                "target",
                f"the job is for {name.decode('utf-8', 'replace')}, which is none of this node's names "
                "(add it to `names` in gexecd.toml if it should be)",
            )

    def _only_mine(self, address: str | None) -> bool:
        # Every node has 127.0.0.1 and ::1; any other loopback address belongs to one node of a
        # local cluster.
        return address is not None and address not in ("127.0.0.1", "::1")

    def _account(self, credential: Credential, now_s: float) -> Account:
        uid = credential.uid
        if self._own_uid not in (0, uid):
            raise CredentialError(
                "uid",
                f"this gexecd runs as uid {self._own_uid} and serves that user only, not {credential.user} "
                f"(uid {uid}); only a gexecd started as root serves all",
            )
        read_s, account = self._accounts.get(uid, (float("-inf"), None))
        if not 0 <= now_s - read_s <= self._account_s:
            account = self._account_of(uid)
            if len(self._accounts) >= _ACCOUNTS_MAX:
                self._accounts.clear()
            self._accounts[uid] = (now_s, account)
        refusal = disagreement(account, uid=uid, gid=credential.gid, user=credential.user)
        if refusal or account is None:
            raise CredentialError("account", refusal or f"uid {uid} has no account on this node")
        return account

    def _rights_of(self, account: Account) -> tuple[Terms, Becoming]:
        """Return an account's terms and helper; the account's facts are those of one reading."""
        known = self._rights.get(account.uid)
        if known is not None and known[0] is account:
            return known[1], known[2]
        if len(self._rights) >= _ACCOUNTS_MAX:
            self._rights.clear()
        terms = self._policy.terms_of(account)
        becoming = becoming_of(account, terms, self._spool.directory)
        self._rights[account.uid] = (account, terms, becoming)
        return terms, becoming

    def _launch(self, known: _Known, rank: int, terms: Terms, account: Account) -> LaunchSpec:
        job = known.job
        own = [b"GEXEC_MY_VNN=%d" % rank, b"GEXEC_NODE=" + job.names[rank]]
        if self._spool.directory:
            own.append(b"GEXEC_SPOOL=" + os.fsencode(self._spool.directory))
        return LaunchSpec(
            program=job.program,
            argv=job.argv,
            env=[*known.env, *own],
            cwd=job.cwd,
            umask=job.umask | terms.umask,
            remote_path=bool(job.flags & REMOTE_PATH),
            kill_grace_s=job.kill_grace_s,
            job_id=known.credential.job_id,
            rank=rank,
            leaves=self._policy.leave_leftovers,
            keeping=self._keeping(job, rank, account) if job.background else None,
        )

    def _keeping(self, job: JobSpec, rank: int, account: Account) -> Keeping:
        spool, background = self._spool, Background.decode(job.background)
        return Keeping(
            spool=spool.directory,
            jobs_max=spool.jobs_max,
            bytes_max=spool.bytes_max,
            name=background.name.decode(),
            keep_bytes=background.keep_bytes,
            lease_s=background.lease_s,
            holds=background.holds,
            timeout_s=job.timeout_s,
            node=os.fsdecode(job.names[rank]),
            ranks=job.ranks,
            user=account.name,
        )


def becoming_of(account: Account, terms: Terms, spool: str = "") -> Becoming:
    """Return what the helper of an account becomes."""
    return Becoming(
        uid=account.uid,
        gids=(account.gid, *[gid for gid in account.gids if gid != account.gid]),
        user=account.name,
        limits=terms.limits,
        nice=terms.nice,
        pam=terms.pam,
        allow_commands=terms.allow_commands,
        deny_commands=terms.deny_commands,
        spool=spool,
    )


def _env_of_all(job: JobSpec, credential: Credential) -> list[bytes]:
    """Return the environment entries that all processes of the job have in common."""
    env = list(job.env)
    if b"GEXEC_" in b"\0".join(env):  # most jobs have none: do not check each entry
        env = [entry for entry in env if not entry.startswith(_NODES_OWN)]
    env.append(b"GEXEC_JOB=" + credential.job_id.hex().encode())
    servers = b"GEXEC_SVRS=" + job.names_joined(b" ")
    if len(servers) <= limits.ARG_MAX_BYTES:
        env.append(servers)
    return env


def _told_apart(names: Iterable[str]) -> tuple[frozenset[bytes], frozenset[str]]:
    """Split a node's names into host names, in lower case, and addresses, in their normal form."""
    words = [name.lower().rstrip(".").encode("utf-8", "surrogateescape") for name in names]
    addresses = {address for word in words if (address := _address(word)) is not None}
    return frozenset([word for word in words if _address(word) is None]), frozenset(addresses)


def _address(word: bytes) -> str | None:
    if not (word[:1].isdigit() or b":" in word):
        return None  # ip_address is slow, and few host names begin with a digit
    try:
        return str(ip_address(word.decode("ascii").strip("[]").partition("%")[0]))
    except ValueError:
        return None
