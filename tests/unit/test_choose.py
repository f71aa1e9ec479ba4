"""Choosing nodes: the order of the sources, files, groups' files, exclusion, drawing, and what is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gexec import limits
from gexec.client.groups import config_paths
from gexec.client.nodes import choose
from gexec.core.outcome import denied, exited, lost, not_started
from gexec.errors import UsageError
from gexec.render.failed import failed_lines
from gexec.select.sources import GMOND, LIST, TEXT, Choice, Selection, plan


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
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
        ("PBS_NODEFILE", LIST, "/pbs"),
        ("GEXEC_GMOND_SVRS", GMOND, "grid:1 grid:2"),
        ("node list /my/list (GEXEC_NODELIST)", LIST, "/my/list"),
        ("gmond", GMOND, "127.0.0.1:8649"),
    ]


def test_the_order_of_administrators_begins_with_the_list() -> None:
    gexec = [source.name for source in plan(False, ALL)]
    administrators = [source.name for source in plan(True, ALL)]
    assert administrators == [gexec[4], *gexec[:4], gexec[5]]


def test_without_anything_set() -> None:
    found = [(source.name, source.value, source.optional) for source in plan(False, {"GEXEC_NODELIST": ""})]
    assert found == [
        ("GEXEC_SVRS", None, False),
        ("GEXEC_GMOND_SVRS", None, False),
        ("node list /etc/gexec/nodelist", "/etc/gexec/nodelist", True),
        ("gmond", "127.0.0.1:8649", False),
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
        environ[source] = " " if source == "GEXEC_SVRS" else ""


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
    assert "stands twice" in fails(select(nodes=["-", "-"]), {})
    assert "-x" in fails(select(nodes=["a"], exclude=["-"]), {})


def test_exclusion_comes_before_counting() -> None:
    choice = choose(select(exclude=["a", "c:2,x"], count=2), {"GEXEC_SVRS": "a b a c:1 c:2"})
    assert choice.nodes == [("b", 0), ("c", 1)]
    assert choice.source == "GEXEC_SVRS without -x"
    assert "no node is left" in fails(select(exclude=["a"]), {"GEXEC_SVRS": "a"})


def test_exclusion_by_node_set_is_about_the_chosen() -> None:
    environ = {"GEXEC_SVRS": "node01 node02 gpu1 gpu2:5 gpu2"}
    assert names(choose(select(exclude=["gpu?"]), environ)) == ["node01", "node02"]
    assert names(choose(select(exclude=["*[1-2]!gpu*"]), environ)) == ["gpu1", "gpu2", "gpu2"]
    assert choose(select(exclude=["gpu[1-2]:5"]), environ).nodes[2:] == [("gpu1", 0), ("gpu2", 0)]


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
    assert "-n and --pick" in fails(select(pick=1, count=1), environ)


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


def test_files_that_were_named_must_be_there(tmp_path: Path) -> None:
    none = str(tmp_path / "none")
    assert "there is no such file" in fails(select(nodelist=none), {})
    assert "there is no such file" in fails(select(), {"GEXEC_NODELIST": none})
    assert "there is no such file" in fails(select(), {"PBS_NODEFILE": none})
    assert "Is a directory" in fails(select(hosts_file=str(tmp_path)), {})
    assert "null" in fails(select(nodelist="a\0b"), {})


def test_no_names_in_flags() -> None:
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
        ("node*", "node01 node02 node03"),  # with groups, wildcards are about all nodes of theirs
        ("@web!@db", "node02"),
    ],
)
def test_groups_of_clustershells_files(site: dict[str, str], text: str, expected: str) -> None:
    assert names(choose(select(nodes=[text]), site)) == expected.split()


def test_groups_are_left_out(site: dict[str, str]) -> None:
    assert names(choose(select(exclude=["@web"]), site)) == ["node09"]
    assert names(choose(select(exclude=["@nothing"]), site)) == ["node01", "node09"]
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
    assert "ClusterShell's configuration" in fails(select(nodes=["@web"]), site)


def test_examples_of_the_librarys_package_are_no_configuration() -> None:
    # They lie below sys.prefix, where the library itself looks after /etc/clustershell.
    assert all("/.local/" in path or "/etc/" in path or "/.config/" in path for path in config_paths({}))
    paths = config_paths({"CLUSTERSHELL_CFGDIR": "/mine", "XDG_CONFIG_HOME": "/config"})
    assert paths[0] == "/etc/clustershell/groups.conf"
    assert paths[2:] == ["/config/clustershell/groups.conf", "/mine/groups.conf"]


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
        (select(nodes=["@many"], exclude=["none[1-2]"]), site),
    ):
        assert names(choose(asked, environ)) == many
