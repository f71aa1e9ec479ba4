"""``gexec``: run one command on many nodes. See ``gexec -h`` and docs/gexec.md. Part of the thin client."""

from __future__ import annotations

from gexec.cli.command import LONG, THROUGH_GEXECD, Command, lettered, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LETTERS = {
    "nprocs": "n",
    "nodes": "w",
    "exclude": "x",
    "prefix-type": "p",
    "gather": "b",
    "detached": "d",
    "fanout": "f",
    "port": "P",
    "verbose": "v",
    "help": "h",
    "version": "V",
}

HELP = """\
Usage: gexec [OPTIONS] PROGRAM [ARGUMENT]...
Run PROGRAM on all nodes at once; stdin goes to all, lines come back as they end.

  gexec hostname                    all nodes, each line behind its rank
  gexec -n 4 hostname               the first 4      gexec -n 0 ...  all of them
  gexec -w node[1-9],@db -p host uptime              these; names before the lines
  gexec -b uname -r                 equal output once, under the nodes' names
  gexec sh -c 'cat >/tmp/f' <f      a pipeline or a redirection on the nodes

  -n, --nprocs=N       the first N nodes, 0 = all  -d, --detached  leave when started
  -w, --nodes=NAMES    these nodes                 -x, --exclude=NAMES  but not these
  -p, --prefix-type=T  none, vnn (rank), host, ip  -b, --gather    equal output once
      --json, --output-dir=DIR, --diff[=NODE], --quiet, --summary  other forms
      --timeout=S      end what runs longer        --no-stdin      read /dev/null
      --batch=N|P%     so many at a time           --retries=N     of unreached nodes
      --failed-to=FILE list of failed nodes        --rerun=FILE    run on those
      --strict         on all nodes or on none     --dry-run       only say where
  -v, --verbose    -V, --version    -h, --help     --help-all      every option
Status: the highest of all processes (128+signal, 124 timed out); 255 a node failed.
"""

GEXEC = Command("gexec", lettered(_LETTERS, LONG + THROUGH_GEXECD), HELP, "vnn")
OPTIONS = GEXEC.options


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    return run(GEXEC, words)
