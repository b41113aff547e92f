"""``ports settings`` names the origin of each value and every mistake; one of the site's stops nobody."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ports.cli import main, tables
from ports.errors import SettingError
from ports.state import settings as config

WRONG = "ports:\n  cluster: {nice: 77, idle: -1, n_workers: 3}\n  colour: red\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directories of a site and of a user, empty; Dask is not imported."""
    monkeypatch.setenv("DASK_ROOT_CONFIG", str(tmp_path / "site"))
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "user"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delitem(sys.modules, "dask.config", raising=False)
    for name in ("site", "user"):
        (tmp_path / name).mkdir()
    config._warn_once.cache_clear()
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    code = main.run(main.ports, ["settings", "--json"])
    return code, {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_each_setting_is_shown_with_its_value_and_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "site" / "ports.yaml").write_text("ports:\n  cluster: {n_workers: 3, nice: 7}\n")
    (place / "user" / "ports.yaml").write_text("ports:\n  cluster: {nice: 9}\n")
    monkeypatch.setenv("DASK_PORTS__ALIAS", "s1")
    code, rows = listed(capsys)
    assert code == 0
    shown = {key: (rows[key]["value"], rows[key]["source"]) for key in ("cluster.n_workers", "cluster.nice", "alias")}
    assert shown == {
        "cluster.n_workers": (3, str(place / "site" / "ports.yaml")),
        "cluster.nice": (9, str(place / "user" / "ports.yaml")),
        "alias": ("s1", "$DASK_PORTS__ALIAS"),
    }
    assert (rows["cluster.expire"]["source"], rows["cluster.expire"]["state"]) == (None, "default")


def test_all_mistakes_are_shown_and_the_exit_code_is_2(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "site" / "ports.yaml").write_text(WRONG)
    (place / "user" / "broken.yaml").write_text("ports: [\n")
    code, rows = listed(capsys)
    assert code == 2
    wrong = {row["name"]: row["source"] for row in rows.values() if row["state"] == "error"}
    site = str(place / "site" / "ports.yaml")
    assert wrong == {
        "ports.cluster.nice": site,
        "ports.cluster.idle": site,
        "ports.colour": site,
        "ports": str(place / "user" / "broken.yaml"),
    }
    assert (rows["cluster.n_workers"]["value"], rows["cluster.nice"]["value"]) == (3, 5)
    assert main.run(main.ports, ["settings"]) == 2
    assert capsys.readouterr().err.count("ports: ") == 4


@pytest.mark.parametrize("text", [WRONG, "ports: [\n", "prots:\n  cluster: {nice: 3}\n"])
def test_a_mistake_of_the_site_warns_and_the_default_serves(place: Path, text: str) -> None:
    (place / "site" / "ports.yaml").write_text(text)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert config.get("cluster.nice") == 5
        assert config.get("cluster.nice") == 5
    assert told and all(str(place / "site" / "ports.yaml") in str(one.message) for one in told)
    assert len({str(one.message) for one in told}) == len(told), "each is told once"


def test_a_mistake_of_ones_own_is_an_error_as_before(place: Path) -> None:
    (place / "user" / "ports.yaml").write_text(WRONG)
    with pytest.raises(SettingError, match="nice"):
        config.load()


def test_a_mistake_of_the_site_stops_no_notebook_either(place: Path) -> None:
    (place / "site" / "ports.yaml").write_text(WRONG)
    code = (
        "import dask.config; from ports.state.settings import get; c = get('cluster'); print(c['nice'], c['n_workers'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "5 3\n", done.stderr
    assert "it is 77" in done.stderr


def test_each_value_is_shown_as_it_is_typed_in_yaml(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "user" / "ports.yaml").write_text(
        "ports:\n  hosts: [s1, s2]\n  alias: 'yes'\n  open: {new: {lab: open}}\n"
        "  cluster: {environ: {A: '1: x', B: '07'}}\n"
    )
    _, rows = listed(capsys)
    assert main.run(main.ports, ["settings"]) == 0
    shown = dict(re.split(r" {2,}", line)[:2] for line in capsys.readouterr().out.splitlines()[1:])
    assert shown["cluster.n_workers"] == "null" and shown["cluster.processes"] == "true"
    assert shown["cluster.options"] == "{}" and shown["open.new"] == "{lab: open}"
    assert {name: yaml.safe_load(text) for name, text in shown.items()} == {k: row["value"] for k, row in rows.items()}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda one: st.lists(one) | st.dictionaries(st.text(), one),
    )
)
@example([".0", ".5", "..", "./x", "1e-05", "~", "1_000", "é"])
@example([1e-05, 1e16, float("inf"), -float("inf"), 0.1])
def test_a_value_that_is_typed_as_it_is_shown_is_the_same(value: Any) -> None:
    assert yaml.safe_load(tables.as_yaml(value)) == value
