"""Renewing gexecd's certificate when half of its time is over."""

from __future__ import annotations

import os
import signal
import time
from typing import Final, NoReturn

from gexec.daemon.enrolment import enrol
from gexec.daemon.spawner import Spawner
from gexec.errors import GexecError
from gexec.observe.log import Log
from gexec.proc import clock, identity
from gexec.proc.messages import Certificates

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
        read, write = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(read)
            os.close(write)
            self._log.warning(f"certificate not renewed: {error.strerror}; trying again")
            self._in(_RETRY_S)
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
        except GexecError as error:
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
        key, certificate, authority, expires_s = raw.split(b"\0")  # PEM holds no NUL
        self._spawner.tell(Certificates(key, certificate, authority))
        self.before(float(expires_s))
