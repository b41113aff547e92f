"""Settings: where they are, what is allowed, and that Dask reads them the same way."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import fastjsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ports.errors import SettingError
from ports.state import _schema
from ports.state import settings as config


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for YAML files, read without Dask's own configuration in the way."""
    for variable in [name for name in os.environ if name.startswith("DASK_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "dask"))
    monkeypatch.setenv("DASK_ROOT_CONFIG", str(tmp_path / "root"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delitem(sys.modules, "dask.config")
    (tmp_path / "dask").mkdir()
    return tmp_path / "dask"


def test_every_default_is_valid_and_described() -> None:
    fastjsonschema.validate(config.schema(), config.defaults())
    assert _schema.problem(config.defaults(), config.schema()) is None

    def leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        for key, inner in node["properties"].items():
            yield f"{path}{key}", inner
            if "properties" in inner:
                yield from leaves(inner, f"{path}{key}.")

    for key, leaf in leaves(config.schema()):
        assert leaf["description"].endswith("."), key
        assert "default" in leaf, key


def test_without_files_the_defaults_hold(place: Path) -> None:
    assert config.load() == config.defaults()
    assert config.get("cluster.name") == "main"


def test_later_files_win_and_variables_win_over_files(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "a.yaml").write_text("ports: {cluster: {n-workers: 2, threads-per-worker: 3, name: early}}")
    (place / "b.yaml").write_text("ports: {cluster: {n_workers: 4, name: late}}")
    monkeypatch.setenv("DASK_PORTS__CLUSTER__NAME", "loud")
    found = config.get("cluster")
    assert (found["n_workers"], found["threads_per_worker"], found["name"]) == (4, 3, "loud")


def test_names_of_hosts_and_variables_keep_their_dashes(place: Path) -> None:
    document = {"ports": {"hosts": {"my-server": {"env": "x"}}, "cluster": {"environ": {"A-B": "1"}}}}
    (place / "ports.yaml").write_text(yaml.safe_dump(document))
    assert config.hosts() == ["my-server"] and config.host("my-server") == {"env": "x"}
    assert config.host("other") == {} and config.get("cluster.environ") == {"A-B": "1"}


def test_off_needs_no_quotes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "ports.yaml").write_text("ports: {cluster: {guard: off}}")
    assert config.get("cluster.guard") == "off"
    (place / "ports.yaml").unlink()
    monkeypatch.setenv("DASK_PORTS__CLUSTER__GUARD", "off")
    assert config.get("cluster.guard") == "off"
    with dask.config.set({"ports.cluster.guard": False}):
        monkeypatch.setitem(sys.modules, "dask.config", dask.config)
        assert config.get("cluster.guard") == "off"


def test_hosts_may_be_a_plain_list(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "ports.yaml").write_text("ports: {hosts: [server1, server2]}")
    assert config.hosts() == ["server1", "server2"] and config.host("server1") == {}
    with dask.config.set({"ports.hosts": ("server3", "server4")}):
        monkeypatch.setitem(sys.modules, "dask.config", dask.config)
        assert config.hosts() == ["server3", "server4"]


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        (
            "cluster: {n_wrokers: 4}",
            "ports.cluster.n_wrokers",
            "no such setting; `ports settings` lists all; did you mean n_workers?",
        ),
        (
            "clusters: {}",
            "ports.clusters",
            "no such setting; there are alias, cluster, core_files, hosts, jobs, log_bytes, notebook, open, page, ssh; "
            "did you mean cluster?",
        ),
        ("xyzzy: {}", "ports.xyzzy", "no such setting; there are alias, cluster, core_files, hosts,"),
        (
            "cluster: {n_workers: -1}",
            "ports.cluster.n_workers",
            "it is -1; it must be a whole number of at least 0, 'all', or null",
        ),
        (
            "cluster: {n_workers: many}",
            "ports.cluster.n_workers",
            "it is 'many'; it must be a whole number of at least 0",
        ),
        ("cluster: {name: My Cluster}", "ports.cluster.name", "it is 'My Cluster'; it must be a letter a-z, then"),
        ("cluster: {reuse: maybe}", "ports.cluster.reuse", "it is 'maybe'; it must be one of warn, any, exact"),
        ("cluster: {guard: puase}", "ports.cluster.guard", "one of off, pause, restart; did you mean pause?"),
        ("cluster: {daemon: 1}", "ports.cluster.daemon", "it is 1; it must be True or False"),
        ("cluster: 4", "ports.cluster", "it is 4; it must be a mapping of names to values"),
        (
            "hosts: {server1: {envv: x}}",
            "ports.hosts.server1.envv",
            "no such setting; there are env, nodes, notebook_env, trust; did you mean env?",
        ),
        ("hosts: {server1: 3}", "ports.hosts.server1", "it is 3; it must be a mapping of names to values, or null"),
        ("log_bytes: 10", "ports.log_bytes", "it is 10; it must be a whole number of bytes of at least 1000"),
        ("[1, 2]", "ports", "it is [1, 2]; it must be a mapping of names to values"),
    ],
)
def test_an_invalid_setting_names_file_key_value_and_what_is_allowed(
    place: Path, text: str, key: str, reason: str
) -> None:
    (place / "ports.yaml").write_text(f"ports:\n  {text}\n")
    with pytest.raises(SettingError) as caught:
        config.load()
    told = str(caught.value)
    assert told.startswith(f"setting {key} in {place / 'ports.yaml'}: ") and reason in told
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("port: {alias: box}", "port", "did you mean 'ports'?"),
        ("Ports:\n  alias: box", "Ports", "did you mean 'ports'?"),
        ("cluster: {n_workers: 4}", "cluster", "settings belong below the key 'ports'"),
    ],
)
def test_a_misspelt_key_in_a_file_of_our_name_is_an_error(place: Path, text: str, key: str, reason: str) -> None:
    (place / "other.yaml").write_text(text)
    assert config.load() == config.defaults()
    (place / "ports.yaml").write_text(text)
    with pytest.raises(SettingError) as caught:
        config.load()
    told = str(caught.value)
    assert told.startswith(f"setting {key} in {place / 'ports.yaml'}: ") and reason in told
    with_dask = [sys.executable, "-c", "import dask.config; from ports.state import settings; settings.load()"]
    environ = {**os.environ, "DASK_CONFIG": str(place)}
    done = subprocess.run(with_dask, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, reason in done.stderr) == (1, True), done.stderr


