"""Entries of this node that are not in the stream, and what is to be removed by name."""

from __future__ import annotations

import os

from gexec.files.deletion import Removal as Deletion
from gexec.files.directories import RefusedError, reason
from gexec.files.options import VERIFY, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.files.directories import Place, Tree
    from gexec.files.entries import Removal
    from gexec.files.identity import SameFile
    from gexec.files.options import CopyOptions
    from gexec.files.report import Report
