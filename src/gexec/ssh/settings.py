"""The options of ssh that gexec sets, whatever a user's ~/.ssh/config has.

A configuration is written for a person at a terminal: it forwards ports, keeps connections for later, asks
questions. What a job needs otherwise is set on the command line; all else (user, port, keys, jump hosts,
host keys, ciphers) is left to the configuration. The whole of ssh_config(5), option by option with reasons:
tests/system/ssh_options.py.
"""

from __future__ import annotations

import os
import re
from itertools import pairwise

from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Without these no command runs, or its bytes are not its own: nobody can set them otherwise.
REQUIRED = {"RemoteCommand": "none", "RequestTTY": "no"}
#: The same, of options that OpenSSH has since 8.7 (LogVerbose 8.5) and older ones reject.
REQUIRED_NEW = {"SessionType": "default", "StdinNull": "no", "ForkAfterAuthentication": "no",
                "LogVerbose": "none"}  # fmt: skip
_NEW_SINCE = (8, 7)
#: What is better for many nodes at a time; the user's own options for ssh come first, and win.
DEFAULTS = {
    # Of all connections to the nodes only one could listen at a port here.
    "ClearAllForwardings": "yes",
    "ForwardX11": "no",
    # It is run here, once for every node, and writes between the lines of the nodes.
    "PermitLocalCommand": "no",
    # A master that the job starts serves others, too: it outlives the job, or ends what is theirs.
    "ControlMaster": "no",
    # Many at once rewrite one known_hosts, and lose each other's keys; "ask" asks.
    "UpdateHostKeys": "no",
    # --connect-timeout is what a dead node costs; --retries tries again.
    "ConnectionAttempts": "1",
    # Messages go where the command's own stderr does.
    "LogLevel": "ERROR",
}
#: Those of batch mode, and what they are with --ask.
_BATCH = {"BatchMode": "yes", "AddKeysToAgent": "no"}
_ASK = {"BatchMode": "no"}

#: Flags of ssh that leave no command, or a command without its stdin.
_FLAGS = frozenset("fGNnsV")
_VERSION_WITHIN_S = 5.0


def words(connect_timeout_s: int, alive_interval_s: int, alive_count: int, ask: bool) -> list[str]:
    """Return the words for every ssh of a job, to go after the user's own.

    Args:
        connect_timeout_s: at least 1.
        alive_interval_s: of silence until ssh asks whether the node is there.
        alive_count: of these in a row without an answer: the connection is lost.
        ask: ssh may ask on the terminal.
    """
    limits = {
        "ConnectTimeout": str(connect_timeout_s),
        "ServerAliveInterval": str(alive_interval_s),
        "ServerAliveCountMax": str(alive_count),
    }
    # -T, since an ssh that was given -t takes no RequestTTY after it.
    return ["-T", *_as_words(REQUIRED | DEFAULTS | limits | (_ASK if ask else _BATCH))]


def given(options: Sequence[str], user: str | None) -> list[str]:
    """Return the words for the options of the user's command line (-o, -l). UsageError: see ``check``."""
    words = [word for option in options for word in ("-o", option)]
    check(["ssh", *words])
    return words if user is None else [*words, "-l", user]


def environment(ask: bool) -> dict[bytes, bytes]:
    """Return variables for every ssh: the one that goes to a jump host has no BatchMode, and could ask."""
    return {} if ask else {b"SSH_ASKPASS_REQUIRE": b"never"}


def new_words(ssh: Sequence[str]) -> list[str]:
    """Return the words for options that this ssh may be too old for; it is asked for its version.

    IgnoreUnknown would need no question, but takes the place of the one in the user's configuration.

    Args:
        ssh: absolute path and options. Whatever does not answer as OpenSSH does is taken for an old one.
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
        return []  # what is wrong with it is told when it is called for a node
    found = re.search(rb"OpenSSH_(\d{1,4})\.(\d{1,4})", done.stderr + done.stdout)
    is_new = found is not None and (int(found[1]), int(found[2])) >= _NEW_SINCE
    return _as_words(REQUIRED_NEW) if is_new else []


def check(ssh: Sequence[str]) -> None:
    """Raise UsageError for options under which no command can run on a node.

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
