"""Renewing gexecd's certificate when half of its time is over."""

from __future__ import annotations

import os
import signal
import time
from typing import Final, NoReturn

from gexec.errors import GexecError
from gexec.gexecd.enrolment import enrol
from gexec.posix import clock, identity
from gexec.posix.log import Log
from gexec.spawner.spawner import Spawner
from gexec.wire.messages import Certificates

_RETRY_S: Final = 60.0
_SOONEST_S: Final = 1.0


class Renewal:
    """Asks authd for the next certificate in a child of its own, so that a slow authd stops no job."""

    def __init__(self, spawner: Spawner, authd_socket: str, names: tuple[str, ...], log: Log) -> None:
        self._spawner = spawner
        self._authd_socket = authd_socket
        self._names = names
        self._log = log

    def before(self, expires_s: float) -> None:
        """Renew a certificate that is valid until this UNIX time, in the middle of what is left of it."""
        self._in(max(_SOONEST_S, (expires_s - time.time()) / 2))

    def _in(self, wait_s: float) -> None:
        self._spawner.loop.call_at(clock.now_s() + wait_s, self._renew)

    def _renew(self) -> None:
        ends: tuple[int, ...] = ()
        try:
            read, write = ends = os.pipe()
            pid = os.fork()
        except OSError as error:
            for end in ends:
                os.close(end)
            self._again(error.strerror or "it cannot be asked for")
            return
        if pid == 0:
            self._ask(write)
        os.close(write)
        self._spawner.adopt(pid, lambda status: None)
        self._spawner.loop.watch(read, lambda: self._answered(read))

    def _ask(self, write: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            # By a signal it ends, as a process that handles none.
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(signum, signal.SIG_DFL)
            identity.close_inherited([write])
            enrolment = enrol(self._authd_socket, self._names, patience_s=1.0)
            with os.fdopen(write, "wb") as pipe:
                pipe.write(b"\0".join((*enrolment[:3], b"%d" % enrolment.expires_s)))
        except (GexecError, OSError) as error:
            self._log.warning(f"certificate not renewed: {error}; trying again")
        finally:
            os._exit(0)

    def _answered(self, read: int) -> None:
        self._spawner.loop.unwatch(read)
        with os.fdopen(read, "rb") as pipe:
            raw = pipe.read()
        if not raw:
            self._in(_RETRY_S)
            return
        try:
            key, certificate, authority, expires = raw.split(b"\0")  # PEM holds no NUL
            expires_s = float(expires)
        except ValueError:
            self._again("the answer was cut short")
            return
        self.before(expires_s)
        self._spawner.tell(Certificates(key, certificate, authority))

    def _again(self, why: str) -> None:
        self._log.warning(f"certificate not renewed: {why}; trying again")
        self._in(_RETRY_S)
