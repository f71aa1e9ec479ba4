"""What a local cluster consists of: authd and the nodes' gexecds with their settings, ready to start."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gexec import limits
from gexec.cluster import private
from gexec.cluster.daemon import Body, Daemon
from gexec.cluster.layout import Layout, LocalNode

if TYPE_CHECKING:
    from gexec.settings.config import GexecdSettings


@dataclass(frozen=True, slots=True)
class ClusterNetwork:
    """Networks of the nodes of a cluster, made by the caller: for tests of faults (laboratory.network).

    Attributes:
        addresses: one for each node.
        enter: called with the node's index in its first process, before that opens anything.
    """

    addresses: Sequence[str]
    enter: Callable[[int], None]


@dataclass(frozen=True)
class ClusterPlan:
    """The arguments of `control.up`."""

    count: int
    port: int | None
    base: GexecdSettings
    private_folders: list[str]
    private_size_mib: int
    hardened: bool
    network: ClusterNetwork | None


def daemons_of(place: Layout, nodes: list[LocalNode], port: int, wanted: ClusterPlan) -> list[Daemon]:
    """Return authd and the nodes' gexecds, ready to start; imports what they need."""
    base = wanted.base
    # Imported here, because only the supervisor needs them. What a real gexecd imports after its forks
    # (relay, starter) too: everything that the daemons need should be in pages that they share.
    from gexec.authd import authd
    from gexec.cluster import hardened
    from gexec.cluster.warm import warm
    from gexec.gexecd import gexecd
    from gexec.gexecd.relay_user import local_identity
    from gexec.relay import relay  # noqa: F401
    from gexec.settings.config import AuthdSettings
    from gexec.spawner import starter  # noqa: F401

    warm()
    relay_user = local_identity(base.relay_user) if os.geteuid() == 0 else None

    authd_settings = AuthdSettings(
        socket=str(place.authd_socket),
        private_key=str(place.private_key),
        public_keys=(str(place.public_key),),
        realm=base.realm,
        # Clients submit to the first node's gexecd, and no other node has this name in its certificate.
        host=nodes[0].name,
        audit_log=(str(place.audit("authd")),),
        # All daemons run as one user here, and request their certificates within seconds.
        rate_per_user=max(limits.AUTHD_RATE_PER_UID, float(len(nodes))),
    )

    if wanted.hardened:
        authd_settings = hardened.authd_settings(authd_settings, place, nodes[0].name)

    def authd_body(ready: Callable[[], None]) -> None:
        authd.serve(authd_settings, ready=ready)

    def gexecd_body(index: int, node: LocalNode) -> Body:
        settings = _settings_of(node, place, port, wanted, is_head=node is nodes[0])

        def body(ready: Callable[[], None]) -> None:
            if wanted.network is not None:
                wanted.network.enter(index)
            private.enter(wanted.private_folders, wanted.private_size_mib)
            gexecd.serve(settings, ready=ready, relay_user=relay_user)

        return body

    return [
        Daemon("authd", authd_body, place.log("authd")),
        *(
            Daemon(node.name, gexecd_body(index, node), place.log(node.name), node.name)
            for index, node in enumerate(nodes)
        ),
    ]


def _settings_of(
    node: LocalNode, place: Layout, port: int, wanted: ClusterPlan, is_head: bool
) -> GexecdSettings:
    settings = replace(
        wanted.base,
        port=port,
        bind=(node.address,),
        socket=str(place.socket(node.name)),
        authd_socket=str(place.authd_socket),
        public_keys=(str(place.public_key),),
        names=(node.name, node.address),
        find_names=False,
        hosts=str(place.hosts),
        audit_log=(str(place.audit(node.name)),),
        spool=str(place.spool(node.name)),
    )
    if not wanted.hardened:
        return settings
    from gexec.cluster import hardened

    return hardened.gexecd_settings(settings, place, node.name, is_head)
