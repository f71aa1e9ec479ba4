"""The options that gexecd and authd share."""

from __future__ import annotations

import argparse
import os

from gexec.cli.values import refuse_empty
from gexec.errors import UsageError
from gexec.native import manner
from gexec.version import VERSION

_WORDS = ("journal", "stderr")


def settle(options: argparse.Namespace, *paths: str) -> None:
    """Refuse empty values, and make paths absolute, before the daemon leaves its working directory.

    Args:
        paths: attributes that hold a path, or a list of them.

    Raises:
        UsageError: a value is empty, or --audit-log is neither a path nor a word that it knows.
    """
    refuse_empty(options)
    for name in ("config", "socket", "log", *paths):
        value = getattr(options, name)
        if isinstance(value, list):
            setattr(options, name, [os.path.abspath(path) for path in value])
        elif value is not None:
            setattr(options, name, os.path.abspath(value))
    for place, name in enumerate(options.audit_log or ()):
        if name in _WORDS:
            continue
        if "/" not in name:
            raise UsageError(f"--audit-log {name}: expected a path with a /, or {' or '.join(_WORDS)}")
        options.audit_log[place] = os.path.abspath(name)


def daemon_parser(name: str, recorded: str, description: str, reread: str) -> argparse.ArgumentParser:
    """Return a parser with the shared options.

    Args:
        name: of the daemon.
        recorded: what its audit log records.
        description: what it does, a sentence.
        reread: what SIGHUP and SIGTERM do, a sentence.
    """
    parser = argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=f"{reread} Settings: /etc/gexec/{name}.toml.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-V", "--version", action="version", version=f"{name} {VERSION} ({manner()})")
    add("-d", "--daemon", action="store_true", help="run in the background; returns when it listens")
    add("--config", metavar="FILE", help=f"settings (default: /etc/gexec/{name}.toml if it exists)")
    add("--socket", metavar="PATH", help=f"listen on this Unix socket (default: /run/gexec/{name}.sock)")
    add("--realm", metavar="NAME", help="the cluster's name (default: gexec)")
    audit = (
        f"record there {recorded}: a file, journal or stderr (default: stderr; with -d {name}-audit.log "
        "beside the log; may be repeated)"
    )
    add("--audit-log", metavar="FILE", action="append", help=audit)
    log = (
        f"with -d: instead of stderr (default: /var/log/gexec/{name}.log, or {name}.log beside the "
        "socket of an ordinary user's)"
    )
    add("--log", metavar="FILE", help=log)
    add("--ready-fd", metavar="N", type=int, help="write a byte to this descriptor when listening")
    return parser
