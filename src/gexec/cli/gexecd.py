"""The command line of gexecd."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import Any

from gexec.daemon import activation
from gexec.daemon.gexecd import Gexecd
from gexec.errors import GexecError
from gexec.host.config import GexecdSettings, read_gexecd
from gexec.host.readiness import announce
from gexec.version import VERSION

#: Where the audit log goes when there is no stderr and no file was named.
DAEMON_AUDIT_LOG = "/var/log/gexec/gexecd.log"


def main(argv: list[str]) -> int:
    """Run gexecd with these arguments (without the program's name); return its exit status."""
    options = _parser().parse_args(argv)
    told = [] if options.ready_fd is None else [options.ready_fd]
    try:
        inherited = [activation.inetd_listener()] if options.inetd else activation.systemd_listeners()
        settings = _settings(options)
        if options.daemon:
            settings = _with_audit_log(settings)
        service = Gexecd(settings, inherited=inherited)
        service.config_path = options.config
        if options.daemon:
            service.background = True
            told.append(_daemonize())
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
    add("-V", "--version", action="version", version=f"gexecd {VERSION}")
    add("-P", "--port", metavar="PORT", type=int, help="listen on this TCP port (default: 2875)")
    add(
        "--bind", metavar="ADDRESS", action="append", help="listen on it only (default: all; may be repeated)"
    )
    add("-d", "--daemon", action="store_true", help="run in the background")
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
    add("--hosts", metavar="FILE", help="names, in the form of /etc/hosts, looked up first")
    add("--realm", metavar="NAME", help="the cluster's name (default: gexec)")
    add("--audit-log", metavar="FILE", help="write there who ran what (default: stderr)")
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


def _with_audit_log(settings: GexecdSettings) -> GexecdSettings:
    """A daemon of root has no stderr: its audit log must go to a file."""
    if settings.audit_log or os.geteuid() != 0:
        return settings
    os.makedirs(os.path.dirname(DAEMON_AUDIT_LOG), mode=0o750, exist_ok=True)
    return replace(settings, audit_log=DAEMON_AUDIT_LOG)


def _daemonize() -> int:
    """Go into the background; return the descriptor to ``announce`` on.

    The process that was called stays until then, so that `gexecd -d && gexec ...` is in order;
    stderr is kept until then too, for what goes wrong on the way.
    """
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        os._exit(0 if os.read(reading, 1) else 1)
    os.close(reading)
    os.setsid()
    if os.fork():
        os._exit(0)
    return writing
