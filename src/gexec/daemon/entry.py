"""The relay's look at a job before it takes part: credential, digest, blob.

The spawner checks all of it again by itself (``daemon.vetting``), since a relay is not trusted;
this check keeps a relay from dialling and forwarding for anybody who has no credential.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping

from gexec.core.jobspec import JobSpec
from gexec.host.config import GexecdSettings
from gexec.security import credential as credentials
from gexec.security.credential import Credential
from gexec.security.keys import VerifyKey

#: A node that stands several times in a job, or is attached again, does not pay for each.
_REMEMBERED = 16


class Entry:
    """Verifies credentials; remembers the last few good ones with their jobs."""

    def __init__(self, settings: GexecdSettings, keys: Mapping[bytes, VerifyKey]) -> None:
        self._keys = keys
        self._settings = settings
        self._known: OrderedDict[bytes, tuple[bytes, Credential, JobSpec]] = OrderedDict()

    def check(self, raw: bytes, blob: bytes) -> tuple[Credential, JobSpec]:
        """Return what a credential and its blob say.

        Raises:
            CredentialError: the credential is not acceptable now, or is bound to another job.
            ProtocolError: the blob is not a job.
        """
        known = self._known.get(raw)
        if known is not None and known[0] == blob:
            return known[1], known[2]
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
        spec = JobSpec.decode(blob)
        self._known[raw] = (blob, credential, spec)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return credential, spec
