"""The file that enables the route of `ports` in Jupyter servers."""

from __future__ import annotations

import configparser
import os
import shutil
from pathlib import Path

import pytest
from jupyter_server.extension.config import ExtensionConfigManager

from ports import listeners
from ports.clusters._show import Shown, shown_text
from ports.sessions import surroundings

ROOT = Path(__file__).parents[2]
NAME = "ports.web"


def test_an_administrator_disables_it_as_any_extension(tmp_path: Path) -> None:
    """Of two files in a directory the later name counts, and Jupyter writes one that is called like the extension."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    [file] = parser["options.data_files"]["etc/jupyter/jupyter_server_config.d"].split()
    directory = tmp_path / "jupyter_server_config.d"
    directory.mkdir()
    shutil.copy(ROOT / file, directory)
    config = {"read_config_path": [str(tmp_path)], "write_config_dir": str(directory)}
    assert ExtensionConfigManager(**config).enabled(NAME)
    ExtensionConfigManager(**config).disable(NAME)
    assert not ExtensionConfigManager(**config).enabled(NAME)


def test_a_kernel_of_a_server_with_the_route_names_the_path_there() -> None:
    environ = {**listeners.announcement("/user/al ice/"), "JPY_PARENT_PID": str(os.getpid())}
    assert listeners.route("main", environ) == "/user/al ice/ports/main"
    assert listeners.route("main", {**environ, **listeners.announcement("/")}) == "/ports/main"


NOT_THERE = {
    "no kernel": {"PORTS_JUPYTER_ROUTE": f"{os.getpid()}:/ports"},
    "a kernel of a server without the route": {"JPY_PARENT_PID": str(os.getpid())},
    "a kernel of another server": {"PORTS_JUPYTER_ROUTE": f"{os.getpid()}:/ports", "JPY_PARENT_PID": "1"},
    "a server that has ended": {"PORTS_JUPYTER_ROUTE": "4000000:/ports", "JPY_PARENT_PID": "4000000"},
    "not a number": {"PORTS_JUPYTER_ROUTE": "x:/ports", "JPY_PARENT_PID": "x"},
    "nothing": {"PORTS_JUPYTER_ROUTE": "", "JPY_PARENT_PID": ""},
}


@pytest.mark.parametrize("environ", NOT_THERE.values(), ids=NOT_THERE)
def test_no_path_in_jupyter_is_claimed_where_there_is_none(environ: dict[str, str]) -> None:
    assert listeners.route("main", environ) is None


def test_the_path_in_jupyter_comes_first() -> None:
    shown = {"command": "ports open s:main", "link": "http://localhost:1/status", "by_hand": "ssh s"}
    with_it = {**shown, "here": "/ports/main"}
    assert shown_text(with_it).splitlines()[0] == "in this Jupyter:      /ports/main"
    assert shown_text(with_it).splitlines()[1:] == shown_text(shown).splitlines()
    html = Shown(with_it)._repr_html_()
    assert html.index('href="/ports/main"') < html.index("At home")
    assert "Jupyter" not in Shown(shown)._repr_html_()


def test_a_cluster_does_not_get_the_path_of_the_kernel_that_started_it() -> None:
    assert surroundings.of_a_session(environ={"PORTS_JUPYTER_ROUTE": "1:/ports", "A": "b"}) == {"A": "b"}
