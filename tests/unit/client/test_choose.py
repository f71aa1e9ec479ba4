"""Choosing nodes: the order of the sources, files, groups' files, exclusion, drawing, and what is said."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from gexec import limits
from gexec.client import groups
from gexec.client.groups import config_paths
from gexec.client.nodes import choose
from gexec.errors import UsageError
from gexec.render.failed import failed_lines
from gexec.render.text import printable
from gexec.select.sources import GMOND, LIST, TEXT, Choice, Selection, plan
from gexec.wire.outcome import denied, exited, lost, not_started


def select(**asked: object) -> Selection:
    selection = Selection()
    for name, value in asked.items():
        setattr(selection, name, value)
    return selection


def names(choice: Choice) -> list[str]:
    return [name for name, _ in choice.nodes]


def fails(selection: Selection, environ: dict[str, str]) -> str:
    with pytest.raises(UsageError) as caught:
        choose(selection, environ)
    lines = [caught.value.sentence, *caught.value.details]
    assert not any("\n" in line for line in lines)
    assert str(caught.value) == "\n  ".join(lines)
    return str(caught.value)


def told(selection: Selection, environ: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the names that are chosen, and what is told of what is skipped."""
    said: list[str] = []
    selection.warn = said.append
    return names(choose(selection, environ)), said


ALL = {
    "GEXEC_SVRS": "svrs",
    "SLURM_JOB_NODELIST": "slurm[1-2]",
    "PBS_NODEFILE": "/pbs",
    "GEXEC_GMOND_SVRS": "grid:1 grid:2",
    "GEXEC_NODELIST": "/my/list",
}


def test_the_order_of_gexec() -> None:
    found = [(source.name, source.kind, source.value) for source in plan(False, ALL)]
    assert found == [
        ("GEXEC_SVRS", TEXT, "svrs"),
        ("SLURM_JOB_NODELIST", TEXT, "slurm[1-2]"),
        ("PBS_NODEFILE /pbs", LIST, "/pbs"),
        ("GEXEC_GMOND_SVRS", GMOND, "grid:1 grid:2"),
        ("node list /my/list (GEXEC_NODELIST)", LIST, "/my/list"),
        ("gmond", GMOND, "127.0.0.1:8649"),
    ]


def test_the_order_of_administrators_begins_with_the_list() -> None:
    gexec = [source.name for source in plan(False, ALL)]
    administrators = [source.name for source in plan(True, ALL)]
    assert administrators == [gexec[4], *gexec[:4], gexec[5]]


def test_without_anything_set() -> None:
    found = [(source.name, source.value, source.optional) for source in plan(False, {})]
    assert found == [
        ("GEXEC_SVRS", None, False),
        ("GEXEC_GMOND_SVRS", None, False),
        ("node list /etc/gexec/nodelist", "/etc/gexec/nodelist", True),
        ("gmond", "127.0.0.1:8649", True),
    ]


