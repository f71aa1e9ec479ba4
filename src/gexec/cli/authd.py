"""The command line of authd."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import Any

from gexec.daemon.authd import Authd
from gexec.errors import GexecError
from gexec.host.config import AuthdSettings, read_authd
from gexec.host.readiness import announce
from gexec.version import VERSION

#: Where the audit log goes when there is no stderr and no file was named.
DAEMON_AUDIT_LOG = "/var/log/gexec/authd.log"


def main(argv: list[str]) -> int:
    """Run authd with these arguments (without the program's name); return its exit status."""
    options = _parser().parse_args(argv)
    try:
        settings = _settings(options)
        if options.daemon:
            settings = _with_audit_log(settings)
        service = Authd(settings)
    except GexecError as error:
        sys.stderr.write(f"authd: {error}\n")
        return 1
    told = [] if options.ready_fd is None else [options.ready_fd]
    if options.daemon:
        descriptor = _daemonize()
        if descriptor is None:
            return 0
        told.append(descriptor)
    return service.run(ready=lambda: announce(*told))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="authd",
        description="Signs credentials for the users of this host, with the cluster's private key.",
        epilog="SIGHUP reads the keys again, SIGTERM ends. Settings: /etc/gexec/authd.toml.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-V", "--version", action="version", version=f"authd {VERSION}")
    add("-d", "--daemon", action="store_true", help="run in the background")
    add("--config", metavar="FILE", help="settings (default: /etc/gexec/authd.toml if it exists)")
    add("--socket", metavar="PATH", help="listen there (default: /run/gexec/authd.sock)")
    add("--private-key", metavar="FILE", help="sign with it (default: /etc/auth_priv.pem)")
    add(
        "--public-key",
        metavar="FILE",
        action="append",
        help="its public half, as the nodes have it (default: /etc/auth_pub.pem; may be repeated)",
    )
    add("--realm", metavar="NAME", help="the cluster's name (default: gexec)")
    add("--audit-log", metavar="FILE", help="write there who got what (default: stderr)")
    add("--ready-fd", metavar="N", type=int, help="write a byte to this descriptor when listening")
    return parser


def _settings(options: argparse.Namespace) -> AuthdSettings:
    changes: dict[str, Any] = {
        name: os.path.abspath(value)
        for name in ("socket", "private_key", "audit_log")
        if (value := getattr(options, name)) is not None
    }
    if options.public_key is not None:
        changes["public_keys"] = tuple(os.path.abspath(path) for path in options.public_key)
    if options.realm is not None:
        changes["realm"] = options.realm
    return replace(read_authd(options.config), **changes)


def _with_audit_log(settings: AuthdSettings) -> AuthdSettings:
    """A daemon of root has no stderr: its audit log must go to a file."""
    if settings.audit_log or os.geteuid() != 0:
        return settings
    os.makedirs(os.path.dirname(DAEMON_AUDIT_LOG), mode=0o750, exist_ok=True)
    return replace(settings, audit_log=DAEMON_AUDIT_LOG)


def _daemonize() -> int | None:
    """Go into the background. The daemon gets a descriptor for ``announce``.

    The one who called gets None when the daemon listens, so that `authd -d && gexecd -d` is in order.
    """
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        if os.read(reading, 1):
            return None
        sys.stderr.write("authd: ended before it listened\n")
        os._exit(1)
    os.close(reading)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    return writing
