"""``ensh``: a shell line on all nodes over ssh, before gexecd is there. See ``ensh -h``, docs/ensh.md."""

from __future__ import annotations

from gexec.cli.command import LONG, lettered, run
from gexec.cli.options import Option
from gexec.cli.wrappers import LETTERS, NOT_HERE, Wrapper
from gexec.client.nodes import choose
from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.cli.command import Opener
    from gexec.cli.options import Parsed
    from gexec.client.job import Request
    from gexec.select.sources import Choice
    from gexec.wire.jobspec import JobSpec

_OWN = (
    NOT_HERE,
    Option("", "serial"),
    Option("", "user", takes_value=True),
    Option("", "ssh-option", takes_value=True),
    Option("", "ask"),
)

HELP = """\
Usage: ensh [-n NODES] [-x] [-s] [OPTIONS] [COMMAND]...
Run COMMAND (uptime, if none is given) on all nodes over ssh, each line behind
its node's name. The words of COMMAND are one line for the nodes' sh.

  ensh                               uptime on all nodes of the node list
  ensh -n "gc002 gc003" uname -a     these nodes
  ensh -x uname -a                   all but this host
  ensh -s -n 'gc[001-004]' reboot    one node after the other
  ensh -b 'rpm -q glibc | sort'      equal output once, under the nodes' names

  -n, -w, --nodes=NAMES  these nodes: names, user@name, 'node[1-9]', @group
  -x, --not-here         not this host             --exclude=NAMES  not these
      --nodelist=FILE    names, one a line; else $GEXEC_NODELIST, or
                         /etc/gexec/nodelist, then what gexec takes
  -s, --serial           one node after the other  -f, --fanout=N  ssh at a time
  -l, --user=USER        the user on the nodes     -P, --port=N  of their sshd
  -o, --ssh-option=OPT   as ssh -o; repeatable     --ask  ssh may ask questions
  -b, --gather           equal output once         --diff  where outputs differ
  -p, --prefix-type=T    host, vnn (rank), none
      --timeout=S        end what runs longer      --failed-to=FILE  who failed
  -v, --verbose    -V, --version    -h, --help     --help-all  every option
Exit status: the highest of all (124 timed out, 128+signal, 255 not reached).
"""


class Ensh(Wrapper):
    """Jobs whose nodes are reached by ssh, one after the other or some at a time."""

    __slots__ = ()
    resolves = False  # addresses are ssh's matter

    def plan(self, parsed: Parsed, request: Request) -> tuple[JobSpec, Choice, Opener]:
        """Return the job, who chose its nodes, and what runs it or a part of it over ssh."""
        from gexec.ssh.job import FANOUT_DEFAULT, SshOptions, open_session, prepare
        from gexec.ssh.settings import given

        if (parsed.last("prefix-type") or "").lower().startswith("i"):
            raise UsageError("option -p ip: it is ssh that looks the addresses up; use -p host")
        self.choose(parsed, request)
        choice = choose(request)
        if choice.took_stdin:
            request.stdin = False
        arguments = given(parsed.all("ssh-option"), parsed.last("user"))
        nodes = [(name, port or request.port) for name, port in choice.nodes]
        fanout = request.fanout if parsed.last("fanout") else FANOUT_DEFAULT
        job = prepare(
            nodes,
            request.argv,
            stdin=request.stdin,
            fanout=1 if parsed.flag("serial") else fanout,
            timeout_s=request.timeout_s,
            connect_timeout_s=request.connect_timeout_s,
        )
        options = SshOptions(arguments=arguments, ask=parsed.flag("ask"), chdir=parsed.last("chdir") or "")
        return job, choice, lambda job: open_session(job, options)


_LETTERS = LETTERS | {"serial": "s", "user": "l", "ssh-option": "o", "port": "P"}
ENSH = Ensh("ensh", lettered(_LETTERS, LONG + _OWN), HELP)


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    return run(ENSH, words)
