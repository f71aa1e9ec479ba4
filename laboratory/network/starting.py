"""Starts a local cluster whose nodes are in namespaces: ``python -m laboratory.network.starting JSON``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gexec.native import prefer

prefer()  # before anything else of gexec is imported, as gexecctl does

from gexec.cluster import control  # noqa: E402
from gexec.cluster.layout import Layout  # noqa: E402
from gexec.cluster.planning import ClusterNetwork  # noqa: E402
from gexec.errors import GexecError  # noqa: E402
from laboratory.network import namespaces  # noqa: E402


def main(words: list[str]) -> int:
    """Start it, and return the exit status.

    Args:
        words: one JSON object: ``dir``, ``config`` (a path or null), ``private`` directories and their
            ``size_mib``, and the nodes' ``addresses`` and ``namespaces``.
    """
    asked = json.loads(words[0])
    paths = asked["namespaces"]
    try:
        control.up(
            len(paths),
            Layout(Path(asked["dir"])),
            config=asked["config"],
            private_folders=asked["private"],
            private_size_mib=asked["size_mib"],
            network=ClusterNetwork(asked["addresses"], lambda node: namespaces.enter(paths[node])),
        )
    except GexecError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
