"""Options of ssh, pdsh, clush, pssh and rsync that gexec does not have: what to write instead."""

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


#: Of rsync and scp.
_COPIERS = {
    "-a": "owner, group, mode and times are kept by default",
    "-p": "owner, group, mode and times are kept by default",
    "-r": "directories are copied with everything below them",
    "-z": "what can be compressed is",
    "--archive": "owner, group, mode and times are kept by default",
    "--recursive": "directories are copied with everything below them",
}


def instead(command: str, option: str) -> str:
    """Return what an error about an unknown option says to do."""
    habits = {"gexec": _INSTEAD, "enexec": _INSTEAD, "ensync": _COPIERS}.get(command, {})
    if option in habits:
        return habits[option]
    return f"{command} -h lists the options"
