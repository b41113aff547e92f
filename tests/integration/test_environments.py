"""Activation runs the scripts of real environments in a real shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ports.errors import StartError, ToolError, ToolMissingError
from ports.sessions import _shells, environments
from ports.sessions.environments import Environment, activated, find
from ports.state.waiting import wait_until


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that runs, in a prefix that is a conda environment to all that look at it."""
    made = tmp_path_factory.mktemp("conda") / "envs" / "geo"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made)], check=True, timeout=60)
    (made / "conda-meta").mkdir()
    (made / "conda-meta" / "history").touch()
    return made


@pytest.fixture
def env(prefix: Path) -> Environment:
    """The environment, without scripts."""
    for kind in ("activate.d", "deactivate.d"):
        directory = prefix / "etc" / "conda" / kind
        directory.mkdir(parents=True, exist_ok=True)
        for file in directory.iterdir():
            file.unlink()
    return find(str(prefix), "/", dict(os.environ))


def script(env: Environment, text: str, kind: str = "activate.d", name: str = "one.sh") -> None:
    """Put a script into the environment."""
    (env.prefix / "etc" / "conda" / kind / name).write_text(text)


def base() -> dict[str, str]:
    """The test's own environment variables, with something odd among them."""
    return {**os.environ, "ODD": "line one\nGDAL_DATA=not this\n", "BASH_ENV": "/nonexistent", "GONE": "soon"}


def test_scripts_set_change_and_remove_variables_whatever_they_print(env: Environment) -> None:
    script(
        env,
        'echo "GDAL_DATA=printed"; printf "X=1\\0Y=2\\0"; echo oops >&2\n'
        'export GDAL_DATA="$CONDA_PREFIX/share/gdal"\nexport PATH="$PATH:/added"\nunset GONE\n'
        "export TWO_LINES='a\nb=c'\nHIDDEN=unexported\nfalse\n",
    )
    script(env, 'export ORDER="after $GDAL_DATA"\n', name="two.sh")
    after = activated(env, base())
    assert after["GDAL_DATA"] == f"{env.prefix}/share/gdal"
    assert after["ORDER"] == f"after {env.prefix}/share/gdal"
    assert after["PATH"].startswith(f"{env.prefix}/bin:")
    assert after["PATH"].endswith(":/added")
    assert after["TWO_LINES"] == "a\nb=c"
    assert (after["ODD"], after["BASH_ENV"]) == (base()["ODD"], "/nonexistent")
    assert not {"GONE", "HIDDEN", "X", "Y"} & set(after)
    assert after.get("SHLVL") == os.environ.get("SHLVL")


def test_what_activation_set_is_taken_back_by_the_next_one(env: Environment, tmp_path: Path) -> None:
    script(env, "export GDAL_DATA=here\n")
    script(env, "unset GDAL_DATA\n", kind="deactivate.d")
    inside = activated(env, base())
    assert inside["GDAL_DATA"] == "here"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "v")], check=True, timeout=60)
    outside = activated(find("./v", tmp_path, inside), inside)
    assert "GDAL_DATA" not in outside
    assert str(env.prefix) not in outside["PATH"]


@pytest.mark.parametrize("ending", ["exit 3", "set -e; false", "trap 'echo mine' EXIT", "return 1", "set -u; $nothing"])
def test_a_script_that_ends_its_shell_keeps_what_it_set(env: Environment, ending: str) -> None:
    script(env, f"export SET_BEFORE=yes\n{ending}\n")
    assert activated(env, base())["SET_BEFORE"] == "yes"


def test_a_script_that_starts_something_does_not_hold_the_caller(env: Environment, tmp_path: Path) -> None:
    script(env, f"sleep 300 & echo $! > {tmp_path}/pid\nread answer\nexport SET=yes\n")
    assert activated(env, base())["SET"] == "yes"
    wait_until(lambda: is_gone(tmp_path / "pid") or None, timeout=20, what="end of what the script started")


def is_gone(file: Path) -> bool:
    """Say whether the process whose pid is in `file` has ended, even if it waits to be reaped."""
    try:
        stat = Path("/proc", file.read_text().strip(), "stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def test_a_script_that_hangs_is_ended_and_named(env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    script(env, "sleep 300\n")
    monkeypatch.setattr(environments, "_SCRIPT_SECONDS", 0.5)
    with pytest.raises(ToolError, match=r"one\.sh did not end within 0\.5 s"):
        activated(env, base())


def test_python_of_the_activated_environment_is_the_first_on_the_path(env: Environment) -> None:
    found = subprocess.run(
        ["sh", "-c", "python -c 'import sys; print(sys.prefix)'"],
        env=activated(env, base()), capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert found.stdout.strip() == str(env.prefix)


def test_a_shell_in_an_environment_without_ipython_says_how_to_add_it(env: Environment) -> None:
    install = f"install it there with `{env.python} -m pip install ipython`, or pass --bash"
    with pytest.raises(ToolMissingError, match=re.escape(f"ipython in environment 'geo' is not installed; {install}")):
        _shells._ipython(env, base())


@pytest.mark.parametrize("last", ["ModuleNotFoundError: No module named 'jupyter_server'", "ImportError: no such name"])
def test_a_start_that_ends_in_an_import_names_what_is_missing(env: Environment, last: str) -> None:
    failed = StartError("notebook 'lab'", "exit status 1", "/log", ("Traceback …", last))
    told = f"`{env.python} -m pip install jupyter_server`"
    with (
        pytest.raises(ToolMissingError, match=re.escape(told)),
        environments.missing_named(str(env.python), base(), needs=("jupyter_server",)),
    ):
        raise failed


def test_a_start_that_fails_for_another_reason_keeps_its_error(env: Environment) -> None:
    failed = StartError("notebook 'lab'", "exit status 1", "/log", ("OSError: no space left on device",))
    with (
        pytest.raises(StartError, match="did not start: exit status 1"),
        environments.missing_named(str(env.python), base(), needs=("jupyter_server",)),
    ):
        raise failed
