"""Options of ssh, pdsh, clush and pssh that gexec does not have: what to write instead. For errors only."""

from __future__ import annotations

_CALLER = "a job runs as the calling user; ensh logs in as another one"
_COPY = "ensync copies to the nodes, --fetch from them"
_INSTEAD = {
    "-a": "all nodes are the default",
    "-g": "-w @GROUP gives a group's nodes",
    "-H": "-w gives nodes",
    "-l": _CALLER,
    "-L": "-b prints equal output once",
    "-N": "-p none omits the names",
    "-o": "--output-dir writes a file for each node",
    "-S": "the exit status is the highest of all by default",
    "-t": "--connect-timeout or --timeout limits the time",
    "-u": "--timeout limits the time",
    "-X": "-x @GROUP excludes a group's nodes",
    "--all": "all nodes are the default",
    "--copy": _COPY,
    "--group": "-w @GROUP gives a group's nodes",
    "--rcopy": _COPY,
    "--user": _CALLER,
}


def instead(command: str, option: str) -> str:
    """Return what an error about an unknown option says to do."""
    if command in ("gexec", "enexec") and option in _INSTEAD:
        return _INSTEAD[option]
    return f"{command} -h lists the options"
