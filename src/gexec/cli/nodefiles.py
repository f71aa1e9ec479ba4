"""Lists of nodes that commands write and read again: --failed-to, --rerun and --dry-run.

Imported only when one of these is given.
"""

from __future__ import annotations

import os
from stat import S_ISFIFO, S_ISREG

from gexec.client.nodes import read_file
from gexec.errors import UsageError
from gexec.render.failed import failed_lines
from gexec.render.text import printable
from gexec.select.lists import uncommented
from gexec.select.nodes import spelled
from gexec.wire.outcome import why_unresolved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.cli.command import Call
    from gexec.select.sources import Choice
    from gexec.wire.jobspec import JobSpec
    from gexec.wire.outcome import Outcome


def check_failed_to(path: str) -> None:
    """Look whether a file of --failed-to can be written, before anything runs.

    Raises:
        UsageError: it cannot, and why.
    """
    target = os.path.realpath(path)  # what a link leads to is written, and need not be there
    folder = os.path.dirname(target)
    is_replaced = not os.path.exists(target) or (os.path.isfile(target) and not os.path.islink(path))
    why = ""
    if os.path.isdir(target):
        why = "it is a directory"
    elif not os.path.isdir(folder):
        why = f"there is no directory {os.path.dirname(path) or folder}"
    elif is_replaced and not os.access(folder, os.W_OK | os.X_OK):
        why = f"no file may be made in {folder}"
    elif not is_replaced and not os.access(target, os.W_OK):
        why = "it may not be written"
    if why:
        raise UsageError(f"--failed-to {path}: {why}; give a file that can be written")


def write_failed(call: Call, choice: Choice, outcomes: Sequence[Outcome]) -> bool:
    """Write the file of --failed-to; return False, and say why, if it cannot be written."""
    path = call.parsed.value("failed-to", "")
    names = [os.fsencode(spelled(name, port)) for name, port in choice.nodes]
    try:
        _replace(path, b"".join(failed_lines(names, outcomes)))
    except OSError as error:
        call.say(f"--failed-to {path}: {error.strerror}: the list of what failed is not written")
        return False
    return True


def _replace(path: str, data: bytes) -> None:
    """Put a whole file in the place of another; a device, a pipe or a link is written to, never replaced."""
    if os.path.lexists(path) and not S_ISREG(os.lstat(path).st_mode):
        with open(path, "wb") as file:
            file.write(data)
        return
    draft = f"{path}.{os.getpid()}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(draft, path)
    except OSError:
        os.unlink(draft)
        raise


def is_empty(path: str) -> bool:
    """Tell whether a file of --rerun is there and names no node; UsageError if it cannot be read."""
    try:
        if S_ISFIFO(os.stat(path).st_mode):
            return False  # what is read here would be gone
        return not any(uncommented(read_file(path, f"--rerun {path}")))
    except OSError as error:
        raise UsageError(f"--rerun {path}: {error.strerror}") from error


def places(job: JobSpec, choice: Choice, resolves: bool) -> str:
    """Say what would run, and where, in a form that a node list file takes."""
    words = [_quoted(os.fsdecode(word)) for word in job.argv]
    lines = [f"# {' '.join(words)}", f"# {job.ranks} nodes from {choice.source}:"]
    for (name, port), address in zip(choice.nodes, job.addresses, strict=True):
        comment = (resolves and why_unresolved(address)) or address.decode()
        lines.append(f"{spelled(name, port)}  # {comment}" if comment else spelled(name, port))
    return "".join([printable(line) + "\n" for line in lines])


def _quoted(word: str) -> str:
    plain = word.replace("/", "").replace("-", "").replace(".", "").replace("_", "").replace("=", "")
    return word if plain.isalnum() and word.isascii() else "'" + word.replace("'", "'\\''") + "'"
