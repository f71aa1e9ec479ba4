"""``--help-all``: every option of a command, from one table. Imported only when it is asked for."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.cli.command import Command

#: Headings, and under each: long name, name of the value, meaning. A command shows those that it has.
_SECTIONS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "Which nodes",
        (
            ("nodes", "NAMES", "these nodes; - reads names from stdin; may be repeated"),
            ("exclude", "NAMES", "but not these; may be repeated"),
            ("not-here", "", "but not this host"),
            ("nprocs", "N", "the first N nodes, 0 = all (the default)"),
            ("pick", "N", "N random nodes"),
            ("nodelist", "FILE", "a file of names, one a line"),
            ("hosts-file", "FILE", "a file of names in pssh's form: host or host:port"),
            ("rerun", "FILE", "the nodes in a file that --failed-to wrote"),
            ("skip-down", "", "but not those that gmond calls dead or that were not reached lately"),
        ),
    ),
    (
        "What is shown",
        (
            ("prefix-type", "T", ""),
            ("gather", "", "equal output once, under the names of its nodes"),
            ("live", "", "with --gather: each group as soon as its first node has ended"),
            ("diff", "[=NODE]", "how outputs differ from what most nodes wrote, or NODE"),
            ("json", "", "one JSON object a line for each event"),
            ("output-dir", "DIR", "also a file for each node: DIR/NODE.out, DIR/NODE.err"),
            ("quiet", "", "nothing of what the processes write"),
            ("summary", "", "at the end, how all nodes ended, also those that are well"),
            ("color", "WHEN", "auto (on a terminal, unless NO_COLOR is set), always or never"),
            ("no-progress", "", "do not draw on the terminal how far the run is"),
        ),
    ),
    (
        "Which files",
        (
            ("fetch", "PATH", "instead of a command, bring the nodes' PATH here; may be repeated"),
            ("to", "DIR", "as DIR/NODE/PATH"),
            ("dest", "DIR", "below DIR on the nodes, made of %h (node's name) and %n (rank) as well"),
            ("relative", "", "with --dest: below it the whole path, not only its last part"),
            ("parents", "", "make missing directories above, and DIR"),
            ("delete", "", "remove in copied directories what is not here, when all has arrived"),
            ("remove", "", "copy nothing: delete these files on the nodes"),
            ("backup", "", "keep what is replaced as NAME~"),
            ("checksum", "", "write nothing: say which nodes differ, and how"),
            ("checksum-compare", "", "do not write what has equal contents, whatever its time"),
            ("sync", "", "have the disks confirm every file"),
            ("setuid", "", "keep set-uid and set-gid bits"),
            ("numeric-ids", "", "owners by number, not by name"),
            ("no-owner", "", "do not set owners"),
            ("compress", "WHEN", "auto (if it helps), always or never"),
            ("bwlimit", "N[kMG]", "at most so many bytes a second leave this host"),
            ("min-rate", "N[kMG]", "a node that writes slower, in bytes a second, comes after all others"),
            ("via", "WAY", "gexec, ssh, or auto: ssh to those where no gexecd answers"),
        ),
    ),
    (
        "When something fails",
        (
            ("exit-policy", "P", "status 0 if: worst (all are well), any, 'ok-if N', 'ok-if N%'"),
            ("failed-to", "FILE", "write there which nodes failed, and why"),
            ("batch", "N|P%", "so many nodes at a time, the next when all of these have ended"),
            ("batch-delay", "S", "wait S seconds between two batches"),
            ("max-failures", "N|P%", "begin no further batch once more nodes than this have failed"),
            ("retries", "N", "try nodes that could not be reached up to N times more"),
            ("dry-run", "", "say what would run where; run nothing"),
            ("strict", "", "start nowhere unless every node can start and every name matches"),
        ),
    ),
    (
        "How it runs",
        (
            ("timeout", "S", "end what runs longer than S seconds"),
            ("connect-timeout", "S", "a node that does not answer for S seconds is not reached (5)"),
            ("chdir", "DIR", ""),
            ("no-stdin", "", "the processes read /dev/null"),
            ("detached", "", "leave when all have started; output is thrown away"),
            ("remote-path", "", "look the program up in PATH on each node, not here"),
            ("serial", "", "one node after the other"),
            ("fanout", "N", ""),
            ("port", "N", ""),
            ("user", "USER", "the user on the nodes"),
            ("ssh-option", "OPT", "as ssh -o; may be repeated"),
            ("ask", "", "ssh may ask for passwords and host keys on the terminal"),
        ),
    ),
    (
        "And",
        (
            ("verbose", "", "say which nodes, when all have started, when all is done"),
            ("help", "", "a page of help"),
            ("help-all", "", "this"),
            ("version", "", "the version"),
        ),
    ),
)
#: What is not the same for all commands.
_THROUGH_SSH = {
    "prefix-type": "before each line: none, vnn (rank) or host (name); default {default}",
    "chdir": "working directory on the nodes (the home directory)",
    "fanout": "so many ssh at a time (64)",
    "port": "of the nodes' sshd",
}
_THROUGH_GEXECD = {
    "prefix-type": "before each line: none, vnn (rank), host (name) or ip; default {default}",
    "chdir": "working directory on the nodes (this one)",
    "fanout": "children of a node in the tree (16)",
    "port": "of gexecd ($GEXEC_PORT, 2875)",
}
_COPYING = {
    "prefix-type": "",
    "chdir": "",
    "dry-run": "say on which nodes what would be written; write nothing",
    "fanout": "nodes that each hands on to (1; beyond 32 nodes 2); or ssh at a time",
    "port": "of gexecd; --via=ssh: of the nodes' sshd",
}


def page(command: Command) -> str:
    """Return the usage line and every option of a command."""
    table = {option.long: option for option in command.options}
    by_ssh = "ssh-option" in table
    own = _COPYING if "via" in table else _THROUGH_SSH if by_ssh else _THROUGH_GEXECD
    lines = [command.help.partition("\n")[0]]
    for heading, entries in _SECTIONS:
        lines += ["", f"{heading}:"]
        for long, value, meaning in entries:
            option = table.get(long)
            if option is not None:
                letters = "".join([f"-{letter}, " for letter in option.short])
                shown = value if value.startswith("[") else f"={value}" if value else ""
                name = f"{letters:>4}--{long}{shown}"
                lines.append(f"  {name:<25} {own.get(long, meaning).format(default=command.prefix)}")
    lines += ["", "Long options may be shortened as long as they are unique.", command.help.splitlines()[-1]]
    return "\n".join(lines) + "\n"
