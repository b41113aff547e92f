"""Options of clusters: one schema for all that shows or checks them, how they merge, and how two clusters differ."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ports.cli import cluster as cli
from ports.clusters import _dask, _documents, _find, _options
from ports.clusters._options import ClusterRecord
from ports.clusters.owner.ports_owner.record import Record as OwnerRecord
from ports.errors import UsageError
from ports.machine import fair_share
from ports.state import _schema
from ports.state import settings as config
from ports.state.records import ProcessId

SETTINGS = config.defaults()["cluster"]
RUNNING = ClusterRecord(
    kind="cluster",
    name="main",
    created_at=0.0,
    interpreter="/venv/bin/python",
    directory="/home/alice",
    started_by=ProcessId(machine="m", boot_id="b", pid_namespace="n", pid=1, start_ticks=1),
    n_workers=4,
    threads_per_worker=1,
    environ={"OMP_NUM_THREADS": "1"},
    for_owner={"daemon": False, "nice": 5},
    options={"resources": {"GPU": 1}},
)
SAME = {"interpreter": RUNNING.interpreter, "directory": RUNNING.directory}


def test_what_is_asked_for_wins_over_the_settings() -> None:
    merged = _options.merge({**SETTINGS, "n_workers": 2, "daemon": True}, {"n_workers": 8, "threads_per_worker": None})
    assert (merged["n_workers"], merged["daemon"], merged["threads_per_worker"]) == (8, True, None)


def test_keywords_of_dask_are_passed_on_beside_those_of_the_settings() -> None:
    merged = _options.merge({**SETTINGS, "options": {"a": 1, "b": 2}}, {"b": 3, "resources": {"GPU": 1}})
    assert merged["options"] == {"a": 1, "b": 3, "resources": {"GPU": 1}}


@pytest.mark.parametrize("text", ["much", "-5", "-1GB", "9e30GB", "1e999"])
def test_a_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(
        UsageError, match=f"memory_limit '{text}' is not a size; write bytes, 4GB, 2GiB, a fraction.*or 0 for no"
    ):
        _dask.parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "fits"), [("3GBB", False), ("much", False), ("2 GiB", True), (".5gb", True), ("1e9", True), ("auto", True)]
)
def test_a_setting_that_is_no_size_is_a_mistake_of_its_file(text: str, fits: bool) -> None:
    assert (config.mismatch(text, config.section("cluster")["memory_limit"]) is None) == fits


@pytest.mark.parametrize("port", [{"dashboard": "tcp"}, {"interface": "eth0"}])
def test_what_opens_a_port_is_with_tls(port: dict[str, str]) -> None:
    assert _options.merge(SETTINGS, port, have_sockets=True)["security"] == "tls"
    assert _options.merge(SETTINGS, {}, have_sockets=True)["security"] == "sockets"
    with pytest.raises(UsageError, match="opens a port, which security='sockets' rules out; pass security='tls'"):
        _options.merge(SETTINGS, {**port, "security": "sockets"}, have_sockets=True)


def test_an_option_of_ports_is_none_of_dasks() -> None:
    with pytest.raises(
        UsageError, match="interface='eth0' is an option of ports, not of Dask; pass it to ports itself"
    ):
        _options.merge(SETTINGS, {"scheduler_kwargs": {"interface": "eth0"}})


@pytest.mark.parametrize("name", sorted(_options.OURS))
@pytest.mark.parametrize("place", ["asked", "settings", "scheduler"])
def test_no_keyword_takes_the_privacy_away(name: str, place: str) -> None:
    asked: dict[str, Any] = {"asked": {name: "x"}, "scheduler": {"scheduler_kwargs": {name: "x"}}}.get(place, {})
    with pytest.raises(UsageError, match=f"option {name}='x' cannot be given: ") as caught:
        _options.merge({**SETTINGS, "options": {name: "x"} if place == "settings" else {}}, asked)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n_workers": -1}, "n_workers is -1; it must be a whole number of at least 0, or 'all'"),
        ({"n_workers": 2.5}, "n_workers is 2.5; it must be a whole number of at least 0, or 'all'"),
        ({"n_workers": True}, "n_workers is True; it must be a whole number of at least 0, or 'all'"),
        ({"n_workers": "4"}, "n_workers is '4'; it must be a whole number of at least 0, or 'all'"),
        ({"threads_per_worker": 0}, "threads_per_worker is 0; it must be a whole number of at least 1"),
        ({"daemon": "no"}, "daemon is 'no'; it must be True or False"),
        ({"processes": 1}, "processes is 1; it must be True or False"),
        ({"worker_start": "fork"}, "worker_start is 'fork'; it must be one of auto, spawn, forkserver"),
        (
            {"security": False},
            "security is False; it must be one of auto, sockets, tls: a cluster of ports makes its",
        ),
        ({"dashboard": "http"}, "dashboard is 'http'; it must be one of socket, tcp"),
        ({"environ": "A=1"}, "environ is 'A=1'; it must be a mapping of names to values"),
        ({"environ": {"A=B": "1"}}, "environ has 'A=B'; each name must be the name of a variable, without ="),
        ({"environ": {"": "1"}}, "environ has ''; each name must be the name of a variable"),
        ({"environ": {1: "1"}}, "environ has 1; each name must be the name of a variable"),
        (
            {"nice": 42},
            "nice is 42; it must be a whole number from 0 (like other programs) to 19 (only",
        ),
        ({"nice": 1.0}, "nice is 1.0; it must be a whole number from 0"),
        ({"guard": "kill"}, "guard is 'kill'; it must be one of off, pause, restart"),
        ({"guard_mark": 2}, "guard_mark is 2; it must be a fraction of the memory from 0.001 to 0.9"),
        ({"guard_pressure": 0}, "guard_pressure is 0; it must be a percentage from 0.1 to 100"),
        ({"idle": -1}, "idle is -1; it must be a number of hours from 0 (never) to 1000000"),
        ({"expire": float("nan")}, "expire is nan; it must be a number of days from 0 (never) to 1000000"),
        ({"calm_after": True}, "calm_after is True; it must be a number of seconds from 0.1 to 3600, or false (never)"),
        ({"calm_after": 0}, "calm_after is 0; it must be a number of seconds from 0.1"),
        ({"gpus": -1}, "gpus is -1; it must be a whole number of at least 0"),
        ({"gpus": 1, "processes": False}, "gpus is 1, but with processes=False all workers are one process"),
        ({"local_directory": 7}, "local_directory is 7; it must be a text"),
        ({"env": 3}, "env is 3; it must be a text"),
        ({"memory_limit": [1]}, "memory_limit is [1]; it must be bytes, 4GB, 2GiB, a fraction of the machine's memory"),
        ({"memory_limit": -1}, "memory_limit is -1; it must be bytes, 4GB, 2GiB, a fraction of the machine's memory"),
        (
            {"memory_limit": float("inf")},
            "memory_limit is inf; it must be bytes, 4GB, 2GiB, a fraction of the machine's",
        ),
        ({"resources": object}, "option resources is <class 'object'>; it must be a value that JSON can hold"),
    ],
)
def test_an_invalid_value_is_named_with_what_is_allowed(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        _options.merge(SETTINGS, asked)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("asked", "here"), [("auto", True), ("auto", False), ("sockets", True), ("tls", True)])
def test_sockets_are_chosen_where_the_kernel_says_who_connects(asked: str, here: bool) -> None:
    chosen = _options.merge(SETTINGS, {"security": asked}, have_sockets=here)["security"]
    assert chosen == (asked if asked != "auto" else "sockets" if here else "tls")


def test_a_port_for_the_dashboard_goes_with_tls() -> None:
    assert _options.merge(SETTINGS, {"dashboard": "tcp"}, have_sockets=True)["security"] == "tls"
    with pytest.raises(UsageError, match="pass security='tls'"):
        _options.merge(SETTINGS, {"dashboard": "tcp", "security": "sockets"}, have_sockets=True)


def test_sockets_are_refused_where_the_kernel_does_not_say_who_connects() -> None:
    with pytest.raises(UsageError, match="pass security='tls'"):
        _options.merge(SETTINGS, {"security": "sockets"}, have_sockets=False)


def test_values_of_variables_become_text() -> None:
    assert _options.merge(SETTINGS, {"environ": {"A": 1, "B": 0.5}})["environ"] == {"A": "1", "B": "0.5"}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"n_workers": 4},
        {"n_workers": None},
        {"environ": {"OMP_NUM_THREADS": 1}},
        {"resources": {"GPU": 1}},
        {"env": "x"},
        {"security": "auto"},
        {"dashboard": "socket"},
        {"security": "tls"},
    ],
)
def test_what_is_not_asked_for_differs_from_nothing(asked: dict[str, Any]) -> None:
    assert _options.differences(RUNNING, asked, **SAME) == ()


@pytest.mark.parametrize(
    ("asked", "phrase"),
    [
        ({"n_workers": 8}, "n_workers is 4, not 8"),
        ({"memory_limit": 2_000_000_000}, "memory_limit is None, not 1.9 GiB"),
        ({"n_workers": "all"}, "n_workers is 4, not the whole machine"),
        ({"daemon": True}, "daemon is False, not True"),
        ({"nice": 7}, "nice is 5, not 7"),
        ({"security": "sockets"}, "security is tls, not sockets"),
        ({"dashboard": "tcp"}, "dashboard is socket, not tcp"),
        ({"environ": {"OMP_NUM_THREADS": 2}}, "$OMP_NUM_THREADS differs"),
        ({"environ": {"OTHER": "secret"}}, "$OTHER differs"),
        ({"resources": None}, None),
        ({"preload": ["x"]}, "preload is None, not ['x']"),
    ],
)
def test_each_difference_is_a_phrase_without_values_of_variables(asked: dict[str, Any], phrase: str) -> None:
    assert _options.differences(RUNNING, asked, **SAME) == ((phrase,) if phrase else ())


def test_an_older_record_differs_by_what_its_owner_does() -> None:
    older = ClusterRecord.from_json({name: value for name, value in RUNNING.to_json().items() if name != "nice"})
    assert _options.differences(older, {"nice": 0, "guard": "off", "idle": 0}, **SAME) == ()
    assert _options.differences(older, {"nice": 5}, **SAME) == ("nice is 0, not 5",)


def test_another_interpreter_or_directory_is_a_difference() -> None:
    found = _options.differences(RUNNING, {}, interpreter="/usr/bin/python3", directory="/tmp")
    assert found == (
        "its interpreter is /venv/bin/python, not /usr/bin/python3",
        "its directory is /home/alice, not /tmp",
    )


@settings(max_examples=50)
@given(n_workers=st.none() | st.integers(0, 99), threads=st.none() | st.integers(1, 9), daemon=st.booleans())
def test_a_cluster_never_differs_from_what_it_was_started_with(n_workers: Any, threads: Any, daemon: bool) -> None:
    asked = {"n_workers": n_workers, "threads_per_worker": threads, "daemon": daemon, "environ": {"A": 1}}
    merged = _options.merge(SETTINGS, asked)
    assert _options.differences(replace(RUNNING, **_options.recorded(merged)), asked, **SAME) == ()


def test_a_mistyped_option_is_named_with_the_right_one() -> None:
    with pytest.raises(UsageError, match="'n_worker'; did you mean 'n_workers'"):
        _options.merge(config.defaults()["cluster"], {"n_worker": 3})


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        (
            {"foo": 1},
            "no option foo=1 of ports, or of Dask's LocalCluster and Worker; `ports cluster start --help` shows",
        ),
        ({"resource": {"GPU": 1}}, "did you mean 'resources'?"),
        ({"n_work": 3}, "did you mean 'n_workers'?"),
        ({"scheduler_kwargs": {"alowed_failures": 3}}, "of Dask's Scheduler (scheduler_kwargs)"),
        ({"scheduler_kwargs": {"idle_timeot": 3}}, "did you mean 'idle_timeout'?"),
    ],
    ids=str,
)
def test_a_keyword_that_dask_does_not_take_is_refused_in_a_sentence(keywords: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        _dask.check_keywords(keywords)
    assert sentence in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 200


def test_keywords_of_each_of_dasks_classes_are_let_through() -> None:
    taken = {"resources": {"GPU": 1}, "lifetime": "1h", "preload": ["x"], "blocked_handlers": ["run"], "validate": True}
    _dask.check_keywords({**taken, "scheduler_kwargs": {"idle_timeout": "1h", "validate": True}})
    _dask.check_keywords({})


def test_two_names_of_one_interpreter_are_one(tmp_path: Path) -> None:
    for name in ("python", "python3"):
        (tmp_path / name).symlink_to(sys.executable)
    assert _find.is_same_interpreter(str(tmp_path / "python"), str(tmp_path / "python3"))
    assert not _find.is_same_interpreter(str(tmp_path / "python"), sys.executable)


# --- the schema, and what follows from it ---

TOP = Path(__file__).resolve().parents[2]


def written() -> dict[Path, str]:
    """Return what scripts/write_options.py writes now."""
    found = importlib.util.spec_from_file_location("write_options", TOP / "scripts" / "write_options.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    pages: dict[Path, str] = module.written()
    return pages


def test_pages_and_docstring_say_what_the_schema_says() -> None:
    for path, text in written().items():
        assert path.read_text("utf-8") == text, f"{path.name} differs: run scripts/write_options.py"


def test_the_word_for_the_whole_machine_is_one() -> None:
    assert config.section("cluster")["n_workers"]["pattern"] == f"^{fair_share.ALL}$"


KINDS = {"boolean": "bool", "integer": "int", "number": "int | float", "string": "str", "null": "None"}


def types_of(node: dict[str, Any]) -> set[str]:
    """Return the types of an option in Python, without those of a word such as ``all``."""
    kinds = node["type"] if isinstance(node.get("type", "string"), list) else [node.get("type", "string")]
    kinds = [kind for kind in kinds if kind != "string" or "pattern" not in node or "expects" in node]
    return set(" | ".join(KINDS.get(kind, "dict[str, str]") for kind in kinds).split(" | "))


def test_options_that_ports_reads_have_a_typed_field_in_the_record() -> None:
    options = config.section("cluster")
    typed = {one.name: str(one.type) for one in fields(ClusterRecord) if one.name in config.options("cluster")}
    del typed["dashboard"]  # an address there, and not the option
    assert {name: set(kind.split(" | ")) for name, kind in typed.items()} == {
        name: types_of(options[name]) for name in typed
    }


def test_the_owner_reads_what_ports_writes() -> None:
    """The owner's class may not import ours: it may run where there is no `ports`."""
    written = {one.name: one for one in fields(ClusterRecord)}
    for one in fields(OwnerRecord):
        if one.name in written and one.name != "started_by":
            assert (one.type, one.default) == (written[one.name].type, written[one.name].default), one.name
        elif one.name != "started_by":
            assert set(str(one.type).split(" | ")) == types_of(config.section("cluster")[one.name]), one.name


