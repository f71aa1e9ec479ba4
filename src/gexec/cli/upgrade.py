"""`gexecctl upgrade`: start the code that is installed, under running jobs."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from gexec.errors import DaemonError, ProtocolError
from gexec.limits import PROTOCOL_VERSION
from gexec.posix import unix
from gexec.settings.config import read_gexecd
from gexec.version import VERSION
from gexec.wire.frames import FROM_ROOT, Decoder, Hello, Refused, encode
from gexec.wire.orders import Upgrade, Upgraded

#: How long connecting may take, and the whole upgrade: its steps have times of their own.
_CONNECT_S = 5.0
_WITHIN_S = 240.0


def add_upgrade(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of `gexecctl upgrade`."""
    parser.description = (
        "Make the gexecd of this host start the code that is installed now. Running jobs continue."
    )
    parser.add_argument("--force", action="store_true", help="even if this code runs already")
    parser.add_argument("--config", metavar="FILE", help="gexecd's settings, which name its socket")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask for the upgrade, wait until it is done, and print the report; return the exit status."""
    path = read_gexecd(options.config).socket
    answer = _asked(path, options.force)
    if not answer.done:
        sys.stderr.write(f"gexecctl: not upgraded: {answer.text}\n")
        return 1
    print(answer.text)
    return 0


def _asked(path: str, forced: bool) -> Upgraded:
    """Return the answer of the gexecd at this socket.

    Raises:
        DaemonError: it cannot be asked, refuses, or does not answer.
    """
    with closing(unix.connect(path, "gexecd", DaemonError, _CONNECT_S)) as sock:
        sock.settimeout(_WITHIN_S)
        hello = Hello(PROTOCOL_VERSION, f"gexec {VERSION}")
        decoder = Decoder(FROM_ROOT)
        try:
            sock.sendall(encode(0, hello) + encode(1, Upgrade(forced)))
            while data := sock.recv(65536):
                for _, frame in decoder.feed(data):
                    if isinstance(frame, Upgraded):
                        return frame
                    if isinstance(frame, Refused):
                        raise DaemonError(f"gexecd refuses: {frame.text}")
        except TimeoutError:
            raise DaemonError(f"gexecd does not answer within {_WITHIN_S:g} s: see its log") from None
        except (OSError, ProtocolError) as error:
            raise DaemonError(f"gexecd at {path}: {error}") from error
    raise DaemonError(
        "gexecd closed the connection without an answer: it has ended (see its log), or is too old to be "
        "upgraded under running jobs"
    )