def test_a_wrong_variable_is_named_itself(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_PORTS__CLUSTER__N_WORKERS", "many")
    with pytest.raises(
        SettingError, match=r"ports\.cluster\.n_workers in \$DASK_PORTS__CLUSTER__N_WORKERS: it is 'many'"
    ):
        config.load()
    monkeypatch.delenv("DASK_PORTS__CLUSTER__N_WORKERS")
    monkeypatch.setenv("DASK_PORTS__CLUSTER", "4")
    with pytest.raises(SettingError, match=r"ports\.cluster in \$DASK_PORTS__CLUSTER: it is 4; it must be a mapping"):
        config.load()


def test_what_is_no_yaml_is_named(place: Path) -> None:
    (place / "ports.yaml").write_text("ports: {cluster: [")
    with pytest.raises(SettingError, match="the file is not YAML") as caught:
        config.load()
    assert str(place / "ports.yaml") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["distributed: {scheduler: 1}", "", "- a list", "just text with ports in it", "ports:"]
)
def test_what_is_not_ours_is_left_alone(place: Path, text: str) -> None:
    (place / "other.yaml").write_text(text)
    assert config.load() == config.defaults()


@pytest.mark.parametrize("header", ["ports:", '"ports":', "'ports' :", "{ports:", "  ports:"])
def test_the_key_may_be_written_as_yaml_takes_it(place: Path, header: str) -> None:
    text = f"{header} {{cluster: {{n_workers: 3}}}}" + ("}" if header.startswith("{") else "")
    (place / "other.yaml").write_text(f"# a comment\n{text}\n")
    assert config.get("cluster.n_workers") == 3


