"""gexec, enexec and ensh as a shell calls them: with an environment of their own, and on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .conftest import BIN, DEADLINE_S, changed, wait_until

#: Addresses at which nobody listens, unless a test does.
DEAD, LATE = "127.250.9.1", "127.250.9.2"
#: An ssh that reaches nobody: it reads no configuration and has no key, whatever this machine has.
_NO_SSH = "ssh -F none -o IdentityAgent=none -o IdentityFile=none -o UserKnownHostsFile=none"


class Shell:
    """Calls the commands, with a cache folder and a hosts file in ``folder``.

    Beside the nodes of ``env`` there are ``dead``, which refuses every connection, and ``late``, at whose
    address a test may start a daemon.
    """

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        cache = folder / "cache"
        cache.mkdir(mode=0o700)
        hosts = folder / "hosts"
        known = Path(env["GEXEC_HOSTS"]).read_text() if "GEXEC_HOSTS" in env else ""
        hosts.write_text(f"{known}{DEAD} dead\n{LATE} late\n")
        self.folder = folder
        self.env = {name: value for name, value in env.items() if name not in ("NO_COLOR", "GEXEC_NODELIST")}
        self.env.setdefault("GEXEC_SSH", _NO_SSH)
        self.env |= {"XDG_CACHE_HOME": str(cache), "GEXEC_HOSTS": str(hosts), "TERM": "xterm"}

    def command(self, name: str, *words: object) -> list[str]:
        """Return the argv of one of the commands."""
        return [sys.executable, str(BIN / name), *map(str, words)]

    def run(
        self, name: str, *words: object, env: Mapping[str, str | None] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end; stdin is empty unless ``input`` or ``stdin`` is given."""
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        return subprocess.run(
            self.command(name, *words), env=changed(self.env, env), timeout=DEADLINE_S, **options
        )

    def gexec(self, *words: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run gexec to its end."""
        return self.run("gexec", *words, **options)

    def start(
        self, name: str, *words: object, env: Mapping[str, str | None] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a command; the test ends and reaps it."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(self.command(name, *words), env=changed(self.env, env), **options)


def until_said(client: subprocess.Popen[bytes], text: bytes) -> None:
    """Read what a command says on stderr until a line has this text."""
    assert client.stderr is not None
    while line := client.stderr.readline():
        if text in line:
            return
    raise AssertionError(f"{text!r} was not said")


class Terminal:
    """A terminal of 80 columns, and all that was written to it.

    ``fd`` is what a program gets; ``close`` it here once the program has it.
    """

    def __init__(self) -> None:
        self._ours, self.fd = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.written = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65536):
                self.written += data
        except OSError:
            pass  # EIO: nobody has it open any more

    def wait_for(self, text: bytes) -> None:
        """Return when this was written."""
        wait_until(lambda: text in self.written, f"{text!r} is not shown")

    def type(self, keys: bytes) -> None:
        """Write as a person does."""
        os.write(self._ours, keys)

    def close(self) -> None:
        """Give up ``fd``."""
        os.close(self.fd)

    def end(self) -> list[str]:
        """Return what stands on the screen after the program's end, without empty lines at the end."""
        self._reader.join(DEADLINE_S)
        assert not self._reader.is_alive(), "the terminal is still open"
        os.close(self._ours)
        return screen(self.written)


def screen(written: bytes) -> list[str]:
    """Return what these bytes leave on a terminal; knows what progress is drawn with."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.", written.decode("utf-8", "replace"), re.DOTALL):
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif token == "\x1b[1A":
            assert row > 0, "erases above the first line"
            row -= 1
        elif token == "\x1b[2K":
            lines[row] = ""
        elif token.startswith("\x1b"):
            assert token.endswith("m"), f"{token!r} moves something"
        else:
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += 1
    while lines and not lines[-1]:
        lines.pop()
    return lines
