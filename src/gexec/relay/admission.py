"""The relay's check of a job before it takes part: credential, digest, blob.

The spawner checks everything again itself (``spawner.admission``), because it does not trust the relay. This
check prevents the relay from dialling and forwarding for clients without a credential.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from gexec.security import credential as credentials
from gexec.security.credential import Credential
from gexec.security.signers import Signer
from gexec.settings.config import GexecdSettings
from gexec.wire.jobspec import JobSpec

#: Jobs that are remembered, so that a node that is listed several times in a job, or attached again, verifies
#: once.
_REMEMBERED: Final = 16
_REMEMBERED_MAX_BYTES: Final = 8 * 1024 * 1024


class _Checked:
    """A job that passed the checks, and the number of its machines in this process."""

    __slots__ = ("blob", "credential", "lives", "spec")

    def __init__(self, blob: bytes, credential: Credential, spec: JobSpec) -> None:
        self.blob = blob
        self.credential = credential
        self.spec = spec
        self.lives = 0


class CredentialVerifier:
    """Verifies credentials; remembers the last few valid ones, and those of jobs in this process.

    A job that runs for days can be attached again long after its credential has expired. The credential must
    have been valid when the job arrived; then these bytes stay accepted while the job exists.
    """

    def __init__(self, settings: GexecdSettings, signers: Mapping[bytes, Signer]) -> None:
        self._signers = signers
        self._settings = settings
        self._known: OrderedDict[bytes, _Checked] = OrderedDict()
        self._known_bytes = 0
        self._live: dict[bytes, _Checked] = {}
        #: SHA-256 of credentials that the spawner has accepted.
        self._expected: set[bytes] = set()

    def expect(self, digest: bytes | None) -> None:
        """Accept the credential with this SHA-256, as the spawner has done. None: no such one any more."""
        if digest is None:
            self._expected.clear()
        else:
            self._expected.add(digest)

    def keep(self, raw: bytes) -> None:
        """Keep this credential, just checked, because a job with it begins here."""
        checked = self._live.get(raw)
        if checked is None:
            checked = self._live[raw] = self._known[raw]
            self._drop(raw)
        checked.lives += 1

    def known(self, raw: bytes, blob: bytes) -> tuple[Credential, JobSpec]:
        """Return the content of a credential that the relay before this one has verified, for ``keep``."""
        checked = self._live.get(raw) or self._known.get(raw)
        if checked is None:
            checked = self._remember(raw, blob, credentials.content(raw))
        return checked.credential, checked.spec

    def release(self, raw: bytes) -> None:
        """One of the jobs with this credential has ended; after the last one it is forgotten."""
        checked = self._live[raw]
        checked.lives -= 1
        if not checked.lives:
            del self._live[raw]

    def reload(self, signers: Mapping[bytes, Signer]) -> None:
        """Use new signers; forget what was verified with the old ones, except for existing jobs."""
        self._signers = signers
        self._known.clear()
        self._known_bytes = 0

    def check(self, raw: bytes, blob: bytes, runs_here: bool = True) -> tuple[Credential, JobSpec]:
        """Return the content of a credential and its blob.

        Args:
            runs_here: False if this daemon only passes the job on, as the root of its tree.

        Raises:
            CredentialError: the credential is not acceptable (now), or is bound to another job.
            ProtocolError: the blob is not a job.
        """
        known = self._live.get(raw) or self._known.get(raw)
        if known is not None and known.blob == blob:
            return known.credential, known.spec
        if self._expected and hashlib.sha256(raw).digest() in self._expected:
            credential = credentials.content(raw)
        else:
            credential = credentials.verify(
                raw,
                self._signers,
                realm=self._settings.realm,
                audience="gexec",
                now_s=time.time(),
                skew_s=self._settings.clock_skew_s,
                ttl_max_s=self._settings.credential_ttl_max_s,
                runs_here=runs_here,
            )
        credentials.bound_to(credential, blob)
        return credential, self._remember(raw, blob, credential).spec

    def _remember(self, raw: bytes, blob: bytes, credential: Credential) -> _Checked:
        spec = JobSpec.decode(blob, words=False)
        spec.env = []  # for the spawner, which reads it from the blob
        self._drop(raw)
        checked = self._known[raw] = _Checked(blob, credential, spec)
        self._known_bytes += len(blob)
        while len(self._known) > 1 and (
            len(self._known) > _REMEMBERED or self._known_bytes > _REMEMBERED_MAX_BYTES
        ):
            self._drop(next(iter(self._known)))
        return checked

    def shared(self, raw: bytes, blob: bytes) -> bytes:
        """Return the shared copy of a blob that was just checked: many ranks of a job may be on one node."""
        known = self._live.get(raw) or self._known.get(raw)
        return known.blob if known is not None and known.blob == blob else blob

    def forget_known(self) -> None:
        """Forget checked jobs that do not exist here (they were refused)."""
        self._known.clear()
        self._known_bytes = 0

    def _drop(self, raw: bytes) -> None:
        known = self._known.pop(raw, None)
        if known is not None:
            self._known_bytes -= len(known.blob)
