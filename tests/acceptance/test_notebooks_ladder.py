"""The notebooks of notebooks/ run from top to bottom and leave nothing; their outputs are cleared."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from ports import clusters, notebooks
from ports.state.waiting import wait_until
from tests.integration.conftest import Home, new_home
from tests.lab.leaks import LeakCheck
from tests.lab.site import Site

pytestmark = pytest.mark.ci

LADDER = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
FROM_HOME = next(path for path in LADDER if path.name.startswith("5-"))
ON_THIS_MACHINE = [path for path in LADDER if path != FROM_HOME]
# Runs a notebook as `jupyter execute` does, and prints what its cells print.
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
try:
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
finally:
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        print(output.get("text") or output.get("data", {}).get("text/plain", ""))
"""
# What a reader must see there, besides that no cell fails.
SHOWN = {
    "0": ("ssh -N -L", "runs as:"),
    "1": ("cluster 'main' runs: 2 workers", "sum of squares: 285", "<cluster 'main'", "is stopped"),
    "2": ("328350", "ports open", "unix://", "0o700"),
    "3": ("[0, 1, 4, 9, 16]", "runs with other options"),
    "6": ("the same as here: True", "144 computed", "144 cached", "42", "job 1 ended at", "True"),
    "4": ("'1'", "[0, None, 4, 9]", "{500000000}"),
}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home for the test, with `ports` on the PATH."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with new_home(tmp_path / "home", {"PATH": path, "LADDER_WORKERS": "2"}) as made:
        yield made


def test_there_are_seven_notebooks() -> None:
    assert [path.name[:2] for path in LADDER] == ["0-", "1-", "2-", "3-", "4-", "5-", "6-"]


@pytest.mark.parametrize("path", LADDER, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_its_outputs_are_cleared(path: Path) -> None:
    found = nbformat.read(path, as_version=4)
    nbformat.validate(found)
    assert found.cells[0].cell_type == "markdown" and found.cells[0].source.startswith(f"# {path.name[0]} · ")
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count]


@pytest.mark.parametrize("path", ON_THIS_MACHINE, ids=lambda path: path.stem)
def test_a_notebook_runs_and_leaves_nothing(home: Home, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.name.startswith("0"):  # Dask's own scratch stays behind, which is not ours to mend
        monkeypatch.setenv("DASK_TEMPORARY_DIRECTORY", str(home.work))
    done = home.python(RUN, str(path), timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for text in SHOWN[path.name[0]]:
        assert text in done.stdout, done.stdout
    assert clusters.list() == [] and not [one for one in notebooks.list() if one.managed]
    wait_until(lambda: not home.left() or None, timeout=8, what=f"end of what {path.name} started", every=0.05)


@pytest.mark.usefixtures("fresh_home")
def test_the_notebook_for_home_runs_on_the_laptop(site: Site, nothing_left: LeakCheck) -> None:
    nothing_left.allow("file */tokens/notebook-ladder-lab")
    nothing_left.allow("file */ssh/*.log")
    brief = {"DASK_PORTS__SSH__PERSIST": "1"}
    done = site.run("laptop", [site.python, "-c", RUN, str(FROM_HOME)], timeout=170, env=brief)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for text in ("server1 is there", "200 cluster ladder", "200 notebook ladder-lab", "is stopped"):
        assert text in done.stdout, done.stdout


def test_the_notebook_for_home_says_where_there_is_no_host(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LADDER_HOST", "nowhere.invalid")
    done = home.python(RUN, str(FROM_HOME), timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "nowhere.invalid cannot be reached" in done.stdout
