"""The options of ssh that gexec sets, independent of the user's ~/.ssh/config.

A configuration is made for a person at a terminal: it forwards ports, keeps connections open, asks questions.
Where a job needs other values, they are set on the command line; everything else (user, port, keys, jump
hosts, host keys, ciphers) is left to the configuration. tests/system/ssh_options.py lists all options of
ssh_config(5) with reasons.
"""

from __future__ import annotations

import os
import re
from itertools import pairwise

from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Without these no command runs, or other bytes mix with its output: users cannot change them.
REQUIRED = {"RemoteCommand": "none", "RequestTTY": "no"}
#: The same, for options that OpenSSH has since 8.7 (LogVerbose 8.5) and older versions reject.
REQUIRED_NEW = {"SessionType": "default", "StdinNull": "no", "ForkAfterAuthentication": "no",
                "LogVerbose": "none"}  # fmt: skip
_NEW_SINCE = (8, 7)
#: Better values for many nodes at a time; the user's own options for ssh come first, and override them.
DEFAULTS = {
    # Only one of all connections to the nodes could listen on a port here.
    "ClearAllForwardings": "yes",
    "ForwardX11": "no",
    # It would run here, once for every node, and write between the lines of the nodes.
    "PermitLocalCommand": "no",
    # A master that the job starts would also serve others: it would outlive the job, or end their
    # connections.
    "ControlMaster": "no",
    # Many ssh at once would rewrite one known_hosts and lose each other's keys; "ask" would ask.
    "UpdateHostKeys": "no",
    # --connect-timeout limits the time for a dead node; --retries tries again.
    "ConnectionAttempts": "1",
    # Messages go to the command's stderr.
    "LogLevel": "ERROR",
}
#: The options of batch mode, and their values with --ask.
_BATCH = {"BatchMode": "yes", "AddKeysToAgent": "no"}
_ASK = {"BatchMode": "no"}

#: Flags of ssh with which no command runs, or a command without its stdin.
_FLAGS = frozenset("fGNnsV")
_VERSION_WITHIN_S = 5.0


def words(connect_timeout_s: int, alive_interval_s: int, alive_count: int, ask: bool) -> list[str]:
    """Return the arguments for every ssh of a job, which follow the user's own.

    Args:
        connect_timeout_s: at least 1.
        alive_interval_s: silence after which ssh checks whether the node answers.
        alive_count: number of checks in a row without an answer after which the connection is lost.
        ask: ssh may ask on the terminal.
    """
    limits = {
        "ConnectTimeout": str(connect_timeout_s),
        "ServerAliveInterval": str(alive_interval_s),
        "ServerAliveCountMax": str(alive_count),
    }
    # -T, because an ssh that was given -t ignores a later RequestTTY.
    return ["-T", *_as_words(REQUIRED | DEFAULTS | limits | (_ASK if ask else _BATCH))]


def given(options: Sequence[str], user: str | None) -> list[str]:
    """Return the arguments for the options of the user's command line (-o, -l). UsageError: see ``check``."""
    words = [word for option in options for word in ("-o", option)]
    check(["ssh", *words])
    return words if user is None else [*words, "-l", user]


def environment(ask: bool) -> dict[bytes, bytes]:
    """Return variables for every ssh: the ssh to a jump host has no BatchMode and could ask otherwise."""
    return {} if ask else {b"SSH_ASKPASS_REQUIRE": b"never"}


def new_words(ssh: Sequence[str]) -> list[str]:
    """Return the arguments for options that this ssh may be too old for, after a check of its version.

    IgnoreUnknown would need no check, but would replace the one in the user's configuration.

    Args:
        ssh: absolute path and options. A program that does not answer like OpenSSH counts as old.
    """
    import subprocess

    try:
        done = subprocess.run(
            [*ssh, "-V"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return []  # the error is reported when it is called for a node
    found = re.search(rb"OpenSSH_(\d{1,4})\.(\d{1,4})", done.stderr + done.stdout)
    is_new = found is not None and (int(found[1]), int(found[2])) >= _NEW_SINCE
    return _as_words(REQUIRED_NEW) if is_new else []


def check(ssh: Sequence[str]) -> None:
    """Raise UsageError for options with which no command can run on a node.

    Args:
        ssh: program, and the user's options.
    """
    of_ssh = os.path.basename(ssh[0]).startswith("ssh")
    needed = {name.lower(): (name, value) for name, value in (REQUIRED | REQUIRED_NEW).items()}
    for before, word in pairwise(ssh):
        if of_ssh and re.fullmatch("-[46AaCfGgKkMNnqsTtVvXxYy]+", word) and _FLAGS.intersection(word):
            raise UsageError(f"option {word} for ssh: no command can run with it; leave it out")
        if before != "-o" and not word.startswith("-o"):
            continue
        setting = word if before == "-o" else word[2:]
        given, _, value = re.sub(r"\s*=\s*|\s+", "=", setting.strip(), count=1).partition("=")
        name, wanted = needed.get(given.lower(), ("", ""))
        if name and value.strip('"').lower() != wanted:
            raise UsageError(
                f"option {setting[:100]!r} for ssh: a command on a node needs {name}={wanted}; leave it out"
            )


def _as_words(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
