"""The command line of gexecd."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gexec.errors import GexecError
from gexec.gexecd import activation
from gexec.gexecd.gexecd import Gexecd
from gexec.native import manner
from gexec.posix.background import detach, logs_of, open_log
from gexec.posix.readiness import announce
from gexec.settings.config import GexecdSettings, read_gexecd
from gexec.version import VERSION


def main(argv: list[str]) -> int:
    """Run gexecd with these arguments (without the program's name); return its exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.inetd and options.daemon:
        parser.error("-i and -d: inetd (wait) listens itself while its daemon is in the background")
    told = [] if options.ready_fd is None else [options.ready_fd]
    try:
        inherited = [activation.inetd_listener()] if options.inetd else activation.systemd_listeners()
        settings = _settings(options)
        log_fd = None
        if options.daemon:
            logs = logs_of("gexecd", settings.socket, log=_absolute(options.log), audit=settings.audit_log)
            log_fd = open_log(logs.log)
            settings = replace(settings, audit_log=logs.audit)
        service = Gexecd(settings, inherited=inherited)
        service.reread = _reader(options.config)
        if log_fd is not None:
            service.log_fd = log_fd
            descriptor = detach()
            if descriptor is None:
                return 0
            told.append(descriptor)
        return service.run(ready=lambda: announce(*told))
    except GexecError as error:
        sys.stderr.write(f"gexecd: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gexecd",
        description="Runs the commands that gexec sends to this node.",
        epilog="SIGHUP reads keys and policy again, SIGTERM ends when the running jobs have. "
        "Settings: /etc/gexec/gexecd.toml.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-V", "--version", action="version", version=f"gexecd {VERSION} ({manner()})")
    add("-P", "--port", metavar="PORT", type=int, help="listen on this TCP port (default: 2875)")
    add(
        "--bind", metavar="ADDRESS", action="append", help="listen on it only (default: all; may be repeated)"
    )
    add("-d", "--daemon", action="store_true", help="run in the background; returns when it listens")
    add(
        "-i",
        "--inetd",
        action="store_true",
        help="take the listening socket that inetd (wait) gives on stdin",
    )
    add("--config", metavar="FILE", help="settings (default: /etc/gexec/gexecd.toml if it exists)")
    add("--socket", metavar="PATH", help="for gexec on this host (default: /run/gexec/gexecd.sock)")
    add("--authd-socket", metavar="PATH", help="where authd listens (default: /run/gexec/authd.sock)")
    add(
        "--public-key",
        metavar="FILE",
        action="append",
        help="accept what its private half signed (default: /etc/auth_pub.pem; may be repeated)",
    )
    add("--name", metavar="NAME", action="append", help="one more name of this node (may be repeated)")
    add("--hosts", metavar="FILE", help="names, in the format of /etc/hosts, looked up first")
    add("--realm", metavar="NAME", help="the cluster's name (default: gexec)")
    add(
        "--audit-log",
        metavar="FILE",
        help="write there who ran what (default: stderr; with -d gexecd-audit.log beside the log)",
    )
    add(
        "--log",
        metavar="FILE",
        help="with -d: in place of stderr (default: /var/log/gexec/gexecd.log, or gexecd.log beside the "
        "socket of an ordinary user's)",
    )
    add("--ready-fd", metavar="N", type=int, help="write a byte to this descriptor when listening")
    return parser


def _settings(options: argparse.Namespace) -> GexecdSettings:
    settings = read_gexecd(options.config)
    changes: dict[str, Any] = {
        name: os.path.abspath(value)
        for name in ("socket", "authd_socket", "hosts", "audit_log")
        if (value := getattr(options, name)) is not None
    }
    if options.public_key is not None:
        changes["public_keys"] = tuple(os.path.abspath(path) for path in options.public_key)
    if options.bind is not None:
        changes["bind"] = tuple(options.bind)
    if options.name is not None:
        changes["names"] = (*settings.names, *options.name)
    for name in ("port", "realm"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    return replace(settings, **changes)


def _reader(config: str | None) -> Callable[[], GexecdSettings]:
    """Return what reads the settings again, from wherever the daemon is by then."""
    path = None if config is None else os.path.abspath(config)
    return lambda: read_gexecd(path)


def _absolute(path: str | None) -> str:
    return "" if path is None else os.path.abspath(path)
