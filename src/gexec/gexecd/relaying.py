"""Becoming the relay: what the process gives up before it reads a byte from the network."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from gexec import limits
from gexec.posix import confinement, identity
from gexec.posix.log import Log


def become_relay(keep: Sequence[int], relay_user: tuple[int, int] | None, log: Log) -> None:
    """Make the calling process a relay; everything that it needs must be loaded.

    Args:
        keep: all other descriptors from 3 on are closed.
        relay_user: uid and gid, if it is root now.
        log: gets what this kernel does not permit.

    Raises:
        OSError: the caller must exit.
    """
    for signum in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)
    # ^C in a terminal and SIGHUP are for the spawner, which decides what the relay does.
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    identity.close_inherited(keep)
    identity.null_stdio((0, 1))
    identity.raise_descriptors(limits.DESCRIPTORS_MAX)
    identity.set_title("gexecd-relay")
    _give_up(relay_user, log)


def _give_up(relay_user: tuple[int, int] | None, log: Log) -> None:
    """Give up what a relay never needs: root, and most system calls (0025-hardening.md)."""
    missing = []
    if relay_user is not None:
        missing = confinement.give_up_capabilities()
        identity.drop_to(*relay_user, ())
        confinement.drop_inheritable()
        identity.forbid_tracing()
    identity.forbid_new_privileges()
    for sentence in [*missing, *confinement.refuse_calls()]:
        log.warning(f"the relay is less confined: {sentence}")


def refuse_files(log: Log) -> None:
    """Give up files: when everything is loaded and open, and nothing from the network has been read."""
    for sentence in confinement.refuse_files([os.devnull]):
        log.warning(f"the relay is less confined: {sentence}")
