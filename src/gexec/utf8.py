"""Names, paths and text are UTF-8 in every locale: the start scripts restart Python if it uses another
encoding.

Python takes the encoding of arguments, file names and terminals from the locale (LC_ALL=C without its UTF-8
mode: ASCII; de_DE.ISO-8859-1: Latin-1), while node lists, settings and data from nodes are UTF-8: the same
name would be two different texts. A leaf; not loaded if the encoding is already UTF-8.
"""

from __future__ import annotations

import os
import sys


def begin_anew() -> None:
    """Execute this program again in Python's UTF-8 mode; returns only if that fails."""
    try:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    except OSError:
        pass  # no interpreter can be started here: ASCII text still works