def test_yaml_is_read_only_where_a_file_has_the_key(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To import it takes as long as to start Python, and every installation has a file that names `ports`."""
    (place / "client.yaml").write_text("# ports: a comment\ndistributed: {client: {loader: ports.load}}\nsupports: 1\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert config.load() == config.defaults()
    (place / "own.yaml").write_text("ports: {}")
    with pytest.raises(ImportError):
        config.load()


def test_a_file_that_may_not_be_read_is_left_alone(place: Path) -> None:
    (place / "other.yaml").mkdir()
    (place / "binary.yaml").write_bytes(b"\xff\xfe ports \x00")
    try:
        assert config.load() == config.defaults()
    except SettingError as error:  # one line that names it will do as well
        assert "binary.yaml" in str(error)


def test_a_notebook_sets_them_through_dask() -> None:
    with dask.config.set({"ports.cluster.n-workers": 3, "ports.cluster.reuse": "exact"}):
        assert (config.get("cluster.n_workers"), config.get("cluster.reuse")) == (3, "exact")
    with (
        dask.config.set({"ports.cluster.n_workers": "many"}),
        pytest.raises(SettingError, match=r"in dask\.config: it is 'many'"),
    ):
        config.load()


def test_dasks_temporary_directory_is_found_without_dask(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.dask_value("temporary-directory") is None
    (place / "dask.yaml").write_text("temporary_directory: /scratch/mine")
    assert config.dask_value("temporary-directory") == "/scratch/mine"
    monkeypatch.setenv("DASK_TEMPORARY_DIRECTORY", "/scratch/other")
    assert config.dask_value("temporary-directory") == "/scratch/other"


ODD = st.sampled_from(
    [None, True, False, 0, 1, -1, 5, 0.5, 2.5, 70000, 10**7, math.inf, "all", "main", "Main", "warn", "tls", "", "A=B"]
)
LISTS = st.lists(ODD, max_size=2)
VALUES = ODD | LISTS | LISTS.map(tuple) | st.dictionaries(st.sampled_from(["A", "main", "A=B"]), ODD, max_size=2)


@settings(max_examples=300)
@given(data=st.data(), value=VALUES)
def test_values_are_checked_as_json_schema_says(data: st.DataObject, value: Any) -> None:
    """The checks are ours, for their words; a validator of JSON Schema allows and refuses the same."""
    section = data.draw(st.sampled_from(["cluster", "notebook", "open", "ssh"]))
    name = data.draw(st.sampled_from(sorted(config.section(section))))
    document = {section: {name: value}}
    try:
        fastjsonschema.validate(config.schema(), document)
        is_valid = True
    except fastjsonschema.JsonSchemaValueException:
        is_valid = False
    found = _schema.problem(document, config.schema())
    assert (found is None) == is_valid
    if found is not None:
        assert (found[0][:2] == (section, name) and "; it must be " in found[1]) or "each name must be" in found[1]


# --- equal to dask.config ---

OPTIONS = {
    "n_workers": st.none() | st.integers(0, 99),
    "threads_per_worker": st.integers(1, 99),
    "memory_limit": st.sampled_from(["4GB", 1000, 0.5, None]),
    "daemon": st.booleans(),
    "env": st.none() | st.sampled_from(["py311", "~/venv"]),
    "name": st.sampled_from(["main", "big"]),
    "reuse": st.sampled_from(["warn", "any", "exact"]),
    "environ": st.dictionaries(st.sampled_from(["A", "B_C", "D-E"]), st.text("abc", max_size=3), max_size=2),
}
FILE = st.fixed_dictionaries(
    {},
    optional={
        "cluster": st.fixed_dictionaries({}, optional=OPTIONS),
        "hosts": st.dictionaries(st.sampled_from(["server-1", "server2"]), st.none(), max_size=2),
        "alias": st.none() | st.sampled_from(["box", "big-box"]),
        "log_bytes": st.integers(1000, 10**9),
    },
)
VARIABLES = st.fixed_dictionaries(
    {},
    optional={
        "DASK_PORTS__CLUSTER__N_WORKERS": st.sampled_from(["3", "None"]),
        "DASK_PORTS__CLUSTER__DAEMON": st.sampled_from(["True", "False", "true", "false"]),
        "DASK_PORTS__CLUSTER__ENV": st.sampled_from(["None", "none", "null", "py312"]),
        "DASK_PORTS__CLUSTER__MEMORY_LIMIT": st.sampled_from(["2GB", "2000", "0.25", "'auto'"]),
        "DASK_PORTS__ALIAS": st.sampled_from(["'quoted'", "plain"]),
        "DASK_PORTS__CLUSTER__ENVIRON": st.sampled_from(["{'X': '1'}"]),
    },
)
READ = """
import json, sys
from ports.state import settings as config
for line in sys.stdin:
    case = json.loads(line)
    import os, pathlib
    for name in [name for name in os.environ if name.startswith("DASK_PORTS")]:
        del os.environ[name]
    os.environ.update(case["variables"])
    for name, text in case["files"].items():
        pathlib.Path(os.environ["DASK_CONFIG"], name).write_text(text)
    if WITH_DASK:
        import dask.config
        dask.config.refresh()
    print(json.dumps(config.load(), sort_keys=True), flush=True)
"""


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[subprocess.Popen[str]]]:
    """Two interpreters that read the same cases: one with Dask imported, one without."""
    top = tmp_path_factory.mktemp("config")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DASK")}
    environ |= {"DASK_ROOT_CONFIG": str(top / "root"), "HOME": str(top)}
    started = []
    for name in ("True", "False"):
        (top / name).mkdir()
        command = [sys.executable, "-c", READ.replace("WITH_DASK", name)]
        own = {**environ, "DASK_CONFIG": str(top / name)}
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=own))
    yield started
    for one in started:
        one.communicate()


@settings(max_examples=50, deadline=None)
@given(first=FILE, second=FILE, variables=VARIABLES, dashes=st.booleans())
def test_dask_reads_the_same(
    readers: list[subprocess.Popen[str]], first: Any, second: Any, variables: dict[str, str], dashes: bool
) -> None:
    if dashes and "cluster" in second:
        cluster = {key.replace("_", "-"): value for key, value in second["cluster"].items()}
        second = {**second, "cluster": cluster}
    files = {"a.yaml": yaml.safe_dump({"ports": first}), "b.yaml": yaml.safe_dump({"ports": second})}
    answers = []
    for reader in readers:
        assert reader.stdin is not None and reader.stdout is not None
        reader.stdin.write(json.dumps({"files": files, "variables": variables}) + "\n")
        reader.stdin.flush()
        answers.append(json.loads(reader.stdout.readline()))
    assert answers[0] == answers[1]
