"""The command line of authd."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import Any

from gexec.authd.authd import Authd
from gexec.errors import GexecError
from gexec.native import manner
from gexec.posix.background import detach, logs_of, open_log, take_stderr
from gexec.posix.identity import set_title
from gexec.posix.readiness import announce
from gexec.settings.config import AuthdSettings, read_authd
from gexec.version import VERSION


def main(argv: list[str]) -> int:
    """Run authd with these arguments (without the program's name); return its exit status."""
    options = _parser().parse_args(argv)
    try:
        settings = _settings(options)
        log_fd = None
        if options.daemon:
            log = "" if options.log is None else os.path.abspath(options.log)
            logs = logs_of("authd", settings.socket, log=log, audit=settings.audit_log)
            log_fd = open_log(logs.log)
            settings = replace(settings, audit_log=logs.audit)
        service = Authd(settings)
    except GexecError as error:
        sys.stderr.write(f"authd: {error}\n")
        return 1
    told = [] if options.ready_fd is None else [options.ready_fd]
    if log_fd is not None:
        descriptor = detach()
        if descriptor is None:
            return 0
        told.append(descriptor)
        os.chdir("/")
        take_stderr(log_fd)
    set_title("authd")
    return service.run(ready=lambda: announce(*told))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="authd",
        description="Signs credentials for the users of this host, with the cluster's private key.",
        epilog="SIGHUP reads the keys again, SIGTERM ends. Settings: /etc/gexec/authd.toml.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-V", "--version", action="version", version=f"authd {VERSION} ({manner()})")
    add("-d", "--daemon", action="store_true", help="run in the background; returns when it listens")
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
    add(
        "--audit-log",
        metavar="FILE",
        help="write there who got what (default: stderr; with -d authd-audit.log beside the log)",
    )
    add(
        "--log",
        metavar="FILE",
        help="with -d: in place of stderr (default: /var/log/gexec/authd.log, or authd.log beside the "
        "socket of an ordinary user's)",
    )
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
