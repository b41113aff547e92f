"""Where `ports` is on a host whose PATH lacks it, and the two lines that put it there: with real start files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ports.probe import installations
from ports.probe.programs import run

ENTRY = "#!/bin/sh\n# from ports.__main__ import main\necho ports, version 1\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without start files, for a user whose `ports` never ran."""
    home = tmp_path / "al ice"
    home.mkdir()
    for name in ("CONDA_PREFIX", "VIRTUAL_ENV", "MAMBA_ROOT_PREFIX", "CONDA_EXE", "WORKON_HOME", "BASH_ENV", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PORTS_HOME", str(home / "state"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(installations, "PLACES", [])  # whatever this machine has
    return home


def install(prefix: Path, text: str = ENTRY) -> Path:
    program = prefix / "bin" / "ports"
    program.parent.mkdir(parents=True)
    program.write_text(text)
    program.chmod(0o755)
    return prefix


PLACES = ["miniforge3/envs/geo", "miniconda3", ".conda/envs/x", ".venv", "thesis/.venv", "code/thesis/venv", ".local"]
PLACES += [".virtualenvs/a", "envs/a", ".local/share/pipx/venvs/ports", ".local/share/uv/tools/ports"]
PLACES += [".pyenv/versions/3", "geo"]


@pytest.mark.parametrize("place", PLACES)
def test_an_environment_with_ports_is_found_where_people_keep_it(home: Path, place: str) -> None:
    install(home / place)
    assert f"ports is in {home / place}: " in installations.way_to_ports()


def test_another_program_called_ports_is_not_taken_for_it(home: Path) -> None:
    install(home / ".venv", "#!/bin/sh\nport_of_another_kind\n")
    assert installations.way_to_ports() == ""


@pytest.mark.parametrize("shell", ["/bin/bash", "/usr/bin/zsh", "/usr/bin/fish", "/usr/bin/tcsh", "/bin/sh"])
@pytest.mark.parametrize("there", [".bash_profile", ".profile", ""])
def test_the_two_lines_put_ports_on_the_path_of_the_login_shell(
    home: Path, monkeypatch: pytest.MonkeyPatch, shell: str, there: str
) -> None:
    if not Path(shell).exists():
        pytest.skip(f"there is no {shell} here")
    if there:
        (home / there).write_text("export SEEN=yes\n")
    prefix = install(home / "my envs" / "geo")
    monkeypatch.setenv("SHELL", shell)

    def command() -> list[str]:
        return run.find_command(None, dict(os.environ), run.LoginShell(20))

    with pytest.raises(LookupError) as caught:
        command()
    said, *lines = str(caught.value).splitlines()
    assert said.startswith("ports is not on the PATH of your login shell there; ")
    assert f"; ports is in {prefix}: put these two lines in ~/" in said
    assert "or name it as ports.hosts.<alias>.env in the settings at home" in said and len(lines) == 2
    file = home / said.partition("lines in ~/")[2].partition(" there")[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as start_file:
        start_file.write("".join(f"{line.strip()}\n" for line in lines))
    assert command() == [f"{prefix}/bin/ports"]
    if "bash" in shell and there:
        assert run.LoginShell(20).environment()["SEEN"] == "yes"  # what the shell read before, it reads now


def test_nothing_is_looked_for_where_ports_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def look(shell: str | None = None) -> str:
        looked.append("")
        return ""

    monkeypatch.setattr(run, "way_to_ports", look)
    prefix = install(home / ".venv")
    (home / ".profile").write_text(f"export PATH='{prefix}/bin:/usr/bin:/bin'\n")
    monkeypatch.setenv("SHELL", "/bin/sh")
    assert run.find_command(None, dict(os.environ), run.LoginShell(20)) == [f"{prefix}/bin/ports"]
    assert looked == []


def test_a_disk_that_hangs_ends_the_look(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(home / "miniforge3" / "envs" / "geo")
    hangs = threading.Event()
    inside: Callable[[str], list[str]] = installations.inside

    def slow(folder: str) -> list[str]:
        return [""] * hangs.wait(30) if folder == str(home) else inside(folder)

    monkeypatch.setattr(installations, "inside", slow)
    monkeypatch.setattr(installations, "LOOK_SECONDS", 0.3)
    began = time.monotonic()
    assert "miniforge3/envs/geo" in installations.way_to_ports()
    hangs.set()
    assert time.monotonic() - began < 15


def test_a_home_with_many_files_is_not_read_to_its_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(30):
        (home / f"project-{n}").mkdir()
    monkeypatch.setattr(installations, "MOST_LOOKS", 20)
    seen: list[str] = []

    def has_entry(program: str) -> bool:
        seen.append(program)
        return False

    monkeypatch.setattr(installations, "has_entry", has_entry)
    assert installations.way_to_ports() == "" and len(seen) <= 21


def test_a_named_environment_without_ports_leads_to_the_one_that_has_it(home: Path) -> None:
    prefix = install(home / ".venv")
    with pytest.raises(LookupError, match=f"there is no environment 'geo' there; ports is in {prefix}: name that as"):
        run.find_command("geo", {}, run.LoginShell(20))
