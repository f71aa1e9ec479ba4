"""Names, paths and text are UTF-8 in every locale: the start scripts begin anew where Python has another.

Python takes the encoding of arguments, file names and terminals from the locale (LC_ALL=C without its
UTF-8 mode: ASCII; de_DE.ISO-8859-1: Latin-1), while node lists, settings and what nodes send are UTF-8: one
name would be two texts. A leaf; not loaded where the encoding is UTF-8 already.
"""

from __future__ import annotations

import os
import sys


def begin_anew() -> None:
    """Execute this program again in Python's UTF-8 mode; returns only if that cannot be done."""
    try:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    except OSError:
        pass  # no interpreter can be started here: what is ASCII still works
