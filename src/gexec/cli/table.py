"""The options of all commands for jobs and files, and of their programs on the nodes: declared only here.

Parsing, ``--help``, ``--help-all``, the option sections of the manuals (packaging/manuals.py) and the
errors about combinations come from these tables. Part of the thin client: rows are constants.
"""

from __future__ import annotations

from gexec import limits
from gexec.cli.options import Option
from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.cli.options import Parsed

_ALL = "gexec enexec ensh ensync"
_RUN = "gexec enexec ensh"
_DAEMON = "gexec enexec"
_RECEIVE = "ensync gexec-receive"
_SEND = "ensync gexec-send"
_FILTER = "gexec ensync gexec-send"
#: ``gexecctl jobs``, and its actions with one job: attach, wait, signal, kill, output, forget.
_JOB = "gexecctl-job"
_CTL = "gexecctl-jobs gexecctl-job"
_NODES = f"{_ALL} {_CTL}"
_SHOW = f"{_RUN} {_JOB}"
_ONE = f"{_ALL} {_JOB}"
#: Headings, and below each: name, letters, argument, commands, help.
#:
#: Letters are those of all commands, or before a slash gexec's and behind it the others'. An argument
#: in brackets may be left out; its name chooses the check (``Option.checked``). ``--help`` shows the
#: help up to its first semicolon. A name is listed twice if its help is not the same for all commands.
# fmt: off
GROUPS = (
    ("Which nodes", (
        ("nodes", "w/nw", "NAMES", _NODES,
         "these nodes: names, 'node[1-9]', @group; - reads them from stdin; may be repeated"),
        ("exclude", "x/", "NAMES", _NODES, "exclude these nodes; may be repeated"),
        ("not-here", "/x", "", "enexec ensh ensync", "exclude this host"),
        ("nprocs", "n/", "N", _NODES, "the first N nodes; 0, the default: all"),
        ("pick", "", "N", _NODES, "N random nodes"),
        ("nodelist", "", "FILE", _NODES, "the nodes in a file, a name on each line"),
        ("hosts-file", "", "FILE", _NODES, "the nodes in a file in the form of pssh: host or host:port"),
        ("rerun", "", "FILE", _NODES,
         "the nodes in a file that --failed-to wrote; if it names none, nothing runs: status 0"),
        ("skip-down", "", "", _NODES,
         "exclude nodes that gmond reports as dead or that were not reached lately"),
    )),
    ("What is shown", (
        ("prefix-type", "p", "T", "gexec",
         "before each line: none, vnn (rank), host (name) or ip; default vnn"),
        ("prefix-type", "p", "T", f"enexec {_JOB}",
         "before each line: none, vnn (rank), host (name) or ip; default host"),
        ("prefix-type", "p", "T", "ensh", "before each line: none, vnn (rank) or host (name); default host"),
        ("gather", "b", "", _SHOW, "equal output once, below the names of its nodes"),
        ("live", "", "", _SHOW, "with --gather: each group as soon as its first node has ended"),
        ("diff", "", "[=NODE]", _SHOW, "differences from the output of most nodes, or of NODE"),
        ("json", "", "", _ONE, "one JSON object on a line for each event"),
        ("json", "", "", "gexecctl-jobs", "one JSON object on a line for each job"),
        ("output-dir", "", "DIR", _SHOW, "also a file for each node: DIR/NODE.out, DIR/NODE.err"),
        ("quiet", "q", "", _SHOW, "no output of the processes"),
        ("quiet", "q", "", "ensync", "only failures; of --checksum and --dry-run only the status"),
        ("summary", "", "", _ONE, "at the end, how all nodes ended; also those that succeeded"),
        ("color", "", "WHEN", _ONE, "auto (on a terminal, unless NO_COLOR is set), always or never"),
        ("no-progress", "", "", _ONE, "do not show the progress on the terminal"),
    )),
    ("Which files", (
        ("fetch", "", "PATH", "gexec", "copy PATH from the nodes to here; no command runs; may be repeated"),
        ("to", "", "DIR", "gexec", "with --fetch: as DIR/NODE/PATH"),
        ("owners", "", "", "gexec", "with --fetch, as root: set the owners that the nodes report"),
        ("exclude-files", "", "PATTERN", _FILTER,
         "leave out files that match, as rsync does; the first pattern that matches counts"),
        ("include-files", "", "PATTERN", _FILTER, "keep files that match"),
        ("exclude-files-from", "", "FILE", "ensync gexec-send", "patterns in a file; - reads stdin"),
        ("files-from", "", "FILE", _SEND,
         "the files that a list names, below FILE or /; - reads the list from stdin"),
        ("from0", "", "", _SEND, "names in lists end with NUL, as of find -print0"),
        ("dest", "", "PATH", _RECEIVE,
         "below the directory PATH, or one file as PATH; %h in it is the node's name, %n its rank, %% a %"),
        ("no-target-directory", "T", "", "ensync", "with --dest: what is copied is called PATH itself"),
        ("target", "", "KIND", "gexec-receive",
         "what PATH is: directory (default), name, either; name: of what is copied; either: as it is there"),
        ("relative", "", "", "ensync", "with --dest: below it the whole path; not only its last part"),
        ("about", "", "TEXT", "gexec-receive", "not used: what is copied, for the audit log"),
        ("parents", "", "", _RECEIVE, "create missing directories above; without it they are an error"),
        ("delete", "", "", _RECEIVE,
         "in copied directories, delete what the source lacks; at the end, if all has arrived"),
        ("max-delete", "", "N", _RECEIVE, "delete nothing if more than N entries would go; with `--delete`"),
        ("remove", "", "", "ensync", "delete these files on the nodes; absolute paths, no directories"),
        ("remove", "", "", "gexec-send", "the receivers delete these paths"),
        ("backup", "b", "", _RECEIVE, "keep what is replaced as NAME~"),
        ("checksum", "", "", _RECEIVE, "write nothing, report differences by contents; once for equal nodes"),
        ("dry-run", "", "", _RECEIVE, "write nothing, report what would be done"),
        ("checksum-compare", "", "", _RECEIVE, "do not write equal contents, whatever the times"),
        ("sync", "", "", _RECEIVE, "flush each file to the disk before it gets its name"),
        ("setuid", "", "", _RECEIVE, "keep set-uid and set-gid bits; without it they are removed"),
        ("numeric-ids", "", "", _RECEIVE, "set owners by number, not by name"),
        ("no-owner", "", "", _RECEIVE, "do not set owners"),
        ("names", "", "WHICH", "gexec-send",
         "full (default): whole paths; base: last parts; asked: whole, as written, also of links"),
        ("glob", "", "", "gexec-send", "with --names=asked: paths may have wildcards"),
        ("xattrs", "", "", _SEND, "keep extended attributes, ACLs and capabilities; the default for root"),
        ("no-xattrs", "", "", "ensync gexec-send gexec-receive", "do not keep them"),
        ("asking", "", "", "gexec-send", "send what receivers lack: their answers come on stdin"),
        ("total", "", "FD", "gexec-send", "tell this descriptor how much will be sent; in 8 bytes"),
        ("sign", "", "FD", "gexec-send", "sign the stream; this descriptor has the private key; 32 bytes"),
        ("signed-by", "", "KEY", "gexec-receive",
         "accept only what this Ed25519 key has signed; 64 digits in hex"),
        ("digests", "", "", "gexec-send", "digests instead of contents; for receivers that only compare"),
        ("loader", "", "", "gexec-send", "before the files the receiver's modules; for nodes without gexec"),
        ("compress", "", "WHEN", _SEND, "zstd: auto (the default, if it helps), always, never"),
        ("bwlimit", "", "N[kMG]", _SEND, "send at most N bytes a second from this host"),
        ("min-rate", "", "N[kMG]", "ensync", "nodes that write fewer bytes a second come last; not over ssh"),
        ("min-rate", "", "N[kMG]", "gexec-receive", "give up if fewer bytes a second are written, over 5 s"),
        ("stall", "", "S", "ensync", "give up a node that takes nothing for S seconds; default 30; 0: never"),
        ("via", "", "WAY", "ensync", "gexec, ssh, or auto (default): ssh where gexecd fails"),
    )),
    ("When something fails", (
        ("exit-policy", "", "P", _ONE,
         "exit status 0 if: worst (all succeed, the default), any, 'ok-if N', 'ok-if N%'"),
        ("failed-to", "", "FILE", _ONE, "write to FILE which nodes failed, and why"),
        ("batch", "", "N|P%", _RUN, "so many nodes at a time; the next batch when this one has ended"),
        ("batch-delay", "", "S", _RUN, "with --batch: wait S seconds between two batches"),
        ("max-failures", "", "N|P%", _RUN,
         "with --batch: start no further batch when more nodes than this have failed"),
        ("retries", "", "N", _RUN, "try nodes that were not reached N more times; at most 100"),
        ("dry-run", "", "", _RUN, "show what would run where; run nothing"),
        ("strict", "", "", _DAEMON, "start on no node unless all can start; and every name matches"),
        ("strict", "", "", "ensync", "copy to no node unless all can start; through gexec only"),
    )),
    ("How it runs", (
        ("timeout", "", "S", _ALL, "end processes that run longer than S seconds"),
        ("connect-timeout", "", "S", _NODES,
         "do not start on a node that is silent for S seconds; default 5"),
        ("chdir", "", "DIR", _DAEMON, "working directory on the nodes; default: this one"),
        ("chdir", "", "DIR", "ensh", "working directory on the nodes; default: the home directory"),
        ("no-stdin", "", "", _RUN, "the processes read /dev/null"),
        ("detached", "d/", "", _DAEMON, "exit when all have started; `gexecctl jobs` shows what runs"),
        ("name", "", "NAME", _DAEMON, "with --detached: call the job NAME"),
        ("detach-on-hup", "", "", _DAEMON,
         "as --detached, but show the output; SIGHUP and ^Z detach; no stdin"),
        ("keep", "", "N[kMG]", _DAEMON,
         "with --detached: bytes of stdout, and of stderr, that a node keeps; default 5M; 0: none"),
        ("lease", "", "N[smhd]", _DAEMON,
         "with --detached: for how long nodes keep output and outcome; default 24h after the end"),
        ("remote-path", "", "", _DAEMON, "search for the program in PATH on each node, not here"),
        ("serial", "s", "", "ensh", "one node after the other, in their order"),
        ("fanout", "f", "N", f"{_DAEMON} {_CTL}", "children of a node in the tree, 1 to 1024; default 16"),
        ("fanout", "f", "N", "ensh", "number of ssh at a time; default 64"),
        ("fanout", "f", "N", "ensync",
         "nodes to which each node sends; default 1, beyond 32 nodes 2; with --via=ssh: ssh at a time, all"),
        ("port", "P", "N", f"{_DAEMON} {_CTL}",
         "port of gexecd where a name has none; default $GEXEC_PORT, 2875"),
        ("port", "P", "N", "ensh", "port of sshd where a name has none; default: that of ssh"),
        ("port", "P", "N", "ensync", "port of gexecd where a name has none; with --via=ssh: of sshd"),
        ("user", "l", "USER", "ensh ensync", "user on the nodes, over ssh"),
        ("ssh-option", "o", "OPT", "ensh ensync", "an option for ssh, as ssh -o; may be repeated"),
        ("ask", "", "", "ensh ensync", "ssh may ask for passwords and host keys on the terminal"),
    )),
    ("Which jobs", (
        ("all-users", "a", "", f"{_CTL} gexec-job", "as root: jobs of all users"),
        ("complete", "", "", "gexecctl-jobs", "ids and names only, to complete command lines"),
        ("tail", "", "N[kMG]", f"{_JOB} gexec-job",
         "of attach and output: the last N bytes of each stream; default of attach 64k, of output all"),
        ("now", "", "", f"{_JOB} gexec-job", "of kill: SIGKILL at once"),
        ("hold", "", "", "gexec-job", "of attach: discard nothing unread; signals are the command's"),
        ("uid", "", "N", "gexec-job", "as root: of this user"),
    )),
    ("Other", (
        ("verbose", "v", "", _NODES, "report on stderr which nodes, their source, the start and the end"),
        ("help", "h", "", f"{_NODES} gexec-send gexec-receive gexec-job", "one page of help"),
        ("help-all", "", "", _NODES, "every option"),
        ("version", "V", "", _NODES, "the version"),
    )),
)
_RANGES = {
    "nprocs": (0, limits.RANKS_MAX),
    "pick": (1, limits.RANKS_MAX),
    "retries": (0, 100),
    "total": (0, 1_000_000),
    "sign": (0, 1_000_000),
    "max-delete": (0, 1_000_000_000),
    "uid": (0, 2**32 - 2),
    "fanout": (limits.FANOUT_MIN, limits.FANOUT_MAX),
    "port": (1, 65535),
}
_AUTO = ("auto", "always", "never")
_CHOICES = {
    "prefix-type": ("none", "vnn", "host", "ip"),
    "color": _AUTO,
    "compress": _AUTO,
    "via": ("gexec", "ssh", "auto"),
    "names": ("full", "base", "asked"),
    "target": ("directory", "name", "either"),
}
#: Each of these options on the left excludes all on the right, and why. With a value: only this value.
EXCLUDES = (
    ("rerun", "nodelist", "both name a file of nodes"),
    ("gather diff", "json quiet", "output has one form"),
    ("json", "quiet", "output has one form"),
    ("prefix-type", "gather diff json quiet", "prefixes are of lines that are shown as they come"),
    ("color=always", "json quiet", "nothing of it has colours"),
    ("live", "diff", "--diff shows all nodes at the end"),
    ("detached", "gather diff output-dir", "the nodes keep the output of detached processes"),
    ("detached", "batch", "a batch ends with its processes, and nothing waits for detached ones"),
    ("detached detach-on-hup", "retries", "each attempt would be a job with an id of its own"),
    ("detached", "detach-on-hup", "one shows the output, the other one does not"),
    ("detach-on-hup", "batch", "a batch is a job with an id of its own"),
    ("complete", "json", "output has one form"),
    ("strict", "batch", "whether all nodes can start is only known of one batch at a time"),
    ("fetch", "prefix-type gather live diff json output-dir quiet color detached detach-on-hup batch"
     " batch-delay max-failures retries remote-path", "files are fetched, and no command runs"),
    ("checksum", "dry-run", "neither writes anything"),
    ("xattrs", "no-xattrs", "one is the opposite of the other"),
    ("no-target-directory", "relative", "the path is PATH itself"),
    ("remove", "dest relative parents delete checksum checksum-compare sync setuid numeric-ids no-owner"
     " xattrs no-xattrs bwlimit compress min-rate", "nothing is copied"),
    ("strict", "via=ssh via=auto", "only gexecd can start on all nodes or on none"),
    ("strict", "ssh-option ask", "only gexecd can start on all nodes or on none, and ssh is not used"),
    ("via=gexec", "ssh-option ask", "they are about ssh, which is not used"),
    ("remove", "exclude-files include-files exclude-files-from files-from", "nothing is copied"),
    ("files-from", "delete", "a list does not say what else is in a directory"),
    ("min-rate", "via=ssh", "over ssh no node waits for another"),
    ("compress=always", "via=ssh", "over ssh nothing is compressed"),
    ("checksum", "backup checksum-compare sync min-rate", "nothing is written"),
    ("numeric-ids", "no-owner", "no owner is set"),
    ("serial", "fanout", "one node comes after the other"),
)
# fmt: on
#: The first option of each needs the second, in commands that have both, and why.
NEEDS = (
    ("live", "gather", "it applies to groups of equal output"),
    ("batch-delay", "batch", "it applies between batches"),
    ("max-failures", "batch", "it applies between batches"),
    ("fetch", "to", "it is the directory for the files"),
    ("to", "fetch", "it is the directory for fetched files"),
    ("owners", "fetch", "it is about files that are fetched"),
    ("max-delete", "delete", "it bounds what is deleted"),
    ("exclude-files", "fetch", "it is about files that are copied"),
    ("include-files", "fetch", "it is about files that are copied"),
    ("from0", "files-from", "it is about the list"),
    ("relative", "dest", "without it every path stays whole"),
    ("no-target-directory", "dest", "without it every path stays whole"),
    ("user", "via=ssh", "through gexecd files are written as you"),
)