def test_each_source_gives_way_to_the_one_before_it(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("listed\n")
    (tmp_path / "pbs").write_text("p1\np1\np2\n")
    environ = {
        "GEXEC_SVRS": "s1 s2 s1",
        "SLURM_JOB_NODELIST": "slurm[01-02],login",
        "PBS_NODEFILE": str(tmp_path / "pbs"),
        "GEXEC_NODELIST": str(tmp_path / "list"),
    }
    assert names(choose(select(administrator=True), environ)) == ["listed"]
    assert names(choose(select(nodes=["w"], administrator=True), environ)) == ["w"]
    for source, expected in (
        ("GEXEC_SVRS", ["s1", "s2", "s1"]),
        ("SLURM_JOB_NODELIST", ["slurm01", "slurm02", "login"]),
        ("PBS_NODEFILE", ["p1", "p1", "p2"]),
        ("GEXEC_NODELIST", ["listed"]),
    ):
        choice = choose(select(), environ)
        assert names(choice) == expected
        assert source in choice.source
        del environ[source]


def test_flags_are_taken_together(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# mine\n\n  b:77 # two\na c,d\na\n")
    (tmp_path / "hosts").write_text("h1\nh2:22 # ssh\n\n# none\n[::1]:5\n")
    asked = select(nodes=["w2,w1", "w1"], nodelist=str(tmp_path / "list"), hosts_file=str(tmp_path / "hosts"))
    choice = choose(asked, {"GEXEC_SVRS": "other"})
    assert choice.nodes == [
        ("w2", 0), ("w1", 0), ("w1", 0), ("b", 77), ("a", 0), ("c", 0), ("d", 0), ("a", 0),
        ("h1", 0), ("h2", 22), ("::1", 5),
    ]  # fmt: skip
    assert choice.source == f"-w and node list {tmp_path / 'list'} and hosts file {tmp_path / 'hosts'}"


def test_with_a_node_set_each_node_comes_once(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("n2\nn[1-3]\nn2\n")
    assert names(choose(select(nodes=["n1", "n[1-2]", "n1"]), {})) == ["n1", "n2"]
    assert names(choose(select(nodelist=str(tmp_path / "list")), {})) == ["n2", "n1", "n3"]
    assert names(choose(select(), {"GEXEC_SVRS": "b node[1-2] b"})) == ["b", "node1", "node2"]


def test_names_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"s1 # first\ns2\n")
    os.close(writing)
    saved = os.dup(0)
    os.dup2(reading, 0)
    try:
        choice = choose(select(nodes=["a", "-", "b"]), {})
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(reading)
    assert names(choice) == ["a", "s1", "s2", "b"]
    assert choice.took_stdin
    assert not choose(select(nodes=["a"]), {}).took_stdin
    assert "given twice" in fails(select(nodes=["-", "-"]), {})
    assert "-x" in fails(select(nodes=["a"], exclude=["-"]), {})


def test_exclusion_comes_before_counting() -> None:
    choice = choose(select(exclude=["a", "c:2"], count=2), {"GEXEC_SVRS": "a b a c:1 c:2"})
    assert choice.nodes == [("b", 0), ("c", 1)]
    assert choice.source == "GEXEC_SVRS without -x"
    assert "no node is left" in fails(select(exclude=["a"]), {"GEXEC_SVRS": "a"})


def test_exclusion_by_node_set_is_about_the_chosen() -> None:
    environ = {"GEXEC_SVRS": "node01 node02 gpu1 gpu2:5 gpu2"}
    assert names(choose(select(exclude=["gpu?"]), environ)) == ["node01", "node02"]
    assert names(choose(select(exclude=["*[1-2]!gpu*"]), environ)) == ["gpu1", "gpu2", "gpu2"]
    assert choose(select(exclude=["gpu[2-2]:5"]), environ).nodes[2:] == [("gpu1", 0), ("gpu2", 0)]
    assert names(choose(select(exclude=["GPU*"]), environ)) == ["node01", "node02"]


def test_wildcards_without_groups_are_about_the_configured_nodes(tmp_path: Path) -> None:
    environ = {"GEXEC_SVRS": "node01 node02 gpu1", "HOME": str(tmp_path)}
    assert names(choose(select(nodes=["x,node*"]), environ)) == ["x", "node01", "node02"]
    assert "GEXEC_SVRS is not set" in fails(select(nodes=["node*"]), {})


def test_first_and_by_lot() -> None:
    environ = {"GEXEC_SVRS": "a b c d e f"}
    assert names(choose(select(count=2), environ)) == ["a", "b"]
    drawn = {tuple(names(choose(select(pick=3), environ))) for _ in range(200)}
    assert len(drawn) > 5  # of 20; that so few come is less likely than a broken machine
    assert all(list(nodes) == sorted(nodes) and len(set(nodes)) == 3 for nodes in drawn)
    assert fails(select(count=7), environ) == (
        "Not enough hosts available: 7 asked, 6 known (from GEXEC_SVRS)"
    )
    assert "7 asked" in fails(select(pick=7), environ)
    assert "--nprocs and --pick" in fails(select(pick=1, count=1), environ)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("node003", "-x 'node003' excludes nothing: not among the nodes from GEXEC_SVRS"),
        ("node001,node003", "-x 'node003' excludes nothing: not among the nodes from GEXEC_SVRS"),
        ("node00[1-3]", "-x 'node003' excludes nothing: not among the nodes from GEXEC_SVRS"),
        (
            "node00[12]",
            "-x 'node00[12]' excludes nothing: not among the nodes from GEXEC_SVRS; "
            "[12] is the number 12, write [1,2]",
        ),
        ("gpu*", "-x 'gpu*' excludes nothing: not among the nodes from GEXEC_SVRS"),
        ("gpu*!gpu1", "-x 'gpu*!gpu1' excludes nothing: not among the nodes from GEXEC_SVRS"),
        ("node001:99", "-x 'node001:99' excludes nothing: not among the nodes from GEXEC_SVRS"),
        ("", "-x '' excludes nothing: not among the nodes from GEXEC_SVRS"),
    ],
)
def test_a_name_to_exclude_that_matches_nothing(word: str, sentence: str) -> None:
    environ = {"GEXEC_SVRS": "node001:5 node002 node009"}
    left, said = told(select(exclude=[word]), environ)
    assert said == [sentence]
    assert "node009" in left
    assert said[0] in fails(select(exclude=[word], strict=True), environ)


