"""``ensh``: a shell line on all nodes over ssh, before gexecd is there. See ``ensh -h``, docs/ensh.md."""

from __future__ import annotations

from gexec.cli.command import run
from gexec.cli.enexec import Wrapper
from gexec.client.nodes import choose
from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.cli.command import Submit
    from gexec.cli.options import Parsed
    from gexec.client.job import Request
    from gexec.select.sources import Choice
    from gexec.wire.jobspec import JobSpec


class Ensh(Wrapper):
    """Jobs whose nodes are reached by ssh, one after the other or some at a time."""

    __slots__ = ()
    resolves = False  # addresses are ssh's matter

    def plan(self, parsed: Parsed, request: Request) -> tuple[JobSpec, Choice, Submit]:
        """Return the job, who chose its nodes, and what runs it or a part of it over ssh."""
        from gexec.ssh.job import FANOUT_DEFAULT, SshOptions, prepare, submit
        from gexec.ssh.settings import given

        if parsed.last("prefix-type") == "ip":
            raise UsageError("option -p ip: it is ssh that looks the addresses up; use -p host")
        self.choose(parsed, request)
        choice = choose(request)
        if choice.took_stdin:
            request.stdin = False
        arguments = given(parsed.all("ssh-option"), parsed.last("user"))
        nodes = [(name, port or request.port) for name, port in choice.nodes]
        job = prepare(
            nodes,
            request.argv,
            stdin=request.stdin,
            fanout=1 if parsed.flag("serial") else parsed.integer("fanout", FANOUT_DEFAULT),
            timeout_s=request.timeout_s,
            connect_timeout_s=request.connect_timeout_s,
        )
        options = SshOptions(arguments=arguments, ask=parsed.flag("ask"), chdir=parsed.last("chdir") or "")
        return job, choice, lambda job: submit(job, options)


ENSH = Ensh("ensh")


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    return run(ENSH, words)
