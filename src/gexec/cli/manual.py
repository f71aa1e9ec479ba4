"""``--help`` and ``--help-all``, made from the table of options. Imported only when one is asked for."""

from __future__ import annotations

from gexec.cli.table import options_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.cli.options import Option

_WIDTH = 80
#: Where the meaning of an option begins.
_COLUMN = 27
_STATUS = "Exit status: the highest of all (124 timed out, 128+signal, 255 not reached)."
#: By command: usage and examples, the options that ``--help`` shows, the exit status.
_PAGES = {
    "gexec": (
        """\
Usage: gexec [OPTIONS] PROGRAM [ARGUMENT]...
Run PROGRAM on all nodes at once; stdin goes to all, output comes line by line.

  gexec hostname                    all nodes, each line after its node's rank
  gexec -w 'node[1-9],@db' -p host uptime    these nodes, names before the lines
  gexec -b uname -r                 equal output once, below the nodes' names
  gexec sh -c 'cat >/tmp/f' <f      pipelines and redirections on the nodes
""",
        "nodes exclude nprocs prefix-type gather diff detached timeout no-stdin batch failed-to rerun strict",
        _STATUS,
    ),
    "enexec": (
        """\
Usage: enexec [-n NODES] [-x] [OPTIONS] [COMMAND]...
Run COMMAND (default: uptime) on all nodes through gexecd, each line after its
node's name. COMMAND and its arguments are one line for the nodes' sh.

  enexec uname -a                    all nodes of the node list
  enexec -n "gc002 gc003" uname -a   these nodes
  enexec -x uname -a                 all nodes except this host
  enexec -b 'rpm -q glibc | sort'    equal output once, below the nodes' names
""",
        "nodes not-here exclude nodelist prefix-type gather diff timeout no-stdin batch failed-to rerun",
        _STATUS,
    ),
    "ensh": (
        """\
Usage: ensh [-n NODES] [-x] [-s] [OPTIONS] [COMMAND]...
Run COMMAND (default: uptime) on all nodes over ssh, each line after its node's
name. COMMAND and its arguments are one line for the nodes' sh.

  ensh -n "gc002 root@db" uname -a   these nodes
  ensh -x uname -a                   all nodes except this host
  ensh -s -n 'gc[001-004]' reboot    one node after the other
  ensh -b 'rpm -q glibc | sort'      equal output once, below the nodes' names
""",
        "nodes not-here exclude nodelist serial fanout user port ssh-option gather timeout failed-to",
        _STATUS,
    ),
    "ensync": (
        """\
Usage: ensync [-n NODES] [-x] [OPTIONS] FILE...
Copy files and directories to the same path on all nodes, as fast as one link
carries them. Owner, group, mode and times are kept (owner and group as root).

  ensync -x /etc/auth_priv.pem       to all nodes except this host
  ensync -n node[1-9] --dest /srv data      as /srv/data to these nodes
  ensync --checksum /etc/hosts       write nothing; report where it is different
  ensync --remove /tmp/old           delete it on the nodes
""",
        "nodes not-here dest parents delete backup checksum dry-run via bwlimit strict failed-to",
        "Status: 0; 1 a file failed or differs; 3 cut short; 130 ^C; 255 a node failed.",
    ),
    "gexecctl-jobs": (
        """\
Usage: gexecctl jobs [OPTIONS] [JOB]...
List your background jobs (gexec -d) on the nodes. JOB is the beginning of an
id, or a name.

  gexecctl jobs                      on all nodes
  gexecctl jobs -w node[1-9] --json  on these, a JSON object for each job
""",
        "nodes exclude nprocs json all-users complete connect-timeout fanout port",
        "Exit status: 0; 255 not all nodes answered.",
    ),
    "gexecctl-job": (
        """\
Usage: gexecctl ACTION [OPTIONS] JOB [SIGNAL]
Do something with a background job. JOB is the beginning of its id, or its name.

  attach JOB         its last output, then what comes; ^C detaches
  wait JOB           wait for its end
  output JOB         what the nodes have kept of its output
  signal JOB TERM    send a signal to its processes
  kill JOB           end its processes and what they have started
  forget JOB         remove output and outcome of a job that has ended
""",
        "nodes exclude prefix-type gather json tail now all-users failed-to",
        "Status: of attach and wait that of the job; 255 a node did not answer.",
    ),
    "gexec-job": (
        """\
Usage: gexec-job list | ACTION JOB RANKS [SIGNAL]
What a node has of a user's background jobs; gexecctl starts it on the nodes.
""",
        "all-users uid tail now hold",
        "Status: 0; 1 it failed; 2 usage error; of attach and wait that of the command.",
    ),
    "gexec-send": (
        """\
Usage: python -m gexec.cli.send [OPTIONS] PATH... >STREAM
Write files and directories as a stream for `python -m gexec.cli.receive`.
""",
        "names glob exclude-files include-files exclude-files-from files-from from0 xattrs no-xattrs remove"
        " asking total sign digests compress bwlimit loader",
        "Status: 0; 1 something could not be sent; 2 usage error; 3 nobody reads.",
    ),
    "gexec-receive": (
        """\
Usage: python -m gexec.cli.receive [OPTIONS] <STREAM
Unpack what `python -m gexec.cli.send` writes.
""",
        "dest target about parents delete max-delete checksum checksum-compare dry-run backup sync setuid"
        " numeric-ids no-owner no-xattrs signed-by min-rate",
        "Status: 0; 1 a file failed or differs; 2 usage error; 3 incomplete; 4 too slow.",
    ),
}


def help_page(command: str) -> str:
    """Return the page of ``--help``: usage, examples and the common options, 24 lines of 80 columns."""
    usage, common, status = _PAGES[command]
    options = {option.long: option for option in options_of(command)}
    lines = [f"{_left(options[long])}{options[long].meaning.partition(';')[0]}" for long in common.split()]
    if "help-all" in options:
        lines.append("  -v, --verbose    -V, --version    -h, --help    --help-all  every option")
    return "\n".join([usage, *lines, status]) + "\n"


def page(command: str) -> str:
    """Return the usage line and every option of a command, in 80 columns."""
    from textwrap import wrap  # costs milliseconds, which --help need not have

    usage, _, status = _PAGES[command]
    lines = [usage.partition("\n")[0]]
    heading = ""
    for option in options_of(command):
        if option.heading != heading:
            heading = option.heading
            lines += ["", f"{heading}:"]
        left = _left(option)
        # Where the option is longer than its column, its meaning begins later.
        first, *more = wrap(option.meaning, _WIDTH - _COLUMN, initial_indent=" " * (len(left) - _COLUMN))
        lines += [left + first.lstrip(), *[" " * _COLUMN + line for line in more]]
    return "\n".join([*lines, "", "Long options may be shortened if they stay unique.", status]) + "\n"


def _left(option: Option) -> str:
    letters = "".join([f"-{letter}, " for letter in option.short])
    return f"  {letters:>4}{shown(option)}".ljust(_COLUMN - 1) + " "


def shown(option: Option) -> str:
    """Return an option's name with that of its value."""
    equals = "=" if option.takes_value else ""
    return f"--{option.long}{equals}{option.argument}"
