"""The options of the command lines that choose nodes, and their wrong values, on a real cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gexec.cli.command import Command
from gexec.cli.enexec import ENEXEC
from gexec.cli.ensh import ENSH
from gexec.cli.gexec import GEXEC
from gexec.cli.manual import help_page
from gexec.version import VERSION

from .commands import Shell
from .conftest import Cluster


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(cluster.env, tmp_path)


def chosen(shell: Shell, *words: object, **env: str | None) -> list[str]:
    """Return the nodes, in the order of their ranks, on which gexec with these words runs."""
    done = shell.gexec(*words, "sh", "-c", "echo $GEXEC_NODE", env=env)
    assert done.returncode == 0, done.stderr
    told = sorted((int(line.split()[0]), line.split()[1].decode()) for line in done.stdout.splitlines())
    return [name for _, name in told]


def names(*numbers: int) -> list[str]:
    return [f"node{number:03d}" for number in numbers]


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["-w", "node[002-003],node007"], [2, 3, 7]),
        (["-w", "node007", "--nodes", "node002"], [7, 2]),
        (["-w", "node[001-008]!node[002-007]"], [1, 8]),
        (["-x", "node00[1-6]"], [7, 8]),
        (["-x", "node001,node002", "--exclude=node*[7-8]"], [3, 4, 5, 6]),
        (["-x", ""], [1, 2, 3, 4, 5, 6, 7, 8]),
        (["-n", "2"], [1, 2]),
        (["-n", "0", "-x", "node003"], [1, 2, 4, 5, 6, 7, 8]),
        (["--nprocs=1", "-x", "node001"], [2]),
        (["--pick=8"], [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_names_and_sets(shell: Shell, words: list[str], numbers: list[int]) -> None:
    assert chosen(shell, *words) == names(*numbers)


def test_lots_keep_the_order_and_draw_no_node_twice(shell: Shell) -> None:
    drawn = chosen(shell, "--pick", "5")
    assert len(set(drawn)) == 5
    assert drawn == sorted(drawn)
    # Of 56 draws that there are, ten in a row that equal the first are no lots.
    assert any(chosen(shell, "--pick", "5") != drawn for _ in range(10))


def test_node_lists_and_hosts_files(shell: Shell) -> None:
    first, second = shell.folder / "first", shell.folder / "second"
    first.write_text("# ours\nnode006  # the big one\n\nnode[002-003]\n")
    second.write_text(f"node005\nnode001:{shell.env['GEXEC_PORT']}\n")
    assert chosen(shell, "--nodelist", first) == names(6, 2, 3)
    assert chosen(shell, "--hosts-file", second) == names(5, 1)
    assert chosen(shell, "-w", "node008", "--nodelist", first, "--hosts-file", second) == names(
        8, 6, 2, 3, 5, 1
    )
    assert chosen(shell, GEXEC_SVRS=None, GEXEC_NODELIST=str(first)) == names(6, 2, 3)
    done = shell.gexec("-v", "--nodelist", first, "true")
    assert f"gexec: 3 nodes from node list {first}: " in done.stderr.decode()


def test_what_excludes_nothing_is_told_once_by_each_command(shell: Shell, tmp_path: Path) -> None:
    sentence = "-x 'nod003' excludes nothing: not among the nodes from "
    (tmp_path / "file").write_text("x")
    for name, words in (
        ("gexec", ["true"]),
        ("enexec", ["true"]),
        ("gexec", ["--fetch", tmp_path / "file", "--to", tmp_path / "fetched"]),
        ("ensync", ["--dry-run", tmp_path / "file"]),
        ("ensync", ["--remove", tmp_path / "gone"]),
    ):
        done = shell.run(name, "--exclude", "nod003", *words)
        lines = [line for line in done.stderr.decode().splitlines() if sentence in line]
        assert len(lines) == 1, (name, done.stderr)
        assert lines[0].startswith(f"{name}: ")
        assert done.returncode == 0, done.stderr
    done = shell.run(
        "ensync", "--strict", "--exclude", "nod003", "--dest", tmp_path / "no", tmp_path / "file"
    )
    assert (done.returncode, done.stderr.decode().count(sentence)) == (2, 1), done.stderr
    assert not (tmp_path / "no").exists()
    assert b"nod003" not in shell.run("enexec", "-x", "true").stderr


def test_no_source_is_a_line_for_each(shell: Shell) -> None:
    done = shell.gexec("true", env={"GEXEC_SVRS": None})
    assert done.returncode == 2
    lines = done.stderr.decode().splitlines()
    assert lines[:2] == [
        "gexec: no nodes: set GEXEC_SVRS to their names, or give them with -w",
        "  GEXEC_SVRS is not set",
    ]
    assert all(line.startswith("  ") for line in lines[1:])


# -- wrong words --------------------------------------------------------------------------------

WRONG = [
    (["-n", "9"], "Not enough hosts available: 9 asked, 8 known"),
    (["-n", "x"], "--nprocs: expected a whole number"),
    (["-n", "65537"], "--nprocs: expected a whole number"),
    (["--pick", "0"], "option --pick: expected a whole number from 1"),
    (["--pick", "9"], "Not enough hosts available: 9 asked, 8 known"),
    (
        ["-n", "2", "--pick", "2"],
        "options --nprocs and --pick: both give a number of nodes; give only one of them",
    ),
    (["-w", ""], "no nodes: -w names none"),
    (["-w", "node[1-"], "-w: "),
    (["-w", "node[3-1]"], "-w: "),
    (["-w", "@no-such-group"], "no-such-group"),
    (["-x", "node[001-008]"], "no node is left: -x leaves out all"),
    (["-x", "-"], "option -x does not read stdin"),
    (["-w", "-", "-w", "-"], "option -w - is given twice"),
    (["--nodelist", "/no/such/list"], "node list /no/such/list: there is no such file"),
    (["--nodelist", "/"], "node list /: Is a directory"),
    (["--nodelist="], "option --nodelist: the value is empty; give FILE"),
    (["--hosts-file", "/no/such/list"], "hosts file /no/such/list: there is no such file"),
    (["--hosts-file="], "option --hosts-file: the value is empty; give FILE"),
    (["--rerun", "/no/such/list"], "--rerun /no/such/list: No such file"),
    (["--rerun", "/"], "--rerun /: Is a directory"),
    (["--rerun="], "option --rerun: the value is empty; give FILE"),
    (["--rerun", "/dev/null", "--nodelist", "/dev/null"], "options --rerun and --nodelist: "),
    (["--failed-to="], "option --failed-to: the value is empty; give FILE"),
    (["-p", ""], "option -p/--prefix-type: expected one of none, vnn, host, ip, not ''"),
    (["--color="], "option --color: expected one of auto, always, never, not ''"),
    (["--retries="], "option --retries: expected a whole number"),
    (["-x", "nod003", "--strict"], "-x 'nod003' excludes nothing: not among the nodes from GEXEC_SVRS"),
    (["-x", "node00[12]", "--strict"], "[12] is the number 12, write [1,2]"),
    (["-w", "node001,q*", "--strict"], "-w: 'q*' matches none of the known nodes"),
    (["-p", "x"], "option -p/--prefix-type: expected one of none, vnn, host, ip, not 'x'"),
    (["--color", "sometimes"], "option --color: expected one of auto, always, never, not 'sometimes'"),
    (["--json", "-b"], "options --gather and --json: output has one form"),
    (["--quiet", "--diff"], "options --diff and --quiet: output has one form"),
    (["--to", "x"], "option --to needs --fetch: it is the directory for fetched files; give both"),
    (["--live"], "option --live needs --gather: it applies to groups of equal output"),
    (["--diff=node009"], "option --diff: 'node009' is none of the job's nodes"),
    (["--chdir="], "option --chdir: the value is empty; give DIR"),
    (["--diff="], "option --diff: the value is empty; give NODE"),
    (["--output-dir="], "option --output-dir: the value is empty; give DIR"),
    (["--output-dir", "/dev/null/x"], "--output-dir: /dev/null/x: Not a directory"),
    (
        ["--exit-policy", "best"],
        "option --exit-policy: expected worst, any, 'ok-if N' or 'ok-if N%', not 'best'",
    ),
    (
        ["--exit-policy", "ok-if 101%"],
        "option --exit-policy: expected 1 to 100% after ok-if, not 'ok-if 101%'",
    ),
    (["-w", "node002,root@node001"], "root@node001: a job runs as the calling user"),
    (["-w", "n" * 300], f"node name '{'n' * 80}': expected 1 to 255 printable characters"),
    (["-l", "root"], "unknown option -l: a job runs as the calling user"),
    (["--batch", "0"], "option --batch: expected at least 1, not '0'"),
    (["--batch", "x"], "option --batch: expected a number of nodes or a percentage, not 'x'"),
    (["--batch", "101%"], "option --batch: expected a number of nodes or a percentage"),
    (["--batch-delay", "1"], "option --batch-delay needs --batch: it applies between batches"),
    (["--batch", "1", "--batch-delay", "x"], "option --batch-delay: expected seconds"),
    (["--max-failures", "1"], "option --max-failures needs --batch: it applies between batches"),
    (["--batch", "1", "--max-failures=-1"], "option --max-failures: expected a number of nodes"),
    (["--retries", "x"], "option --retries: expected a whole number from 0 to 100, not 'x'"),
    (["--retries", "101"], "option --retries: expected a whole number from 0 to 100"),
    (["-d", "--batch", "2"], "options --detached and --batch: "),
    (["-d", "-b"], "options --detached and --gather: the nodes keep the output of detached processes"),
    (["-d", "--output-dir", "x"], "options --detached and --output-dir: "),
    (["--strict", "--batch", "2"], "options --strict and --batch: "),
    (["--timeout", "x"], "option --timeout: expected seconds"),
    (["--connect-timeout", "-1"], "option --connect-timeout: expected seconds"),
    (["--fanout", "0"], "--fanout: expected a whole number from 1"),
    (["--port", "65536"], "--port: expected a whole number from 1 to 65535"),
    (["--verbose=1"], "option --verbose takes no value"),
    (["--frobnicate"], "unknown option --frobnicate: gexec -h lists the options"),
    (["--batch"], None),  # it takes the program for its value
]


def test_a_node_in_the_place_of_the_program(shell: Shell) -> None:
    done = shell.gexec("node001", "true")
    assert (done.returncode, done.stdout) == (127, b"")
    assert done.stderr == b"gexec: node001 is a node, no program: -w gives nodes\n"


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_words_are_told_in_one_sentence_and_nothing_runs(
    shell: Shell, words: list[str], sentence: str | None
) -> None:
    witness = shell.folder / "witness"
    done = shell.gexec(*words, "touch", witness, cwd=shell.folder)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (2, b""), said
    assert said.startswith("gexec: ")
    assert said.count("\n") == 1
    assert (sentence or "option --batch: expected a number of nodes or a percentage, not 'touch'") in said
    assert {path.name for path in shell.folder.iterdir()} == {"cache", "hosts"}


@pytest.mark.parametrize("command", [GEXEC, ENEXEC, ENSH], ids=lambda command: command.name)
def test_help_and_version_of_every_command(shell: Shell, command: Command) -> None:
    for word in ("-h", "--help"):
        done = shell.run(command.name, word)
        assert (done.returncode, done.stdout.decode(), done.stderr) == (0, help_page(command.name), b"")
    everything = shell.run(command.name, "--help-all").stdout.decode()
    for option in command.options:
        assert f"--{option.long}" in everything
        for letter in option.short:
            assert f"-{letter}, " in everything
    assert shell.run(command.name, "-V").stdout.decode() == f"{command.name} {VERSION}\n"


# -- what failed, and once more -----------------------------------------------------------------


def test_who_failed_is_written_and_can_be_run_again(shell: Shell) -> None:
    path = shell.folder / "failed"
    path.write_text("of an earlier run\n")
    script = '[ "$GEXEC_NODE" != node002 ] || exit 3'
    node2 = f"node002:{shell.env['GEXEC_PORT']}"
    words = ["-w", f"node001,dead:77,{node2},no..such", "sh", "-c", script]
    done = shell.gexec("--failed-to", path, *words)
    assert done.returncode == 255
    listed = path.read_text().splitlines()
    assert [line.split()[0] for line in listed] == ["dead:77", node2, "no..such"]
    assert [line.partition("  # ")[2].partition(":")[0] for line in listed] == [
        "not started", "exited 3", "not started",
    ]  # fmt: skip
    assert "connection refused" in listed[0]
    again = shell.gexec("--rerun", path, "--failed-to", path, "-p", "host", "echo", "x")
    assert (again.returncode, again.stdout) == (255, b"node002 x\n")
    assert [line.split()[0] for line in path.read_text().splitlines()] == ["dead:77", "no..such"]
    shell.gexec("--failed-to", path, "-n", "1", "true")
    assert path.read_text() == ""
    last = shell.gexec("--rerun", path, "touch", shell.folder / "witness")
    assert (last.returncode, last.stdout) == (0, b"")
    assert last.stderr.decode() == f"gexec: {path} names no node: there is nothing to run again\n"
    assert not (shell.folder / "witness").exists()
    path.write_text("# nobody\n\n")
    assert shell.gexec("--rerun", path, "true").returncode == 0


def test_a_list_of_what_failed_may_come_out_of_a_pipe(shell: Shell) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"node004\n")
    os.close(writing)
    done = shell.gexec("--rerun", f"/dev/fd/{reading}", "-p", "host", "echo", "x", pass_fds=[reading])
    os.close(reading)
    assert (done.returncode, done.stdout) == (0, b"node004 x\n")


@pytest.mark.parametrize("command", ["gexec", "enexec", "ensync"])
@pytest.mark.parametrize(
    ("place", "why"), [("no/such/list", "there is no directory"), (".", "it is a directory")]
)
def test_a_list_that_cannot_be_written_is_refused_before_anything_runs(
    shell: Shell, place: str, why: str, command: str
) -> None:
    ran = shell.folder / "ran"
    words = [shell.folder] if command == "ensync" else ["touch", ran]
    done = shell.run(command, "--failed-to", shell.folder / place, *words)
    assert done.returncode == 2
    assert f"{command}: --failed-to {shell.folder / place}: {why}" in done.stderr.decode()
    assert not ran.exists()


def test_a_list_that_cannot_be_written_after_all_fails_the_run(shell: Shell) -> None:
    path = Path("/dev/full")
    done = shell.gexec("--failed-to", path, "-n", "1", "false")
    assert done.returncode == 255
    said = done.stderr.decode().splitlines()
    assert said[0] == "gexec: node001: exited 1"
    assert said[1].startswith(f"gexec: --failed-to {path}: ")
    assert said[1].endswith(": the list of what failed is not written")
    assert {path.name for path in shell.folder.iterdir()} == {"cache", "hosts"}


def test_what_is_no_file_is_written_to_and_not_replaced(shell: Shell) -> None:
    link, target = shell.folder / "link", shell.folder / "target"
    link.symlink_to(target)
    shell.gexec("--failed-to", link, "-n", "1", "false")
    assert link.is_symlink()
    assert target.read_text() == "node001  # exited 1\n"
    before = os.stat("/dev/stdout")
    done = shell.gexec("--failed-to", "/dev/stdout", "-n", "1", "false")
    assert done.stdout == b"node001  # exited 1\n"
    assert os.path.islink("/dev/stdout") or os.stat("/dev/stdout") == before


def test_a_run_whose_reader_went_away_also_lists_what_failed(shell: Shell) -> None:
    path = shell.folder / "failed"
    client = shell.start("gexec", "-n", "2", "--failed-to", path, "yes")
    assert client.stdout is not None
    client.stdout.readline()
    client.stdout.close()
    assert client.wait(60) == 141
    assert [line.split()[0] for line in path.read_text().splitlines()] == names(1, 2)
    assert client.stderr is not None
    client.stderr.close()


def test_nodes_that_were_not_reached_are_left_out_the_next_time(shell: Shell) -> None:
    words = ("-w", "node001,dead", "-p", "host", "echo", "x")
    assert shell.gexec("--skip-down", *words).returncode == 255  # nobody knows it yet
    assert "dead" in (shell.folder / "cache" / "gexec" / "down").read_text()
    done = shell.gexec("-v", "--skip-down", *words)
    assert (done.returncode, done.stdout) == (0, b"node001 x\n")
    assert b"1 nodes from -w without 1 that is down: " in done.stderr
    assert shell.gexec(*words).returncode == 255  # it was not asked for
    done = shell.gexec("--skip-down", "-w", "dead", "true")
    assert done.returncode == 2
    assert done.stderr == b"gexec: no node is left: --skip-down leaves out all 1, which are down\n"


def test_nodes_that_a_strict_job_did_not_start_are_not_down(shell: Shell) -> None:
    assert shell.gexec("--strict", "-w", "node001,dead", "true").returncode == 255
    assert "node001" not in (shell.folder / "cache" / "gexec" / "down").read_text()


# -- dry runs -----------------------------------------------------------------------------------


def test_a_dry_run_runs_nothing_and_is_a_node_list(shell: Shell) -> None:
    witness = shell.folder / "witness"
    port = shell.env["GEXEC_PORT"]
    words = ["-w", f"node005,node[002-003],node001:{port},dead", "-x", "node003"]
    done = shell.gexec("--dry-run", *words, "sh", "-c", f"touch {witness}; echo 'two words'")
    assert (done.returncode, done.stderr) == (0, b"")
    assert not witness.exists()
    lines = done.stdout.decode().splitlines()
    assert lines[0] == f"# sh -c 'touch {witness}; echo '\\''two words'\\'''"
    assert lines[1] == "# 4 nodes from -w without -x:"
    assert [line.split("  # ")[0] for line in lines[2:]] == ["node005", "node002", f"node001:{port}", "dead"]
    assert lines[5] == f"dead  # 127.250.9.1:{port}"
    plan = shell.folder / "plan"
    plan.write_bytes(done.stdout)
    assert chosen(shell, "--nodelist", plan, "-x", "dead") == names(5, 2, 1)


def _ten_thousand(shell: Shell) -> list[str]:
    """Return 10,000 names that have addresses."""
    known = [f"n{number:05d}" for number in range(1, 10_001)]
    hosts = "".join([f"10.1.{number // 250}.{number % 250} {name}\n" for number, name in enumerate(known)])
    (shell.folder / "hosts").write_text(hosts)
    return known


def test_ten_thousand_nodes_by_list_set_and_group(shell: Shell) -> None:
    known = _ten_thousand(shell)
    backwards = known[::-1]
    (shell.folder / "list").write_text("".join(f"{name}\n" for name in backwards))
    (shell.folder / "groups.conf").write_text(
        "[Main]\ndefault: site\n[site]\nmap: echo 'n[00001-10000]'\nall: echo 'n[00001-10000]'\n"
    )
    sources = {
        ("--nodelist", str(shell.folder / "list")): backwards,
        ("-w", "n[00001-10000]"): known,
        ("-w", "@everyone"): known,
        ("-w", "n[00001-10000]", "-x", "n[00002-09999]"): [known[0], known[-1]],
        ("--rerun", str(shell.folder / "list"), "-n", "3"): backwards[:3],
    }
    for words, expected in sources.items():
        done = shell.gexec("--dry-run", *words, "true", env={"CLUSTERSHELL_CFGDIR": str(shell.folder)})
        assert done.returncode == 0, done.stderr
        lines = done.stdout.decode().splitlines()
        assert [line.split()[0] for line in lines[2:]] == expected
        addresses = dict(zip(known, (line.split()[0] for line in _hosts_lines(shell)), strict=True))
        port = shell.env["GEXEC_PORT"]
        assert [line.split()[2] for line in lines[2:]] == [f"{addresses[name]}:{port}" for name in expected]


def _hosts_lines(shell: Shell) -> list[str]:
    return (shell.folder / "hosts").read_text().splitlines()


def test_a_reader_of_a_dry_run_may_go_away(shell: Shell) -> None:
    _ten_thousand(shell)
    client = shell.start("gexec", "--dry-run", "-w", "n[00001-10000]", "true", bufsize=0)
    assert client.stdout is not None
    assert client.stdout.read(7) == b"# true\n"
    client.stdout.close()
    _, err = client.communicate(timeout=60)
    assert (client.returncode, err) == (141, b"")


def test_too_many_nodes_are_one_sentence(shell: Shell) -> None:
    done = shell.gexec("--dry-run", "-w", "n[1-70000]", "true")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
