"""The relay's look at a job before it takes part: credential, digest, blob.

The spawner checks all of it again by itself (``spawner.admission``), since a relay is not trusted;
this check keeps a relay from dialling and forwarding for anybody who has no credential.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from gexec.security import credential as credentials
from gexec.security.credential import Credential
from gexec.security.keys import VerifyKey
from gexec.settings.config import GexecdSettings
from gexec.wire.jobspec import JobSpec

#: A node that stands several times in a job, or is attached again, does not pay for each.
_REMEMBERED: Final = 16
_REMEMBERED_MAX_BYTES: Final = 8 * 1024 * 1024


class _Checked:
    """A job that was found good, and how many machines of it live here."""

    __slots__ = ("blob", "credential", "lives", "spec")

    def __init__(self, blob: bytes, credential: Credential, spec: JobSpec) -> None:
        self.blob = blob
        self.credential = credential
        self.spec = spec
        self.lives = 0


class CredentialVerifier:
    """Verifies credentials; remembers the last few good ones, and those of jobs that live here.

    A job that runs for days is attached again long after its credential has expired: what counts
    is that it was good when the job came, so the job's own bytes stay good while it lives.
    """

    def __init__(self, settings: GexecdSettings, keys: Mapping[bytes, VerifyKey]) -> None:
        self._keys = keys
        self._settings = settings
        self._known: OrderedDict[bytes, _Checked] = OrderedDict()
        self._known_bytes = 0
        self._live: dict[bytes, _Checked] = {}

    def keep(self, raw: bytes) -> None:
        """A job with this credential, just checked, lives here from now on."""
        checked = self._live.get(raw)
        if checked is None:
            checked = self._live[raw] = self._known[raw]
            self._drop(raw)
        checked.lives += 1

    def release(self, raw: bytes) -> None:
        """One of the jobs with this credential has ended; with the last one all is forgotten."""
        checked = self._live[raw]
        checked.lives -= 1
        if not checked.lives:
            del self._live[raw]

    def reload(self, keys: Mapping[bytes, VerifyKey]) -> None:
        """Take new keys; what was verified with the old ones is forgotten, but for the jobs that live."""
        self._keys = keys
        self._known.clear()
        self._known_bytes = 0

    def check(self, raw: bytes, blob: bytes) -> tuple[Credential, JobSpec]:
        """Return what a credential and its blob say.

        Raises:
            CredentialError: the credential is not acceptable now, or is bound to another job.
            ProtocolError: the blob is not a job.
        """
        known = self._live.get(raw) or self._known.get(raw)
        if known is not None and known.blob == blob:
            return known.credential, known.spec
        credential = credentials.verify(
            raw,
            self._keys,
            realm=self._settings.realm,
            audience="gexec",
            now_s=time.time(),
            skew_s=self._settings.clock_skew_s,
            ttl_max_s=self._settings.credential_ttl_max_s,
        )
        credentials.bound_to(credential, blob)
        spec = JobSpec.decode(blob, words=False)
        spec.env = []  # for the spawner, which reads it from the blob
        self._drop(raw)
        self._known[raw] = _Checked(blob, credential, spec)
        self._known_bytes += len(blob)
        while len(self._known) > 1 and (
            len(self._known) > _REMEMBERED or self._known_bytes > _REMEMBERED_MAX_BYTES
        ):
            self._drop(next(iter(self._known)))
        return credential, spec

    def shared(self, raw: bytes, blob: bytes) -> bytes:
        """Return the one copy of a blob that was just checked: many ranks of a job may be on one node."""
        known = self._live.get(raw) or self._known.get(raw)
        return known.blob if known is not None and known.blob == blob else blob

    def forget_known(self) -> None:
        """Forget the jobs that were checked and do not live here (they were refused)."""
        self._known.clear()
        self._known_bytes = 0

    def _drop(self, raw: bytes) -> None:
        known = self._known.pop(raw, None)
        if known is not None:
            self._known_bytes -= len(known.blob)