def test_this_host_need_not_be_among_the_nodes() -> None:
    here = ("node001.a.org", "node001", "127.0.0.1")
    assert told(select(not_here=here), {"GEXEC_SVRS": "node002 Node001 node001.b.org"}) == (
        ["node002", "node001.b.org"], [],
    )  # fmt: skip
    assert told(select(not_here=here, strict=True), {"GEXEC_SVRS": "node002"}) == (["node002"], [])


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("GEXEC_SVRS", "", "GEXEC_SVRS is set but empty"),
        ("GEXEC_SVRS", " ,", "GEXEC_SVRS names none"),
        ("GEXEC_SVRS", "a[1-2]!a[1-2]", "GEXEC_SVRS names none"),
        ("SLURM_JOB_NODELIST", "", "SLURM_JOB_NODELIST is set but empty"),
        ("PBS_NODEFILE", "", "PBS_NODEFILE is set but empty"),
        ("PBS_NODEFILE", "/dev/null", "PBS_NODEFILE /dev/null names none"),
        ("GEXEC_GMOND_SVRS", "", "GEXEC_GMOND_SVRS is set but empty"),
        ("GEXEC_GMOND_SVRS", "127.0.0.1:1", "GEXEC_GMOND_SVRS names none"),
        ("GEXEC_NODELIST", "", "(GEXEC_NODELIST) is set but empty"),
    ],
)
def test_a_source_that_is_set_is_used_or_an_error(
    tmp_path: Path, name: str, value: str, sentence: str
) -> None:
    (tmp_path / "list").write_text("elsewhere\n")
    for other in ("GEXEC_SVRS", "GEXEC_NODELIST"):
        administrator = other == "GEXEC_SVRS" and name == "GEXEC_NODELIST"
        if name == other or (other == "GEXEC_SVRS" and not administrator):
            continue
        environ = {"GEXEC_SVRS": "elsewhere"} if administrator else {"GEXEC_NODELIST": str(tmp_path / "list")}
        said = fails(select(administrator=administrator), environ | {name: value})
        assert said.startswith(f"no nodes: {'node list ' if sentence[0] == '(' else ''}")
        assert sentence in said


def test_no_node_list_counts_where_it_is_dev_null() -> None:
    environ = {"GEXEC_NODELIST": "/dev/null", "GEXEC_SVRS": "n1"}
    assert choose(select(administrator=True), environ).nodes == [("n1", 0)]
    assert "node list" not in fails(select(), {"GEXEC_NODELIST": "/dev/null"})


def test_no_source_at_all_is_a_line_for_each() -> None:
    lines = fails(select(), {}).splitlines()
    assert lines[:4] == [
        "no nodes: set GEXEC_SVRS to their names, or give them with -w",
        "  GEXEC_SVRS is not set",
        "  GEXEC_GMOND_SVRS is not set",
        "  there is no node list /etc/gexec/nodelist",
    ]
    assert lines[4].startswith("  gmond at 127.0.0.1:8649 ")


