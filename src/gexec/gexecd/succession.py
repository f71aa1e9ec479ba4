"""The successor of a running relay: the code that is installed now, with that relay's jobs and clients.

The spawner runs this program for an upgrade. It enrols and confines itself as at gexecd's start; only then it
asks for the state. Until it has taken all of it, the running relay can continue. Modules are imported when
the compiled ones were chosen.
"""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING, Any, Final

from gexec import native

if TYPE_CHECKING:
    from gexec.settings.config import GexecdSettings

#: Descriptors: the channel to the spawner, the socket to the running relay, and a memfd with ``argument``.
#: If the relay died, there is nothing at its socket, and the listening sockets follow the memfd.
CHANNEL_FD, PREDECESSOR_FD, MEMFD = 3, 4, 5


def argument(settings: GexecdSettings, names: tuple[str, ...], relay_user: tuple[int, int] | None) -> str:
    """Return what a successor must know, beside trust and the source of its certificate: JSON."""
    told = {name: getattr(settings, name) for name in type(settings).__dataclass_fields__ if name != "policy"}
    return json.dumps({"settings": told, "names": names, "relay_user": relay_user})


def main(argv: list[str]) -> int:
    """Take over from the running relay and serve; return an exit status, 1 if it cannot be done."""
    native.prefer()
    import encodings.idna  # noqa: F401  for host names in TLS

    from gexec.errors import GexecError
    from gexec.posix.log import stderr_log

    log = stderr_log("gexecd").named("gexecd-relay")
    try:
        return _serve()
    except GexecError as error:
        log.error(str(error))
    except Exception as defect:
        log.error(f"the relay failed: {type(defect).__name__}: {defect}")
        for line in traceback.format_exc().splitlines():
            log.debug(line)
    return 1


def _serve() -> int:
    import os
    import socket

    from gexec.gexecd.enrolment import CertificateSource, enrol_apart
    from gexec.gexecd.relaying import become_relay, refuse_files
    from gexec.posix import channel
    from gexec.posix.log import stderr_log
    from gexec.relay.context import RelayContext
    from gexec.relay.relay import run_relay
    from gexec.security.signers import Trust

    log = stderr_log("gexecd").named("gexecd-relay")
    told = json.loads(channel.unsealed(MEMFD))
    enrolment = enrol_apart(CertificateSource.from_argument(told["certificate"]), _AUTHD_PATIENCE_S)
    superuser = os.geteuid()
    relay_user = told["relay_user"]
    replaces = "last_task" in told  # a relay that died, and handed nothing over
    first = MEMFD + 1
    listeners = range(first, first + told["listeners"]) if replaces else range(0)
    clients = range(listeners.stop, listeners.stop + told["clients"]) if replaces else range(0)
    keep = (CHANNEL_FD, *listeners, *clients) if replaces else (CHANNEL_FD, PREDECESSOR_FD)
    become_relay(keep, tuple(relay_user) if relay_user else None, log)
    refuse_files(log)
    context = RelayContext(
        listeners=[socket.socket(fileno=fd) for fd in listeners],
        client_listeners=[socket.socket(fileno=fd) for fd in clients],
        channel_socket=socket.socket(fileno=CHANNEL_FD),
        certificates=enrolment[:3],
        names=tuple(told["names"]),
        settings=_settings(told["settings"]),
        superuser=superuser,
        trust=Trust.decode(told["trust"]),
        ready=lambda: None,
        log=log,
        predecessor=None if replaces else socket.socket(fileno=PREDECESSOR_FD),
        expires_s=int(enrolment.expires_s),
        last_task=told["last_task"] if replaces else None,
    )
    return run_relay(context)


#: How long it waits for authd.
_AUTHD_PATIENCE_S: Final = 15.0


def _settings(told: dict[str, Any]) -> GexecdSettings:
    """Return the settings of ``argument``; those that this version does not have are left out."""
    from gexec.settings.config import GexecdSettings

    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in told.items()
        if name in GexecdSettings.__dataclass_fields__
    }
    return GexecdSettings(**known)
