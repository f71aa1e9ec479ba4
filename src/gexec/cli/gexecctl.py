"""gexecctl: what an administrator does beside running commands: keys, local clusters, doctor.

Exit status: 0 done, 1 it failed (one sentence on stderr) or doctor found a problem, 2 usage
error, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys

from gexec.cli.keys import add_keys
from gexec.cli.upgrade import add_upgrade
from gexec.cli.values import refuse_empty
from gexec.cluster.layout import Layout, State
from gexec.errors import GexecError, UsageError
from gexec.version import VERSION

#: Topics about background jobs, with options of their own (``cli.table``), and their help.
JOB_TOPICS = {
    "jobs": "list background jobs (gexec -d) on the nodes",
    "attach": "show a background job's output while it comes",
    "wait": "wait for the end of a background job",
    "output": "show what the nodes have kept of a background job's output",
    "signal": "send a signal to the processes of a background job",
    "kill": "end a background job, and all that it has started",
    "forget": "remove output and outcome of a background job that has ended",
}


def main(argv: list[str]) -> int:
    """Run gexecctl with these arguments (without the program's name); return its exit status."""
    if argv[:1] and argv[0] in JOB_TOPICS:
        from gexec.cli.jobs import main as jobs

        return jobs(argv)
    options = _parser().parse_args(argv)
    try:
        refuse_empty(options, "program", "arguments")
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except UsageError as error:
        return _failed(error, 2)
    except GexecError as error:
        return _failed(error, 1)
    except BrokenPipeError:
        return 1  # the reader left, e.g. `head`
    except KeyboardInterrupt:
        return _failed("interrupted; nothing was left running", 130)
    except OSError as error:
        subject = f"{error.filename}: " if error.filename else ""
        return _failed(f"{subject}{error.strerror or error}", 1)


def _failed(sentence: object, status: int) -> int:
    sys.stderr.write(f"gexecctl: {sentence}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gexecctl", description="Administer gexec: keys, local clusters, and what may be wrong."
    )
    parser.add_argument("-V", "--version", action="version", version=f"gexecctl {VERSION}")
    topics = parser.add_subparsers(title="topics", required=True, metavar="TOPIC")
    add_keys(topics.add_parser("keys", help="keys, and in hardened mode certificates and signers"))
    _add_cluster(topics.add_parser("cluster", help="a whole cluster on this machine"))
    _add_policy(topics.add_parser("policy", help="what this node's policy permits"))
    for topic, help_ in JOB_TOPICS.items():
        topics.add_parser(topic, help=help_)  # parsed in ``main``
    upgrade = "start the code that is installed now, under running jobs"
    add_upgrade(topics.add_parser("upgrade", help=upgrade))
    doctor = topics.add_parser("doctor", help="check keys, sockets, clocks, ports and names")
    doctor.add_argument("--private-key", metavar="FILE", help="instead of the configured one")
    doctor.add_argument("--public-key", metavar="FILE", help="instead of the configured one")
    doctor.add_argument("--json", action="store_true", help="print one JSON object for each finding")
    doctor.set_defaults(run=_doctor)
    return parser


# -- cluster ----------------------------------------------------------------------------------


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")

    def action(name: str, run: object, help_: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        added.add_argument(
            "--dir",
            metavar="DIR",
            help="the cluster's directory (default: $GEXEC_CLUSTER_DIR, else ~/.local/state/gexec/cluster)",
        )
        added.set_defaults(run=run)
        return added

    up = action("up", _cluster_up, "start one authd and N gexecds on 127.0.x.y")
    up.add_argument("count", metavar="N", type=int, help="how many nodes")
    up.add_argument(
        "--port", type=int, metavar="P", help="of all daemons (default: 2875, or the next free one)"
    )
    up.add_argument("--config", metavar="FILE", help="a gexecd.toml for all nodes")
    up.add_argument(
        "--private",
        metavar="PATH",
        action="append",
        default=[],
        help="each node has this directory for itself, empty (root only; may be repeated)",
    )
    up.add_argument(
        "--private-size", type=int, metavar="MIB", help="what such a directory may hold (default: 1024)"
    )
    hardened = "only the first node takes jobs of users; each node has a key of its own"
    up.add_argument("--hardened", action="store_true", help=hardened)
    up.add_argument("--foreground", action="store_true", help="stay until ^C or SIGTERM")
    action("env", _cluster_env, 'print the variables for `eval "$(gexecctl cluster env)"`')
    pids = action("pids", _cluster_pids, "print the pids of a node's daemon, one a line")
    pids.add_argument("names", metavar="NAME", nargs="+", help="a node")
    action("addresses", _cluster_addresses, "print ADDRESS:PORT of each node, one a line")
    action("status", _cluster_status, "tell what runs")
    action("down", _cluster_down, "end all of it, and wait until it is gone")


def _cluster_up(options: argparse.Namespace) -> int:
    from gexec.cluster import control, private

    shown = sys.stderr.isatty() and not options.foreground

    def progress(ready: int, of: int) -> None:
        if shown:
            sys.stderr.write(f"\r{ready} of {of} daemons are ready" + ("\n" if ready == of else ""))
            sys.stderr.flush()

    if options.private_size is not None and not options.private:
        raise UsageError("--private-size without --private: say which directory is to have this size")
    place = Layout.of(options.dir)
    state = control.up(
        options.count,
        place,
        port=options.port,
        config=options.config,
        private_folders=options.private,
        private_size_mib=private.SIZE_DEFAULT_MIB if options.private_size is None else options.private_size,
        hardened=options.hardened,
        foreground=options.foreground,
        progress=progress,
    )
    if state is not None:
        print(f"{state.described_nodes()} on port {state.port}, in {place.dir}")
        again = "" if options.dir is None else f" --dir {options.dir}"
        print(f'use it:  eval "$(gexecctl cluster env{again})"; gexec -n 0 hostname')
        print(f"end it:  gexecctl cluster down{again}")
    return 0


def _running(options: argparse.Namespace) -> tuple[Layout, State]:
    from gexec.cluster import control

    place = Layout.of(options.dir)
    return place, control.require(place)


def _cluster_env(options: argparse.Namespace) -> int:
    from gexec.cluster.layout import environment, export_lines

    sys.stdout.write(export_lines(environment(*_running(options))))
    return 0


def _cluster_pids(options: argparse.Namespace) -> int:
    from gexec.cluster import control

    _, state = _running(options)
    found = [process.pid for name in options.names for process in control.node_processes(state, name)]
    for pid in found:
        print(pid)
    return 0


def _cluster_addresses(options: argparse.Namespace) -> int:
    _, state = _running(options)
    for node in state.nodes:
        print(f"{node.address}:{state.port}")
    return 0


def _cluster_status(options: argparse.Namespace) -> int:
    from gexec.cluster.processes import is_alive

    place, state = _running(options)
    dead = [node.name for node in state.nodes if node.process is None or not is_alive(node.process)]
    authd = "runs" if state.authd is not None and is_alive(state.authd) else "does not run"
    print(f"{state.described_nodes()} on port {state.port}, in {place.dir}")
    print(f"authd {authd}, {len(state.nodes) - len(dead)} of {len(state.nodes)} gexecds run")
    for name in dead:
        print(f"{name}: ended; its log is {place.log(name)}")
    return 1 if dead or authd != "runs" else 0


def _cluster_down(options: argparse.Namespace) -> int:
    from gexec.cluster import control

    place = Layout.of(options.dir)
    state = control.down(place)
    if state is None:
        print(f"no cluster runs in {place.dir}")
    else:
        print(f"ended: {state.described_nodes()}")
    return 0


# -- policy -----------------------------------------------------------------------------------


def _add_policy(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="explain whether a user may run a command here",
        description="Explain whether a user may run a command on this node: each rule, and the limits. "
        "Exit status: 0 allowed, 1 refused, 2 usage error.",
    )
    check.add_argument("--config", metavar="FILE", help="instead of /etc/gexec/gexecd.toml")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.add_argument("user", metavar="USER", help="a login name or a uid")
    check.add_argument("program", metavar="COMMAND", help="an absolute path, or a name in PATH")
    check.add_argument("arguments", metavar="ARG", nargs=argparse.REMAINDER, help="no rule depends on them")
    check.set_defaults(run=_policy_check)


def _policy_check(options: argparse.Namespace) -> int:
    from gexec.cluster import policycheck

    explanation = policycheck.explain(options.user, options.program, options.config)
    form = policycheck.as_json if options.json else policycheck.described
    print(form(explanation))
    return 1 if explanation.refusal else 0


# -- doctor -----------------------------------------------------------------------------------


def _doctor(options: argparse.Namespace) -> int:
    from gexec.cluster import doctor
    from gexec.cluster.findings import PROBLEM

    what, findings = doctor.subject(options.private_key, options.public_key)
    problems = 0
    for source in (findings, doctor.examine(what)):
        for finding in source:
            print(finding.as_json() if options.json else finding, flush=True)
            problems += finding.level == PROBLEM
    if problems:
        print(f"{problems} problem{'s' if problems > 1 else ''} found", file=sys.stderr)
    return 1 if problems else 0
