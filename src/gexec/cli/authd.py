"""The command line of authd."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import Any

from gexec.authd.authd import Authd
from gexec.cli.daemon import daemon_parser, settle
from gexec.errors import GexecError
from gexec.posix.background import detach, logs_of, open_log
from gexec.posix.identity import set_title, take_stderr
from gexec.posix.readiness import announce
from gexec.settings.config import AuthdSettings, read_authd


def main(argv: list[str]) -> int:
    """Run authd with these arguments (without the program's name); return its exit status."""
    options = _parser().parse_args(argv)
    try:
        settle(options, "private_key", "public_key")
        settings = _settings(options)
        log_fd = None
        if options.daemon:
            logs = logs_of("authd", settings.socket, log=options.log or "", audit=settings.audit_log)
            log_fd = open_log(logs.log)
            settings = replace(settings, audit_log=logs.audit)
        service = Authd(settings, reread=lambda: _settings(options))
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
    parser = daemon_parser(
        "authd",
        "who got what",
        "Signs credentials for the users of this host, with the cluster's private key.",
        "SIGHUP reads the keys again, SIGTERM ends.",
    )
    private = "sign with it (default: /etc/auth_priv.pem)"
    parser.add_argument("--private-key", metavar="FILE", help=private)
    public = "its public half, as the nodes have it (default: /etc/auth_pub.pem; may be repeated)"
    parser.add_argument("--public-key", metavar="FILE", action="append", help=public)
    return parser


def _settings(options: argparse.Namespace) -> AuthdSettings:
    changes: dict[str, Any] = {
        name: value for name in ("socket", "private_key") if (value := getattr(options, name)) is not None
    }
    if options.audit_log is not None:
        changes["audit_log"] = tuple(options.audit_log)
    if options.public_key is not None:
        changes["public_keys"] = tuple(options.public_key)
    if options.realm is not None:
        changes["realm"] = options.realm
    return replace(read_authd(options.config), **changes)