def test_a_list_from_windows(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfn1\r\nn2 # x\r\n")
    (tmp_path / "hosts").write_bytes(b"\xef\xbb\xbfh1:22\r\n\r\nh2\r\n")
    asked = select(nodelist=str(tmp_path / "list"), hosts_file=str(tmp_path / "hosts"))
    assert choose(asked, {}).nodes == [("n1", 0), ("n2", 0), ("h1", 22), ("h2", 0)]
    for source in ("GEXEC_SVRS", "SLURM_JOB_NODELIST"):
        assert names(choose(select(), {source: "\ufeffn1\r\nn2\r\n"})) == ["n1", "n2"]
    assert names(choose(select(exclude=["\ufeffn1\r\n"]), {"GEXEC_SVRS": "n1 n2"})) == ["n2"]


def test_a_list_that_is_no_text_is_refused_readably(tmp_path: Path) -> None:
    path = str(tmp_path / "list")
    for content, sentence in (
        ("n1\n".encode("utf-16"), " is UTF-16 text: convert it with `iconv -f UTF-16 -t UTF-8`"),
        (bytes(range(256)), " is binary: expected a text with names"),
        (b"\xff:x\n", " line 1: '\\xff:x': expected a port from 1 to 65535 after the colon"),
    ):
        Path(path).write_bytes(content)
        assert fails(select(nodelist=path), {}) == f"node list {path}{sentence}"
        assert fails(select(hosts_file=path), {}) == f"hosts file {path}{sentence}"
        assert fails(select(), {"PBS_NODEFILE": path}) == f"PBS_NODEFILE {path}{sentence}"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a\nb:x\n", "line 2: 'b:x': expected a port"),
        (b"a\n\n# c\nn[1-\n", "line 4: '[1-': the bracket is not closed"),
        (b"# only\n\n", "names none"),
        (b"a " * (limits.NODE_LIST_MAX_BYTES // 2 + 1), "is it a list of names?"),
    ],
)
def test_a_wrong_line_of_a_list_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "list"
    path.write_bytes(content)
    for asked, environ in (
        (select(nodelist=str(path)), {}),
        (select(administrator=True, exclude=["never"]), {"GEXEC_NODELIST": str(path)}),
    ):
        if sentence != "names none" or asked.nodelist:
            told = fails(asked, environ)
            assert sentence in told
            assert str(path) in told


@pytest.mark.parametrize("line", ["bob@n2", "n2 bob", "n2:22 bob", "n*", "n[2-3]", "n2!n3"])
def test_a_hosts_file_names_no_users_and_no_node_sets(tmp_path: Path, line: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(f"n1\n{line}\n")
    told = fails(select(hosts_file=str(path)), {})
    assert "line 2" in told
    assert "runs as the user who calls it" in told


def test_a_comment_begins_where_a_word_does(tmp_path: Path) -> None:
    # A name with # that was cut there would be another node's.
    (tmp_path / "list").write_text("# all\n\n  a \r\nweb#1\t#y z\n#\nc,d,#e\nn#[1-2]  # f\n#g")
    chosen = choose(select(nodelist=str(tmp_path / "list")), {})
    assert names(chosen) == ["a", "web#1", "c", "d", "n#1", "n#2"]
    (tmp_path / "hosts").write_text("web#1:22 # x\n# web#2\n[::1]:77 #y\n")
    assert choose(select(hosts_file=str(tmp_path / "hosts")), {}).nodes == [("web#1", 22), ("::1", 77)]


def test_what_failed_is_read_back_to_the_letter(tmp_path: Path) -> None:
    given = ["a", "b:99", "web#1", "b:99", "\udcff", "[::1]:77"]
    ends = [exited(0), not_started("no"), exited(7), lost("gone # x"), denied(""), exited(1)]
    (tmp_path / "failed").write_bytes(b"".join(failed_lines([os.fsencode(name) for name in given], ends)))
    chosen = choose(select(nodelist=str(tmp_path / "failed")), {})
    assert chosen.nodes == [("b", 99), ("web#1", 0), ("b", 99), ("\udcff", 0), ("::1", 77)]


def test_a_byte_of_a_name_is_shown_as_a_byte() -> None:
    assert printable("n\udcff1\x1b\ud800") == "n\\xff1\\x1b\\ud800"
    assert "-x '\\xff' excludes" in told(select(exclude=["\udcff"]), {"GEXEC_SVRS": "n"})[1][0]


def test_files_that_were_named_must_be_there(tmp_path: Path) -> None:
    none = str(tmp_path / "none")
    assert "there is no such file" in fails(select(nodelist=none), {})
    assert "there is no such file" in fails(select(), {"GEXEC_NODELIST": none})
    assert "there is no such file" in fails(select(), {"PBS_NODEFILE": none})
    assert "Is a directory" in fails(select(hosts_file=str(tmp_path)), {})
    assert "null" in fails(select(nodelist="a\0b"), {})


def test_no_names_in_flags(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# none\n")
    assert "list names none" in fails(select(nodes=["a"], nodelist=str(tmp_path / "list")), {})
    assert "-w names none" in fails(select(nodes=[","]), {"GEXEC_SVRS": "a"})
    assert "-w names none" in fails(select(nodes=["a[1-2]!a[1-2]"]), {"GEXEC_SVRS": "a"})


def test_too_many_names_in_lines(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("".join(f"n{letter}[1-60000]\n" for letter in "abcdef"))
    assert "more than 262144 names" in fails(select(nodelist=str(tmp_path / "list")), {})


# -- groups in files --------------------------------------------------------------------------

GROUPS = """\
roles:
  all: "@web,@db,spare"
  web: node[01-03]
  db: "@web!node02,x7"
  broken: "node[1-"
  list: [a, b]
  number: 5
  nothing:
"""


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "groups.conf").write_text("[Main]\ndefault: roles\nautodir: $CFGDIR/groups.d\n")
    (tmp_path / "groups.d").mkdir()
    (tmp_path / "groups.d" / "roles.yaml").write_text(GROUPS)
    return {"CLUSTERSHELL_CFGDIR": str(tmp_path), "GEXEC_SVRS": "node01 node09"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@web", "node01 node02 node03"),
        ("@roles:db", "node01 node03 x7"),
        ("@list", "a b"),
        ("@*", "node01 node02 node03 x7 spare"),
        ("node*", "node01 node09"),  # GEXEC_SVRS comes first
        ("x*,spar?", "x7 spare"),
        ("@web!@db", "node02"),
    ],
)
def test_groups_of_clustershells_files(site: dict[str, str], text: str, expected: str) -> None:
    assert names(choose(select(nodes=[text]), site)) == expected.split()


def test_groups_are_left_out(site: dict[str, str]) -> None:
    assert names(choose(select(exclude=["@web"]), site)) == ["node09"]
    assert told(select(exclude=["@nothing"]), site) == (
        ["node01", "node09"], ["-x '@nothing' excludes nothing: not among the nodes from GEXEC_SVRS"],
    )  # fmt: skip
    assert "there is no such group" in fails(select(exclude=["@wbe"]), site)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("@wbe", "group @wbe: there is no such group in roles"),
        ("@roles:wbe", "group @roles:wbe: there is no such group in roles"),
        ("@racks:r1", "there is no group source 'racks'"),
        ("@broken", "group @broken: '[1-': the bracket is not closed"),
        ("@number", "group @number: ClusterShell's configuration:"),
        ("@nothing", "-w names none"),
    ],
)
def test_what_is_wrong_with_a_group_is_said(site: dict[str, str], text: str, sentence: str) -> None:
    assert sentence in fails(select(nodes=[text]), site)


