"""``%ports`` in IPython and notebooks, and ``dask ports``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from ports.cli import in_ipython
from ports.cli.in_ipython import CommandFailedError, needs_terminal, run_line, split_error


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An IPython with a home of its own, in which ``%load_ext ports`` was typed."""
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    made = InteractiveShell()
    made.run_cell("%load_ext ports")
    return made


def test_a_command_prints_its_result_in_the_cell(shell: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert shell.run_cell("%ports --version").success
    assert capfd.readouterr().out.startswith("ports, version ")


def test_the_document_of_json_is_returned(shell: Any) -> None:
    assert shell.run_cell("rows = %ports cluster list --json").success
    assert shell.user_ns["rows"] == []


def test_a_failure_is_one_sentence_and_no_traceback(shell: Any, capfd: pytest.CaptureFixture[str]) -> None:
    name = "nix"
    shell.user_ns["name"] = name
    result = shell.run_cell("%ports cluster show {name}")
    assert isinstance(result.error_in_exec, CommandFailedError) and result.error_in_exec.exit_code == 3
    told = capfd.readouterr()
    assert told.out.strip() == "ports: no cluster 'nix'; `ports cluster start` starts one"
    assert "Traceback" not in told.err


def test_the_extension_can_be_unloaded(shell: Any, capfd: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%unload_ext ports")
    shell.run_cell("%ports list")
    assert "`%ports` not found" in capfd.readouterr().err


def test_a_line_with_an_open_quote_is_refused() -> None:
    with pytest.raises(CommandFailedError, match="cannot be split into words: no closing quotation"):
        run_line("cluster show 'main")


@pytest.mark.parametrize(
    ("line", "needs"),
    [
        ("cluster attach", True),
        ("notebook attach lab", True),
        ("shell", True),
        ("shell server1:data --bash", True),
        ("job shell 12", True),
        ("shell --list", False),
        ("shell --name data --stop", False),
        ("shell --help", False),
        ("list", False),
        ("job logs -f 12", False),
        ("cluster list attach", False),
    ],
)
def test_what_takes_over_a_terminal_is_refused_in_a_notebook(line: str, needs: bool) -> None:
    assert needs_terminal(line.split()) is needs
    if needs:
        with pytest.raises(CommandFailedError, match=f"{line!r} takes over a terminal; type it in one"):
            run_line(line)


@pytest.mark.parametrize(
    ("said", "before", "error"),
    [
        ("ports: no cluster 'a'\n", "", "no cluster 'a'"),
        ("ports: waiting\nports: it ended:\n  line 2\n", "ports: waiting\n", "it ended:\n  line 2"),
        ("a warning of Python\nports: no\n", "a warning of Python\n", "no"),
        ("Segmentation fault\n", "", "Segmentation fault"),
        ("", "", ""),
    ],
)
def test_the_error_is_the_last_message(said: str, before: str, error: str) -> None:
    assert split_error(said) == (before, error)


INTERRUPTED = """
import signal, sys
from ports.cli import in_ipython
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
child = '''
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
print("begun", flush=True)
try:
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    print("ports: the start goes on", file=sys.stderr)
    sys.exit(130)
'''
print(in_ipython._pass_on([sys.executable, "-c", child], keep=False))
"""


def test_an_interrupt_ends_the_command_and_shows_its_last_words() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], text=True, capture_output=True, timeout=60, check=False)
    assert done.stdout == "begun\n(130, 'the start goes on', '')\n" and "Traceback" not in done.stderr


def test_silence_is_noted_while_a_command_works() -> None:
    """What it said before is shown then: it was no error."""
    child = "import os, sys; os.write(2, b'ports: waiting'); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", child], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        seen = []
        for piece in in_ipython._pieces(process):
            seen.append(piece)
            if piece == (True, "") and "waiting" in "".join(text for _, text in seen):
                assert process.stdin is not None
                process.stdin.close()
                break
    assert "".join(text for _, text in seen) == "ports: waiting"


def test_dask_has_the_commands_of_ports_with_their_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path))
    command = [sys.executable, "-m", "dask", "ports", "cluster", "show", "nix"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "ports: no cluster 'nix'; `ports cluster start` starts one\n"


def test_the_help_of_dask_ports_is_that_of_ports(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dask", "ports", "cluster", "scale", "--help"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout.startswith("Usage: ports cluster scale")
