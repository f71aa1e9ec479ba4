"""``enexec``: a shell line on all nodes, each line behind its node's name. See ``enexec -h``, docs/enexec.md.

Part of the thin client.
"""

from __future__ import annotations

from gexec.cli.command import LONG, THROUGH_GEXECD, lettered, run
from gexec.cli.wrappers import LETTERS, NOT_HERE, Wrapper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = """\
Usage: enexec [-n NODES] [-x] [OPTIONS] [COMMAND]...
Run COMMAND (uptime, if none is given) on all nodes through gexecd, each line
behind its node's name. The words of COMMAND are one line for the nodes' sh.

  enexec                             uptime on all nodes of the node list
  enexec uname -a                    all nodes
  enexec -n gc003 uname -a           this node
  enexec -n "gc002 gc003" uname -a   these nodes
  enexec -x uname -a                 all but this host
  enexec -b 'rpm -q glibc | sort'    equal output once, under the nodes' names

  -n, -w, --nodes=NAMES  these nodes: names, 'node[1-9]', @group
  -x, --not-here         not this host             --exclude=NAMES  not these
      --nodelist=FILE    names, one a line; else $GEXEC_NODELIST, or
                         /etc/gexec/nodelist, then what gexec takes
  -b, --gather           equal output once         --diff  where outputs differ
  -p, --prefix-type=T    host, vnn (rank), ip, none
      --timeout=S        end what runs longer      --no-stdin  read /dev/null
      --batch=N|P%       so many nodes at a time   --failed-to=FILE  who failed
  -v, --verbose    -V, --version    -h, --help     --help-all  every option
Exit status: the highest of all (124 timed out, 128+signal, 255 not reached).
"""

ENEXEC = Wrapper("enexec", lettered(LETTERS | {"port": "P"}, (*LONG, *THROUGH_GEXECD, NOT_HERE)), HELP)


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    return run(ENEXEC, words)