@pytest.mark.parametrize(
    ("conf", "yaml"),
    [("no section\n", GROUPS), ("[Main]\ndefault: none\n", GROUPS), (None, "roles: [1"), (None, "- 1\n")],
)
def test_a_broken_configuration_is_one_sentence(
    site: dict[str, str], tmp_path: Path, conf: str | None, yaml: str
) -> None:
    if conf is not None:
        (tmp_path / "groups.conf").write_text(conf)
    (tmp_path / "groups.d" / "roles.yaml").write_text(yaml)
    said: list[str] = []
    assert "ClusterShell's configuration" in fails(select(nodes=["@web"], warn=said.append), site)
    assert [str(tmp_path / "groups.d" / "roles.yaml") in line for line in said] == [True] * (yaml != GROUPS)


def test_examples_of_the_librarys_package_are_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    # They lie below sys.prefix, where the library itself looks after /etc/clustershell.
    monkeypatch.setattr(groups, "SYSTEM_FOLDER", "/etc/clustershell")
    assert all("/.local/" in path or "/etc/" in path or "/.config/" in path for path in config_paths({}))
    paths = config_paths({"CLUSTERSHELL_CFGDIR": "/mine", "XDG_CONFIG_HOME": "/config"})
    assert paths[0] == "/etc/clustershell/groups.conf"
    assert paths[2:] == ["/config/clustershell/groups.conf", "/mine/groups.conf"]


@pytest.fixture
def default_site(tmp_path: Path) -> dict[str, str]:
    """ClusterShell's configuration as its package installs it."""
    for prefix in (Path(sys.prefix), Path("/")):
        installed = prefix / "etc" / "clustershell"
        if (installed / "groups.conf").exists():
            shutil.copytree(installed, tmp_path / "clustershell")
            return {"CLUSTERSHELL_CFGDIR": str(tmp_path / "clustershell")}
    pytest.fail("the package of ClusterShell has no groups.conf")


