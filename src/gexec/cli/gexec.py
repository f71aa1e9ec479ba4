"""``gexec``: run one command on many nodes. See ``gexec -h`` and docs/gexec.md. Part of the thin client."""

from __future__ import annotations

from gexec.cli.command import LONG, THROUGH_GEXECD, Command, lettered, run
from gexec.cli.options import Option

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
Run PROGRAM on all nodes at once; stdin goes to all, output comes line by line.

  gexec hostname                    all nodes, each line behind its node's rank
  gexec -n 4 hostname               the first 4 (0: all)
  gexec -w 'node[1-9],@db' -p host uptime    these nodes, names before the lines
  gexec -b uname -r                 equal output once, under the nodes' names
  gexec sh -c 'cat >/tmp/f' <f      pipelines and redirections on the nodes

  -w, --nodes=NAMES     these nodes             -x, --exclude=NAMES  not these
  -n, --nprocs=N        the first N nodes       -d, --detached  do not wait
  -p, --prefix-type=T   none, vnn (rank), host, ip
  -b, --gather          equal output once       --diff  where outputs differ
      --json, --output-dir=DIR, --quiet, --summary      other forms of output
      --timeout=S       end what runs longer    --no-stdin  read /dev/null
      --batch=N|P%      so many nodes at a time --retries=N  of unreached nodes
      --failed-to=FILE  list the failed nodes   --rerun=FILE  run on those
      --strict          on all nodes or on none --dry-run  only say where
  -v, --verbose   -V, --version   -h, --help    --help-all  every option
Exit status: the highest of all (124 timed out, 128+signal, 255 not reached).
"""

_FETCHING = (Option("", "fetch", takes_value=True), Option("", "to", takes_value=True))

GEXEC = Command("gexec", lettered(_LETTERS, LONG + THROUGH_GEXECD + _FETCHING), HELP, "vnn")
OPTIONS = GEXEC.options


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    return run(GEXEC, words)