@pytest.fixture
def zeal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An option more, which only the schema has."""
    changed = copy.deepcopy(config.schema())
    node = {"description": "Zeal of workers.", "type": "integer", "default": 3, "minimum": 0, "maximum": 10}
    changed["properties"]["cluster"]["properties"]["zeal"] = {**node, "least": "none"}
    for module in (_schema, config):
        monkeypatch.setattr(module, "schema", lambda: changed)
    importlib.reload(cli)
    yield
    monkeypatch.undo()
    importlib.reload(cli)


def test_an_option_is_added_by_one_edit_of_the_schema(zeal: None) -> None:
    defaults = config.defaults()["cluster"]
    with pytest.raises(UsageError, match=r"^zeal is 11; it must be a whole number from 0 \(none\) to 10$"):
        _options.merge(defaults, {"zeal": 11})
    wrong = _schema.problem({"cluster": {"zeal": "x"}}, config.schema())
    assert wrong == (("cluster", "zeal"), "it is 'x'; it must be a whole number from 0 (none) to 10")
    assert _options.merge(defaults, {})["zeal"] == 3
    record = replace(RUNNING, **_options.recorded(_options.merge(defaults, {"zeal": 7})))
    on_disk = json.loads(json.dumps(record.to_json()))
    assert on_disk["zeal"] == 7 and ClusterRecord.from_json(on_disk).option("zeal") == 7
    assert _options.differences(record, {"zeal": 3}, **SAME) == ("zeal is 7, not 3",)
    [flag] = [one for one in cli.cluster.commands["start"].params if one.name == "zeal"]
    assert isinstance(flag, click.Option) and flag.help == "Zeal of workers. Default: 3."
    with pytest.raises(click.UsageError, match=r"it is 11; it must be a whole number from 0 \(none\) to 10"):
        flag.type_cast_value(click.Context(cli.cluster), "11")
    assert config.options("cluster")[-1] == "zeal"
    pages = {path.name: text for path, text in written().items()}
    rows = {
        "settings.md": "| `ports.cluster.zeal` | a whole number from 0 (none) to 10 | `3` | Zeal of workers. |",
        "clusters.md": "| `zeal` | `--zeal` | Zeal of workers. | 3 |",
        "commands.md": "- `--zeal`: Zeal of workers. Default: 3.",
        "_start.py": "    zeal : int, optional\n        Zeal of workers. Default: 3.",
    }
    assert [name for name, row in rows.items() if f"{row}\n" not in pages[name]] == []


def test_every_key_of_a_cluster_in_json_is_documented() -> None:
    page = (TOP / "docs" / "json.md").read_text("utf-8")
    keys = _documents.ClusterRow.__required_keys__ | _documents.ClusterRow.__optional_keys__
    missing = [key for key in sorted(keys) if not re.search(rf"`{key}`", page)]
    assert missing == []


def test_another_memory_limit_is_told_as_it_was_typed() -> None:
    running = replace(RUNNING, memory_limit=5453643776)
    told = _options.differences(running, {"memory_limit": 2_000_000_000}, **SAME, typed="2GB")
    assert told == ("memory_limit is 5.1 GiB, not 2GB",)
    assert [_options.typed(one) for one in ("1GB", " 512MiB ", "auto", "0.5", 7, None)] == [
        "1GB",
        "512MiB",
        "",
        "",
        "",
        "",
    ]


@pytest.mark.parametrize(("n_workers", "is_told"), [(9, True), (4, False), ("all", False), (None, False)])
def test_another_number_of_workers_is_offered_by_its_command(n_workers: Any, is_told: bool) -> None:
    way = "`ports cluster scale main 9` or client.cluster.scale(9) changes the number of workers; else "
    assert _options.way_to(RUNNING, n_workers) == (way if is_told else "")
