"""The command line that a node's login shell gets, and what the script in it does there. Pure.

The script is for any POSIX sh. It says that it is there, waits for the word *go*, runs the command in
its own process group, passes on the signals that it is told, and tells the command's status. The line
around it survives every login shell, csh and fish included, because it holds no character that any of
them would touch between single quotes: all others are octal.

    node to here   MARK PID \n    on both streams: here I am, the command's bytes begin after this
                   MARK STATUS \n on both streams: the command has ended so
    here to node   go\n           run it; what follows is the command's stdin, or, without stdin, names of
                                  signals, one a line, and at the end of it: end the command
"""

from __future__ import annotations

from gexec import limits
from gexec.errors import UsageError
from gexec.wire.jobspec import NO_STDIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.wire.jobspec import JobSpec

#: The kernel's limit for one argument, which the line is: to ssh here, to the login shell there.
LINE_MAX_BYTES = limits.ARG_MAX_BYTES
#: A longer list of all nodes is left out of the environment.
NODES_MAX_BYTES = 64 * 1024
#: What of the job's environment goes to the node: ssh decides about the rest.
_GIVEN = (b"GEXEC_NPROCS=", b"GEXEC_GPID=")
GO = b"go\n"
#: The signals that the script passes on, by their numbers here; there, numbers may differ.
SIGNALS = {1: "HUP", 2: "INT", 3: "QUIT", 9: "KILL", 10: "USR1", 12: "USR2", 15: "TERM", 18: "CONT",
           20: "TSTP", 28: "WINCH"}  # fmt: skip
#: Signals that ask a command to end.
GENTLE = ("HUP", "TERM", "CONT")

#: Bytes that stay as they are: printable, and no shell's business between '"..."' . The rest is octal.
_PLAIN = frozenset(range(0x20, 0x7F)) - frozenset(b"\"$'\\`!")
_OCTAL = [bytes((byte,)) if byte in _PLAIN else b"\\0%03o" % byte for byte in range(256)]

# Signals are caught here, so that the command gets them with their defaults (what is caught is reset at
# exec, what is ignored is inherited) and the script lives to tell the end. Its own stderr goes nowhere,
# or some shells would write there how the command ended.
_HEAD = b"""trap : HUP INT QUIT USR1 USR2 TERM
printf '%(mark)s%%s\\n' $$ >&2
printf '%(mark)s%%s\\n' $$
read -r go
case $go in go) ;; *) exit 1 ;; esac
exec 3<&0 4>&2 2>/dev/null
"""
_CONTROL = b"""(
trap '' HUP INT QUIT USR1 USR2 TERM
while read -r signal; do kill -$signal -$$; done
kill -HUP -$$; kill -TERM -$$; kill -CONT -$$
sleep %(grace)d
kill -KILL -$$
) <&3 >/dev/null 4>&- &
control=$!
exec 3</dev/null
"""
_TAIL = b"""(
exec 0<&3 3<&- 2>&4 4>&-
exec %(command)s
)
status=$?
%(release)sprintf '%(mark)s%%s\\n' $status >&4
printf '%(mark)s%%s\\n' $status
exit $status
"""
_RELEASE = b"kill -KILL $control\n"


def quoted(word: bytes) -> bytes:
    """Return a word quoted for sh."""
    return b"'" + word.replace(b"'", b"'\\''") + b"'"


class JobLines:
    """The command lines of a job, one for each rank; what they share is made once.

    Args:
        job: its argv, kill grace and GEXEC_* variables are used, and whether it has stdin.
        mark: what the script says before the two numbers; letters and digits.
        chdir: working directory, b"" = where ssh begins (the home directory).
    """

    def __init__(self, job: JobSpec, mark: bytes, chdir: bytes) -> None:
        self._names = list(job.names)
        stdin = not job.flags & NO_STDIN
        fields = {
            b"mark": b"\\001" + mark + b" ",
            b"grace": max(1, round(job.kill_grace_s)),
            b"command": b" ".join([quoted(word) for word in job.argv]),
            b"release": b"" if stdin else _RELEASE,
        }
        setting = [_export(entry) for entry in job.env if entry.startswith(_GIVEN)]
        everyone = b" ".join(self._names)
        if len(everyone) <= NODES_MAX_BYTES:
            setting.append(_export(b"GEXEC_SVRS=" + everyone))
        directory = b""
        if chdir:
            # "./" keeps a name from being an option, or "-", the directory before.
            directory = b"cd %s || exit 1\n" % quoted(b"./" + chdir if chdir.startswith(b"-") else chdir)
        template = _HEAD + (b"" if stdin else _CONTROL) + _TAIL
        self._common = _octal(directory + b"".join(setting) + template % fields)

    def of(self, rank: int) -> bytes:
        """Return the line of one rank. UsageError if it is longer than an argument can be."""
        own = _export(b"GEXEC_MY_VNN=%d" % rank) + _export(b"GEXEC_NODE=" + self._names[rank])
        return _line(_octal(own) + self._common)


def signal_line(pid: int, names: Sequence[str]) -> bytes:
    """Return the line that sends signals to the process group of a command on its node."""
    return _line(_octal(b"".join([b"kill -%s -%d\n" % (name.encode(), pid) for name in names])))


def _line(encoded: bytes) -> bytes:
    found = b'exec sh -c \'eval "$(printf %b "' + encoded + b'")"\''
    if len(found) > LINE_MAX_BYTES:
        raise UsageError(
            f"the command would be {len(found)} bytes for ssh, which takes at most {LINE_MAX_BYTES}: "
            "put large data into a file or into stdin"
        )
    return found


def _octal(script: bytes) -> bytes:
    return b"".join([_OCTAL[byte] for byte in script])


def _export(entry: bytes) -> bytes:
    name, _, value = entry.partition(b"=")
    return b"%s=%s\nexport %s\n" % (name, quoted(value), name)
