"""What users share in one relay (``security.quota``)."""

from __future__ import annotations

from gexec import limits
from gexec.security.quota import ROOT, Shares
from gexec.settings.config import GexecdSettings


class Quotas:
    """The shared resources of one relay.

    Args:
        superuser: root, or the user of a daemon that serves only that user.

    Attributes:
        ranks: ranks of jobs, without roots, which clients bound.
        clients: connections of clients.
    """

    def __init__(self, settings: GexecdSettings, superuser: int = ROOT) -> None:
        self.ranks = Shares(settings.jobs_max, superuser)
        self.clients = Shares(limits.CLIENTS_MAX, superuser)
