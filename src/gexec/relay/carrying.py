"""Carrying the jobs of one relay over to the next: their state, and how the next one continues with it.

Links between daemons cannot be carried over, because TLS keeps its state in the process. The peers find them
lost, and attach again as after any loss (docs/protocol.md, Loss). Clients and processes notice a pause only.
This module uses only ports (``relay.ports``): the simulator runs the same code.
"""

from __future__ import annotations

from collections.abc import Sequence

from gexec.core.continuing import continued
from gexec.core.saving import Saved
from gexec.relay.job import ROOT, RelayJob
from gexec.relay.jobs import Jobs
from gexec.relay.ports import LinkPort


def clients(jobs: Jobs) -> list[LinkPort]:
    """Return the links of all clients."""
    return [link for link, party in jobs.parties.items() if party.uid is not None]


def save(jobs: Jobs, fds: list[int]) -> Saved:
    """Return the state of all jobs; their descriptors are added to ``fds``."""
    numbers = {link: number for number, link in enumerate(clients(jobs))}
    owners: dict[tuple[bytes, int], tuple[int, int, int]] = {}
    for link, number in numbers.items():
        for channel, (job, parent) in jobs.parties[link].parents.items():
            owners[job.key] = (number, channel, parent)
    by_credential: dict[bytes, Saved] = {}
    for job in jobs.by_key.values():
        # The bytes of a job are the same for all of its ranks here.
        each = by_credential.setdefault(job.credential, {"id": job.key[0], "blob": job.blob, "jobs": []})
        each["jobs"].append(job.save(fds) | {"client": owners.get(job.key)})
    awaited = [jobs.parties[link].deadline is not None for link in numbers]
    return {
        "awaited": awaited,
        "clock": jobs.clock.save(),
        "parents": jobs.last_parent,
        "jobs": by_credential,
    }


def restore(jobs: Jobs, saved: Saved, links: Sequence[LinkPort]) -> list[RelayJob]:
    """Make all jobs again, in a relay that has none; return them, for ``go_on``.

    Args:
        links: the links of the clients, in the order of ``clients``.

    Raises:
        KeyError, TypeError, ValueError, GexecError: the state is not one of this version.
    """
    jobs.clock.restore(saved["clock"], jobs.around.timers.time())
    jobs.last_parent = saved["parents"]
    made = []
    for raw, each in saved["jobs"].items():
        credential, spec = jobs.around.entry.known(raw, each["blob"])
        for state in each["jobs"]:
            low = state["low"]
            machine = continued(
                state["machine"],
                job_id=each["id"],
                low=low,
                spec=spec,
                credential=raw,
                blob=each["blob"],
                orphan_grace_s=jobs.orphan_grace_s,
            )
            job = RelayJob(jobs, (each["id"], low), machine, spec, raw, each["blob"], credential.uid)
            jobs.by_key[job.key] = job
            if low != ROOT:
                jobs.around.quotas.take_rank(job.uid, spec)
            jobs.around.entry.keep(raw)
            if state["client"] is not None:
                number, channel, parent = state["client"]
                jobs.join(job, links[number], channel, parent)
            job.restore(state)
            made.append(job)
            jobs.beat_soon()  # a pause before ``go_on`` must show before the job sets a deadline
    for link, awaited in zip(links, saved["awaited"], strict=True):
        if awaited:
            jobs.link_opened(link)  # its job must still come
    return made
