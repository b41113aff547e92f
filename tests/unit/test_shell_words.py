"""Words for any login shell: each shell that is here reads them back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import dask.config
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ports.errors import UsageError
from ports.hosts import Answer, _shell_words, named_pythons

SHELLS = [name for name in ("sh", "bash", "rbash", "zsh", "tcsh", "fish") if shutil.which(name)]
HARD = [
    "al ice ü",
    "it's",
    "a!b",
    "a\\b",
    "\\'!",
    "$HOME",
    "`id`",
    "*",
    "~",
    "a;b|c&d",
    "=ls",
    "%1",
    "^",
    "{a,b}",
    "",
    "-x",
    "(ü)",
]


def read_by(shell: str, line: str) -> list[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LC_ALL": "C"}
    done = subprocess.run([str(shutil.which(shell)), "-c", line], capture_output=True, env=environment, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_reads_a_word_as_it_was(shell: str) -> None:
    assert read_by(shell, _shell_words.line(["printf", r"%s\0", *HARD])) == HARD


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])))
@settings(max_examples=15, deadline=None)
def test_any_text_is_one_word_of_sh(text: str) -> None:
    assert read_by("sh", _shell_words.line(["printf", r"%s\0", text])) == [text]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_path_in_the_home_may_have_blanks(shell: str) -> None:
    line = f"env printf '%s' {_shell_words.path('~/my env ü/bin/python')}; env printf '\\000'"
    assert read_by(shell, line) == ["/tmp/my env ü/bin/python"]
    assert read_by(shell, f"env printf '%s\\000' {_shell_words.path('~')}") == ["/tmp"]


def test_a_word_with_a_newline_is_refused() -> None:
    with pytest.raises(UsageError, match="control character"):
        _shell_words.word("a\nb")


@pytest.mark.parametrize("shell", SHELLS)
def test_any_shell_starts_the_python_that_the_settings_name(shell: str, tmp_path: Path) -> None:
    env = tmp_path / "al ice ü's" / "my env!"
    (env / "bin").mkdir(parents=True)
    (env / "bin/python").symlink_to(sys.executable)
    answers, complaints = [], []
    with dask.config.set({"ports.hosts": {"server1": {"env": str(env)}}}):
        pythons = named_pythons("server1")
    for python in pythons:
        command = [str(shutil.which(shell)), "-c", f"{python} -I -S -"]
        done = subprocess.run(command, input=b"print(42)", capture_output=True, timeout=20)
        answers.append(done.stdout.strip().decode())
        complaints.append(Answer(None, "", done.stderr.decode(), done.returncode, 0, 0))
    assert answers == ["" if shell == "rbash" else "42", "42"]
    assert complaints[0].has_no_python == (shell == "rbash")
