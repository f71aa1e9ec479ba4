"""The command line for a node's login shell, and the script in it. Pure.

The script is for any POSIX sh. It reports that it has started, waits for the word *go*, runs the command in
its own process group, passes on the signals that it receives, and reports the command's status. The line
around it works with every login shell, including csh and fish, because it contains no character that any of
them would change between single quotes: all others are octal.

    node to here   MARK PID \n    on both streams: started; the command's bytes begin after this
                   MARK STATUS \n on both streams: the command has ended with this status
    here to node   go\n           run it; after this comes the command's stdin, or, without stdin, names of
                                  signals, one per line, and at end of file: end the command
"""

from __future__ import annotations

from gexec import limits
from gexec.errors import UsageError
from gexec.wire.jobspec import NO_STDIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.wire.jobspec import JobSpec

#: The kernel's limit for one argument: the line is one, of ssh here and of the login shell there.
LINE_MAX_BYTES = limits.ARG_MAX_BYTES
#: A longer list of all nodes is left out of the environment.
NODES_MAX_BYTES = 64 * 1024
#: The variables of the job that are passed to the node; ssh decides about the rest.
_GIVEN = (b"GEXEC_NPROCS=", b"GEXEC_GPID=")
GO = b"go\n"
#: The signals that the script passes on, by their numbers here; numbers on the node may differ.
SIGNALS = {1: "HUP", 2: "INT", 3: "QUIT", 9: "KILL", 10: "USR1", 12: "USR2", 15: "TERM", 18: "CONT",
           20: "TSTP", 28: "WINCH"}  # fmt: skip
#: Signals that request a command's end.
GENTLE = ("HUP", "TERM", "CONT")

#: Bytes that stay unchanged: printable, and not special to any shell between '"..."'. The rest is octal.
_PLAIN = frozenset(range(0x20, 0x7F)) - frozenset(b"\"$'\\`!")
_OCTAL = [bytes((byte,)) if byte in _PLAIN else b"\\0%03o" % byte for byte in range(256)]

# Signals are caught here, so that the command has their defaults (a caught signal is reset at exec, an
# ignored one is inherited) and the script survives to report the end. Its own stderr is discarded, because
# some shells would write there how the command ended.
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
    """The command lines of a job, one for each rank; their common part is made once.

    Args:
        job: its argv, kill grace, GEXEC_* variables and NO_STDIN flag are used.
        mark: what the script writes before the two numbers; letters and digits.
        chdir: working directory, b"" = that of ssh (the home directory).
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
            # "./" so that a name is not taken as an option, or as "-", the previous directory.
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
