"""The environment that `--setup` makes: once for each command and content of files, by one of those who want it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ports.errors import UsageError
from ports.jobs import _copies, _scripts
from ports.jobs.resource import set_up

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter whose `-m venv` makes a directory only."""
    path = tmp_path / "quick-python"
    path.write_text(f'#!/bin/sh\n[ "$1" = -m ] && mkdir -p "$3/bin" && exit\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "requirements.txt").write_text("numpy\n")
    return tmp_path / "top"


def run(top: Path, python: str, command: str, *argv: str) -> subprocess.Popen[str]:
    kept = top.parent / "work" / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-I", "-S", set_up.__file__, str(top.parent / "environments"), python, command, *argv]
    return subprocess.Popen(
        words, cwd=top, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PORTS_JOB_DIRECTORY": str(kept), "PORTS_ATTEMPT": "2"},
    )  # fmt: skip


def ended(one: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = one.communicate(timeout=60)
    return one.returncode, out, err


def test_a_setup_runs_once_and_the_script_runs_with_it(top: Path, python: str) -> None:
    command = (
        'echo "into $VIRTUAL_ENV"; echo made >> ../count; cd "$VIRTUAL_ENV/bin"; '
        "printf '#!/bin/sh\\necho tool ran' > tool; chmod +x tool"
    )
    status, out, err = ended(run(top, python, command, "tool"))
    assert (status, out.splitlines()[-1]) == (0, "tool ran") and out.startswith("into "), err
    assert "making the environment of --setup" in err
    status, out, err = ended(run(top, python, command, "tool"))
    assert (status, out, err) == (0, "tool ran\n", "") and (top.parent / "count").read_text() == "made\n"


def test_an_environment_is_on_the_disk_before_others_use_it(
    top: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut, modules must not be empty in an environment that is whole by its word."""
    found: list[list[str]] = []
    environments = top.parent / "environments"
    monkeypatch.setattr(os, "sync", lambda: found.append([path.name for path in environments.glob("*/*")]))
    set_up.made(str(environments), python, 'touch "$VIRTUAL_ENV/module"', str(top))
    assert [sorted(names) for names in found] == [["bin", "module"]]
    set_up.made(str(environments), python, 'touch "$VIRTUAL_ENV/module"', str(top))
    assert len(found) == 1


def test_another_content_of_a_named_file_makes_another_one(top: Path, python: str) -> None:
    def name(command: str) -> str:
        return set_up.name_of(python, command, str(top))

    first = name("pip install -r requirements.txt")
    assert first == name("pip install -r requirements.txt") and first != name("pip install  -r requirements.txt x")
    quoted, joined = name("pip install -r 'requirements.txt'"), name("pip install --requirement=requirements.txt")
    (top / "other.txt").write_text("1")
    assert first == name("pip install -r requirements.txt"), "no file that the command names"
    (top / "requirements.txt").write_text("numpy==2\n")
    assert first != name("pip install -r requirements.txt")
    assert quoted != name("pip install -r 'requirements.txt'")
    assert joined != name("pip install --requirement=requirements.txt")
    assert first != set_up.name_of(sys.executable, "pip install -r requirements.txt", str(top))
    name('echo "no end')  # the shell will say that


def test_a_setup_that_fails_is_the_end_of_the_job_and_says_so(top: Path, python: str) -> None:
    status, _, err = ended(run(top, python, "echo why >&2; exit 7", "true"))
    assert status == 125 and "why\n" in err and "the setup failed: `echo why >&2; exit 7`: exit status 7" in err
    noted = json.loads((top.parent / "work" / "setup.json").read_text())
    assert (noted["attempt"], noted["status"]) == (2, 7)
    told = {"status": 125, "signal": None, "ended": None, "reason": f"the setup failed: {noted['text']}"}
    assert _scripts.verdict(told) == ("error", "the setup failed: `echo why >&2; exit 7`: exit status 7")
    assert [path.suffix for path in (top.parent / "environments").iterdir()] == [".lock"]  # the next one tries again
    assert ended(run(top, python, "true", "false"))[0] == 1  # the script's own status


def test_an_interpreter_that_is_none_fails_the_setup(top: Path) -> None:
    status, _, err = ended(run(top, "/no/python", "true", "true"))
    assert status == 125 and "/no/python is no Python that runs here" in err


def test_of_two_jobs_one_makes_the_environment_and_both_use_it(top: Path, python: str) -> None:
    os.mkfifo(top / "go")
    command = "echo made >> ../count; cat go > /dev/null"
    first = run(top, python, command, "sh", "-c", "echo one in $VIRTUAL_ENV")
    assert first.stderr is not None and "making" in first.stderr.readline()
    second = run(top, python, command, "sh", "-c", "echo two in $VIRTUAL_ENV")
    assert second.stderr is not None and "waiting for another job" in second.stderr.readline()
    (top / "go").write_text("")  # blocks until the setup reads it
    (_, out, _), (_, other, _) = ended(first), ended(second)
    assert out.split("in ")[1] == other.split("in ")[1] and (top.parent / "count").read_text() == "made\n"


def test_an_environment_whose_maker_was_killed_is_made_again(top: Path, python: str) -> None:
    os.mkfifo(top / "go")
    command = "echo made >> ../count; [ -e go ] || exit 0; cat go > /dev/null"
    first = run(top, python, command, "true")
    assert first.stderr is not None and "making" in first.stderr.readline()
    end = time.monotonic() + 20
    while not (top.parent / "count").exists() and time.monotonic() < end:
        time.sleep(0.01)
    first.kill()
    (top / "go").write_text("")
    (top / "go").unlink()
    status, _, err = ended(run(top, python, command, "true"))
    assert status == 0 and "making" in err and (top.parent / "count").read_text() == "made\nmade\n"
    first.communicate()


def test_an_environment_is_removed_when_it_is_old_and_unused(top: Path, python: str) -> None:
    environments = top.parent / "environments"
    os.mkfifo(top / "go")
    user = run(top, python, "true", "cat", "go")
    assert user.stderr is not None and "making" in user.stderr.readline()
    end = time.monotonic() + 20
    while not list(environments.glob("*/ready.json")) and time.monotonic() < end:
        time.sleep(0.01)
    assert ended(run(top, python, "true", "true"))[0] == 0  # two users
    assert set_up.put_aside(str(environments), lambda used: used < time.time() - 60) == [], "it is not old"
    assert set_up.put_aside(str(environments), lambda used: True) == [], "it is used"
    (top / "go").write_text("")
    ended(user)
    (aside,) = set_up.put_aside(str(environments), lambda used: True)
    assert [path for path in environments.iterdir() if path.is_dir()] == [Path(aside)]
    assert set_up.put_aside(str(top / "missing"), lambda used: True) == []


def test_a_wrong_setup_is_refused_at_submission(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(top)
    for text in ("", "  ", "a\0b"):
        with pytest.raises(UsageError, match="setup: there is no command"):
            _scripts.describe(["true"], setup=text)
    with pytest.raises(UsageError, match="add --setup"):
        _scripts.describe(["true"], python="python3.11")
    with pytest.raises(UsageError, match="there is no program"):
        _scripts.describe(["tool-of-the-setup"])
    script = _scripts.describe(["tool-of-the-setup"], setup=" pip install tool ", python="python3")
    assert (script.submission.script or {})["setup"] == {"command": "pip install tool", "python": "python3"}


def test_a_file_of_the_setup_that_would_stay_behind_is_an_error(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(top)
    monkeypatch.setenv("PORTS_HOME", str(top.parent / "state"))
    (top / ".portsignore").write_text("requirements.txt\n")
    with pytest.raises(UsageError, match=r"requirements.txt would stay behind: .portsignore names it"):
        _copies.plan(_scripts.describe(["true"], setup="pip install -r requirements.txt"))