def test_clustershells_default_configuration_hides_nothing(default_site: dict[str, str]) -> None:
    environ = default_site | {"GEXEC_SVRS": "node01 node02 gpu1"}
    assert told(select(nodes=["node*"]), environ) == (["node01", "node02"], [])
    assert told(select(nodes=["@oss"]), environ) == (["example4", "example5"], [])
    assert told(select(nodes=["nod*", "exam*4"]), environ)[0][:3] == ["node01", "node02", "example4"]


@pytest.mark.parametrize(
    "asked",
    [{"exclude": ["@typo"]}, {"nodes": ["@typo,node001"]}, {"nodes": ["@typo"]}, {"nodes": ["x!@typo"]}],
)
def test_an_unknown_group_of_a_command_is_an_error(
    default_site: dict[str, str], asked: dict[str, list[str]]
) -> None:
    environ = default_site | {"GEXEC_SVRS": "node001"}
    assert fails(select(**asked), environ) == "group @typo: there is no such group in local"


COMMANDS = """\
[Main]
default: s
[s]
map: case $GROUP in debug) echo node1;; big) echo node[2-3];; esac
list: printf 'debug*\\nbig\\nempty\\na;b\\n'
[nolist]
map: [ $GROUP = a ] && echo n1 || true
"""


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "groups.conf").write_text(COMMANDS)
    return {"CLUSTERSHELL_CFGDIR": str(tmp_path)}


def test_an_illegal_name_from_a_source_does_not_hide_its_groups(commands: dict[str, str]) -> None:
    illegal = "group source s: 'debug*' cannot be a group's name (it holds one of ! & * , @ ^) and is skipped"
    unsafe = (
        "group @s:a;b: such a name is not passed to a command: a shell would not read it as one; "
        "this group is skipped"
    )
    assert told(select(nodes=["@s:*"]), commands) == (["node2", "node3"], [illegal, unsafe])
    assert told(select(nodes=["@s:debug,@big"]), commands) == (["node1", "node2", "node3"], [])
    assert told(select(nodes=["@big,@empty"]), commands) == (["node2", "node3"], [illegal])
    assert fails(select(nodes=["@deb"], warn=len), commands) == "group @deb: there is no such group in s"


def test_an_empty_answer_of_a_source_that_lists_no_groups(commands: dict[str, str]) -> None:
    assert names(choose(select(nodes=["@nolist:a"]), commands)) == ["n1"]
    assert "group @nolist:b: the command of nolist prints no node" in fails(
        select(nodes=["@nolist:b"]), commands
    )


def test_one_bad_group_or_file_does_not_hide_the_others(site: dict[str, str], tmp_path: Path) -> None:
    roles = tmp_path / "groups.d" / "roles.yaml"
    roles.write_text("roles: {web: 'node[1-2]', bad: ': &', number: 5, db: x7}\n")
    assert told(select(nodes=["@*"]), site) == (
        ["node1", "node2", "x7"],
        [
            "group @number: ClusterShell's configuration: 'int' object has no attribute 'splitlines'; "
            "this group is skipped",
            "group @bad: ':': expected a name before the colon; this group is skipped",
        ],
    )
    assert "group @bad: ':'" in fails(select(nodes=["@web,@bad"]), site)
    (tmp_path / "groups.d" / "other.yaml").write_text("other: {web: : &}\n")
    left, said = told(select(nodes=["@web"]), site)
    assert left == ["node1", "node2"]
    assert [f"{tmp_path}/groups.d/other.yaml is skipped, correct it: " in line for line in said] == [True]


def test_tens_of_thousands_of_nodes_from_every_kind_of_source(site: dict[str, str], tmp_path: Path) -> None:
    # With a quadratic step these would take minutes and meet the test's own limit.
    many = [f"r{number}n{number}" for number in range(60_000)]
    (tmp_path / "list").write_text("\n".join(many))
    (tmp_path / "hosts").write_text("".join(f"{name}:22\n" for name in many))
    (tmp_path / "groups.d" / "roles.yaml").write_text(f"roles: {{many: '{','.join(many)}'}}\n")
    for asked, environ in (
        (select(), {"GEXEC_SVRS": " ".join(many)}),
        (select(nodelist=str(tmp_path / "list")), {}),
        (select(hosts_file=str(tmp_path / "hosts")), {}),
        (select(nodes=["@many"], exclude=["none[1-2]"], warn=len), site),
    ):
        assert names(choose(asked, environ)) == many
