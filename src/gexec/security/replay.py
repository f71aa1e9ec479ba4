"""At most once: the (key id, job id, rank)s that this node has accepted (attacks 20 to 24, 63).

Pure and bounded. It fails closed: if an entry cannot be stored, the rank is refused; a dropped entry can
never be accepted again, even if the clock goes back. Times are wall-clock seconds from the caller; the entry
of a credential is kept as long as the credential could be accepted.
"""

from __future__ import annotations

import heapq
from typing import Any

from gexec import limits
from gexec.errors import CredentialError
from gexec.security.quota import ROOT, Shares


class ReplayCache:
    """Remembers each (key id, job id, rank) until its credential has expired.

    Args:
        entries_max: entries of all ordinary users together.
        superuser: as for ``security.quota.Shares``.
    """

    __slots__ = ("_entries", "_expiries", "_forgotten_until_s", "_shares")

    def __init__(self, entries_max: int = limits.REPLAY_ENTRIES_MAX, superuser: int = ROOT) -> None:
        self._shares = Shares(entries_max, superuser)
        self._entries: dict[tuple[bytes, int], int] = {}
        self._expiries: list[tuple[float, bytes, int]] = []
        self._forgotten_until_s = float("-inf")

    def __len__(self) -> int:
        return len(self._entries)

    def claim(
        self, key_id: bytes, job_id: bytes, rank: int, *, uid: int, expires_s: float, now_s: float
    ) -> None:
        """Record (key_id, job_id, rank), which may happen only once. O(log entries).

        Args:
            key_id: of the signer: no signer can use up the ids of another one's jobs.
            expires_s: when the credential can no longer be accepted, including clock skew.

        Raises:
            CredentialError: code ``replayed``, ``forgotten`` (the clock went back to before the expiry of a
                dropped entry) or ``replay-full``.
        """
        self._expire(now_s)
        key = (key_id + job_id, rank)
        if key in self._entries:
            raise CredentialError(
                "replayed", f"job {job_id.hex()}: rank {rank} was already accepted by this node; it runs once"
            )
        if expires_s <= self._forgotten_until_s:
            raise CredentialError(
                "forgotten",
                f"job {job_id.hex()}: this node's clock went back, so it cannot tell whether the job is new; "
                "send it again with a new credential",
            )
        if not self._shares.take(uid):
            raise CredentialError(
                "replay-full",
                f"this node has taken {len(self._entries)} jobs whose credentials are still valid "
                f"({self._shares.used(uid)} of uid {uid}) and can remember no more; try again in a minute",
            )
        self._entries[key] = uid
        heapq.heappush(self._expiries, (expires_s, key[0], rank))

    def save(self) -> dict[str, Any]:
        """Return its entries in types that JSON can represent, for the program that continues this one."""
        entries = [
            (expires_s, of_job.hex(), rank, self._entries[(of_job, rank)])
            for expires_s, of_job, rank in self._expiries
        ]
        # JSON has no infinity.
        until_s = None if self._forgotten_until_s == float("-inf") else self._forgotten_until_s
        return {"entries": entries, "forgotten_until_s": until_s}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take the entries that ``save`` returned, into a cache that has none."""
        for expires_s, of_job, rank, uid in saved["entries"]:
            key = (bytes.fromhex(of_job), int(rank))
            self._entries[key] = uid
            heapq.heappush(self._expiries, (float(expires_s), *key))
            self._shares.charge(uid, 1)
        if saved["forgotten_until_s"] is not None:
            self._forgotten_until_s = saved["forgotten_until_s"]

    def _expire(self, now_s: float) -> None:
        while self._expiries and self._expiries[0][0] < now_s:
            expires_s, of_job, rank = heapq.heappop(self._expiries)
            self._forgotten_until_s = max(self._forgotten_until_s, expires_s)
            self._shares.give(self._entries.pop((of_job, rank)))
