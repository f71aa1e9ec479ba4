"""Values of arguments that argparse takes as they are, in gexecctl, gexecd and authd."""

from __future__ import annotations

import argparse

from gexec.errors import UsageError


def refuse_empty(options: argparse.Namespace, *may_be_empty: str) -> None:
    """Raise UsageError if an argument is empty, as ``--dir "$DIR"`` is if the variable is not set.

    Without this, the default would be used instead: /etc, for example.

    Args:
        may_be_empty: attributes that may hold empty texts, or have errors of their own for them.
    """
    for name, value in vars(options).items():
        if name not in may_be_empty and (value == "" or (isinstance(value, list) and "" in value)):
            raise UsageError(f"{name.replace('_', '-')}: the value is empty; leave it out, or give one")
