"""The command line of gexecd."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from gexec.cli.daemon import daemon_parser, settle
from gexec.errors import GexecError
from gexec.gexecd import activation
from gexec.gexecd.gexecd import Gexecd
from gexec.posix.background import detach, logs_of, open_log
from gexec.settings.config import read_gexecd


def main(argv: list[str]) -> int:
    """Run gexecd with these arguments (without the program's name); return its exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.inetd and options.daemon:
        parser.error("-i and -d: inetd (wait) listens itself while its daemon is in the background")
    told = [] if options.ready_fd is None else [options.ready_fd]
    try:
        settle(options, "authd_socket", "hosts", "public_key")
        inherited = [activation.inetd_listener()] if options.inetd else activation.systemd_listeners()
        changes = _changes(options)
        base = read_gexecd(options.config)
        if "names" in changes:
            changes["names"] = (*base.names, *changes["names"])
        settings = replace(base, **changes)
        log_fd = -1
        if options.daemon:
            logs = logs_of("gexecd", settings.socket, log=options.log or "", audit=settings.audit_log)
            log_fd = open_log(logs.log)
            settings = replace(settings, audit_log=logs.audit)
        service = Gexecd(settings, inherited=inherited)
        service.config, service.given = options.config or "", frozenset(changes)
        if log_fd >= 0:
            service.log_fd = log_fd
            descriptor = detach()
            if descriptor is None:
                return 0
            told.append(descriptor)
        service.execute(told)
    except GexecError as error:
        sys.stderr.write(f"gexecd: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = daemon_parser(
        "gexecd",
        "who ran what",
        "Runs the commands that gexec sends to this node.",
        "SIGHUP reads keys and policy again, SIGTERM ends when the running jobs have.",
    )
    add = parser.add_argument
    add("-P", "--port", metavar="PORT", type=int, help="listen on this TCP port (default: 2875)")
    bind = "listen on it only (default: all; may be repeated)"
    add("--bind", metavar="ADDRESS", action="append", help=bind)
    inetd = "take the listening socket that inetd (wait) gives on stdin"
    add("-i", "--inetd", action="store_true", help=inetd)
    add("--authd-socket", metavar="PATH", help="where authd listens (default: /run/gexec/authd.sock)")
    key = "accept what its private half signed (default: /etc/auth_pub.pem; may be repeated)"
    add("--public-key", metavar="FILE", action="append", help=key)
    add("--name", metavar="NAME", action="append", help="one more name of this node (may be repeated)")
    add("--hosts", metavar="FILE", help="names, in the form of /etc/hosts, looked up first")
    add("--relay-user", metavar="USER", help="as root: what the relay runs as (default: gexec)")
    return parser


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the command line determines; ``names`` are added to those of the file."""
    changes: dict[str, Any] = {
        name: value
        for name in ("socket", "authd_socket", "hosts")
        if (value := getattr(options, name)) is not None
    }
    if options.audit_log is not None:
        changes["audit_log"] = tuple(options.audit_log)
    if options.public_key is not None:
        changes["public_keys"] = tuple(options.public_key)
    if options.bind is not None:
        changes["bind"] = tuple(options.bind)
    if options.name is not None:
        changes["names"] = tuple(options.name)
    for name in ("port", "realm", "relay_user"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    return changes
