"""Where environments are found, and what activation changes, without a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ports.probe import installations
from ports.sessions import environments
from ports.sessions.environments import Environment, EnvironmentNotFoundError, activated, find, is_active
from ports.state import wait_until


def make_conda(prefix: Path) -> Path:
    """Make what tells a conda environment: conda-meta/history and bin/python."""
    for directory in ("bin", "conda-meta"):
        (prefix / directory).mkdir(parents=True)
    (prefix / "conda-meta" / "history").write_text("==> 2026-01-01 00:00:00 <==\n")
    (prefix / "bin" / "python").symlink_to("/usr/bin/python3")
    return prefix


def make_root(root: Path, *names: str) -> Path:
    """Make an installation of conda with environments `names`."""
    make_conda(root)
    (root / "condabin").mkdir()
    (root / "envs").mkdir()
    for name in names:
        make_conda(root / "envs" / name)
    return root


def make_venv(prefix: Path) -> Path:
    """Make what tells a venv."""
    (prefix / "bin").mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (prefix / "bin" / "python").symlink_to("/usr/bin/python3")
    return prefix


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """An environment whose home is empty; a conda of this machine is not in it by variables."""
    return {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}


def test_a_conda_environment_is_found_by_name_where_conda_keeps_it(alone: dict[str, str], tmp_path: Path) -> None:
    make_root(tmp_path / "miniforge3", "geo")
    found = find("geo", "/", alone)
    assert found == Environment(
        tmp_path / "miniforge3/envs/geo", tmp_path / "miniforge3/envs/geo/bin/python", "conda", "geo"
    )
    assert find("base", "/", alone).prefix == tmp_path / "miniforge3"


PLACES = [path for path in installations.usual_roots("~") if path.startswith("~")]


@pytest.mark.parametrize("place", [*PLACES, "MAMBA_ROOT_PREFIX", "CONDA_EXE", "CONDA_ENVS_PATH", "environments.txt"])
def test_commands_from_home_find_the_same_environments_as_those_here(
    place: str, alone: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / (place[2:] if place.startswith("~") else "odd-place")
    made = make_conda(root / "envs" / "geo")
    if place == "environments.txt":
        (tmp_path / ".conda").mkdir()
        (tmp_path / ".conda" / "environments.txt").write_text(f"{made}\n")
    values = {"MAMBA_ROOT_PREFIX": root, "CONDA_EXE": root / "bin" / "conda", "CONDA_ENVS_PATH": root / "envs"}
    if place in values:
        alone[place] = str(values[place])
    for name in [name for name in os.environ if name.startswith(("CONDA", "MAMBA", "_CONDA"))]:
        monkeypatch.delenv(name)
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    assert (
        str(find("geo", "/", alone).python) == installations.environment_python("geo") == str(made / "bin" / "python")
    )


@pytest.mark.parametrize(
    "variable", ["CONDA_EXE", "MAMBA_ROOT_PREFIX", "CONDA_PREFIX", "CONDA_PREFIX of an environment", "CONDA_ENVS_PATH"]
)
def test_the_variables_of_conda_lead_to_its_environments(variable: str, alone: dict[str, str], tmp_path: Path) -> None:
    root = make_root(tmp_path / "data" / "odd-place", "geo", "other")
    values = {
        "CONDA_EXE": root / "bin/conda",
        "CONDA_PREFIX of an environment": root / "envs/other",
        "CONDA_ENVS_PATH": root / "envs",
    }
    environ = {**alone, variable.split()[0]: str(values.get(variable, root))}
    assert find("geo", "/", environ).prefix == root / "envs" / "geo"


def test_envs_dirs_of_condarc_and_environments_txt_are_read(alone: dict[str, str], tmp_path: Path) -> None:
    listed, project = (
        make_conda(tmp_path / "big-disk" / "envs-of-alice" / "geo"),
        make_conda(tmp_path / "project" / "env"),
    )
    (tmp_path / ".condarc").write_text("channels: [conda-forge]\nenvs_dirs:\n  - ~/big-disk/envs-of-alice\n")
    (tmp_path / ".conda").mkdir()
    (tmp_path / ".conda" / "environments.txt").write_text(f"{project}\n{tmp_path}/gone\n\n")
    assert find("geo", "/", alone).prefix == listed
    assert find("env", "/", alone).prefix == project
    assert {"geo", "env"} <= set(environments.known(alone))


def test_a_broken_condarc_hides_nothing_else(alone: dict[str, str], tmp_path: Path) -> None:
    make_root(tmp_path / "miniconda3", "geo")
    (tmp_path / ".condarc").write_text("envs_dirs: [unclosed\n")
    assert find("geo", "/", alone).name == "geo"


@pytest.mark.parametrize("text", ["./venv", "venv", "~/venv", "{}/venv", "venv/", "venv/bin/python"])
def test_a_venv_is_found_by_any_path(text: str, alone: dict[str, str], tmp_path: Path) -> None:
    make_venv(tmp_path / "venv")
    found = find(text.format(tmp_path), tmp_path, alone)
    assert (found.prefix, found.kind, found.name) == (tmp_path / "venv", "venv", tmp_path.name)


def test_an_environment_elsewhere_is_not_taken_for_an_installation(alone: dict[str, str], tmp_path: Path) -> None:
    own = make_conda(tmp_path / "project" / "own")
    found = find(str(own), "/", {**alone, "CONDA_PREFIX": str(own)})
    assert found.name == "own"


def test_without_a_name_it_is_the_interpreter_that_runs(alone: dict[str, str]) -> None:
    import sys

    found = find(None, "/", alone)
    assert (str(found.python), str(found.prefix)) == (sys.executable, sys.prefix)


def test_an_error_about_a_misspelt_name_lists_similar_names(alone: dict[str, str], tmp_path: Path) -> None:
    make_root(tmp_path / "miniforge3", "geo", "climate")
    with pytest.raises(EnvironmentNotFoundError, match=r"'climte'.*conda environment of that name.*there is climate$"):
        find("climte", tmp_path, alone)
    with pytest.raises(EnvironmentNotFoundError, match="base, climate, geo"):
        find("zzz", tmp_path, alone)


def test_a_name_that_is_nowhere_says_where_it_was_looked_for(alone: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(
        EnvironmentNotFoundError, match=r"of that name \(this user has no conda\), and for a venv in .*/geo"
    ):
        find("geo", tmp_path, alone)
    make_root(tmp_path / "miniforge3", "climate")
    for name in ("geos", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyvenv.cfg").touch()
    with pytest.raises(EnvironmentNotFoundError) as caught:
        find("geo", tmp_path, {**alone, "CONDA_ROOT": str(tmp_path / "miniforge3")})
    assert f"of that name below {tmp_path}/miniforge3" in str(caught.value)
    assert str(caught.value).endswith("; there is base, climate, ./geos")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("./nowhere", "does not exist"), (".", "contains neither conda-meta/ nor pyvenv.cfg"), ("", "pass")],
)
def test_a_path_that_is_none_says_so(text: str, reason: str, alone: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotFoundError, match=reason):
        find(text, tmp_path, alone)


def test_a_conda_environment_without_python_says_how_to_get_it(alone: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tools" / "conda-meta").mkdir(parents=True)
    with pytest.raises(EnvironmentNotFoundError, match=r"conda install -p .*/tools python"):
        find("./tools", tmp_path, alone)


def test_activation_replaces_what_was_activated(alone: dict[str, str], tmp_path: Path) -> None:
    root = make_root(tmp_path / "miniforge3", "old", "new")
    before = {
        **alone,
        "PATH": f"{tmp_path}/venv/bin:{root}/envs/old/bin:{root}/bin:{root}/condabin:/usr/bin:/bin",
        "VIRTUAL_ENV": f"{tmp_path}/venv",
        "CONDA_PREFIX": f"{root}/envs/old",
        "CONDA_PREFIX_1": str(root),
        "CONDA_SHLVL": "2",
        "CONDA_EXE": f"{root}/bin/conda",
        "CONDA_OVERRIDE_CUDA": "12",
        "PYTHONHOME": "/somewhere",
        "KEPT": "yes",
    }
    after = activated(find("new", "/", before), before)
    assert after["PATH"] == f"{root}/envs/new/bin:{root}/condabin:/usr/bin:/bin"
    assert (after["CONDA_PREFIX"], after["CONDA_DEFAULT_ENV"]) == (f"{root}/envs/new", "new")
    assert (after["CONDA_SHLVL"], after["CONDA_OVERRIDE_CUDA"], after["KEPT"]) == ("1", "12", "yes")
    assert not {"VIRTUAL_ENV", "CONDA_PREFIX_1", "PYTHONHOME"} & set(after)
    assert before["VIRTUAL_ENV"]  # what was handed in stays as it is


def test_activating_a_venv_leaves_conda(alone: dict[str, str], tmp_path: Path) -> None:
    root = make_root(tmp_path / "miniforge3")
    venv = find(str(make_venv(tmp_path / "tool")), "/", alone)
    before = {**alone, "PATH": f"{root}/bin:/usr/bin", "CONDA_PREFIX": str(root), "CONDA_DEFAULT_ENV": "base"}
    after = activated(venv, before)
    assert after["PATH"] == f"{tmp_path}/tool/bin:/usr/bin"
    assert after["VIRTUAL_ENV"] == f"{tmp_path}/tool"
    assert "CONDA_PREFIX" not in after
    assert is_active(venv, after)
    assert activated(venv, after) == after


def test_variables_that_conda_keeps_for_an_environment_come_and_go(alone: dict[str, str], tmp_path: Path) -> None:
    root = make_root(tmp_path / "miniforge3", "geo", "other")
    (root / "envs/geo/conda-meta/state").write_text('{"env_vars": {"PROJ": "data", "OFF": "***unset***"}}')
    packages = root / "envs/geo/etc/conda/env_vars.d"
    packages.mkdir(parents=True)
    (packages / "gdal.json").write_text('{"GDAL": "1", "PROJ": "overruled"}')
    inside = activated(find("geo", "/", alone), alone)
    assert (inside["PROJ"], inside["GDAL"], "OFF" in inside) == ("data", "1", False)
    outside = activated(find("other", "/", alone), inside)
    assert not {"PROJ", "GDAL"} & set(outside)


THERE = """#!/bin/sh
trap '' INT
read words
echo "$words" >>{seen}
sleep 0.3
echo '{{"kind": "cluster", "name": "main", "state": "running"}}'
"""


@pytest.mark.parametrize(
    ("reads", "starts", "seen"),
    [
        (True, True, ['["cluster", "start"]']),
        (False, False, ['["cluster", "start"]']),
        (False, True, ['["cluster", "start"]', '["cluster", "stop", "main", "--json"]']),
    ],
    ids=["read", "no start", "gone"],
)
def test_a_start_whose_answer_nobody_takes_is_undone(
    tmp_path: Path, reads: bool, starts: bool, seen: list[str]
) -> None:
    there, log = tmp_path / "python", tmp_path / "seen"
    there.write_text(THERE.format(seen=log))  # Ctrl-C comes too late for it
    there.chmod(0o755)
    request = {"argv": ["x"], "stdin": '["cluster", "start"]\n', "env": str(there), "starts": starts}
    code = f"from ports.probe.programs import run; run.run({request!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    if reads:
        assert b'"status": 0' in child.stdout.read()
    else:
        wait_until(lambda: log.exists() or None, timeout=20, what="the command")
        child.stdout.close()
    child.wait(20)
    assert log.read_text().splitlines() == seen