def options_of(command: str) -> tuple[Option, ...]:
    """Return the options of a command, in the order of the table."""
    options = []
    is_gexecs = command == "gexec" or command.startswith("gexecctl")
    for heading, rows in GROUPS:
        for long, letters, argument, commands, meaning in rows:
            if command in commands.split():
                own, slash, others = letters.partition("/")
                short = others if slash and not is_gexecs else own
                options.append(
                    Option(short, long, argument, meaning, heading, _RANGES.get(long), _CHOICES.get(long, ()))
                )
    return tuple(options)


def check_combination(parsed: Parsed) -> None:
    """Raise UsageError for options that exclude each other, and for one that needs another."""
    for left, right, why in EXCLUDES:
        for one in left.split():
            for other in right.split() if _given(parsed, one) else ():
                if _given(parsed, other):
                    raise UsageError(f"options --{one} and --{other}: {why}; give only one of them")
    for one, needed, why in NEEDS:
        if parsed.given(one) and parsed.knows(needed.partition("=")[0]) and not _given(parsed, needed):
            raise UsageError(f"option --{one} needs --{needed}: {why}; give both, or neither")
    _check_background(parsed)


def _check_background(parsed: Parsed) -> None:
    """Raise UsageError for an option about a background job of a job that is none."""
    if not (parsed.flag("detached") or parsed.flag("detach-on-hup")):
        for name in ("name", "keep", "lease"):
            if parsed.given(name):
                raise UsageError(f"option --{name} needs --detached or --detach-on-hup: no other job is kept")


def _given(parsed: Parsed, name: str) -> bool:
    long, equals, value = name.partition("=")
    return parsed.last(long) == value if equals else parsed.given(long)
