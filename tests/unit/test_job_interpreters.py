"""A mistyped file of an interpreter is refused when the job is submitted, and nothing else is."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from ports.errors import UsageError
from ports.jobs import _copies, _interpreters, _scripts
from tests.unit.test_job_words import cli


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with some files."""
    top = tmp_path / "work"
    (top / "src").mkdir(parents=True)
    for name in ("train.py", "Fit.R", "run.sh", "x.jl", "src/deep.py"):
        (top / name).write_text("")
    monkeypatch.chdir(top)
    return top


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("python train.py --lr 1", "train.py"),
        ("python3.11 -u -W error -X dev train.py", "train.py"),
        ("/usr/bin/python3 -- train.py", "train.py"),
        ("python train", "train"),
        ("python -m train.py", None),
        ("python -uc pass train.py", None),
        ("python - train.py", None),
        ("python --version train.py", None),
        ("python -Wcommon train.py", "train.py"),
        ("bash -eo pipefail run.sh", "run.sh"),
        ("bash --norc run.sh", "run.sh"),
        ("sh --cpus 2", None),
        ("sh -s run.sh", None),
        ("bash -lc 'python train.py'", "train.py"),
        ("bash -e -c '# all\nset -e\npython train.py\npython next.py'", "train.py"),
        ("bash -c './make.sh && python train.py'", None),
        ("bash -c 'cd src; python deep.py'", None),
        ("bash -c 'make'", None),
        ("bash -c 'python $FILE'", None),
        ('bash -c "python \'half"', None),
        ("Rscript --vanilla fit.R 3", "fit.R"),
        ("Rscript -e 1 fit.R", None),
        ("julia -p 4 --project=. x.jl", "x.jl"),
        ("perl -lane print x.pl", None),
        ("ruby x.rb", "x.rb"),
        ("node --require ./a.js b.js", None),
        ("octave-cli x.m", "x.m"),
        ("nice -n 5 python train.py", "train.py"),
        ("env A=b python train.py", "train.py"),
        ("mpirun -n 4 python -u train.py", "train.py"),
        ("srun --chdir=src python deep.py", None),
        ("env -C src python deep.py", None),
        ("torchrun --nproc_per_node 2 train.py", "train.py"),
        ("conda run -n env python train.py", "train.py"),
        ("uv --quiet run --with numpy python train.py", "train.py"),
        ("conda create -y -n env python numpy", None),
        ("mamba install -y python numpy", None),
        ("uv python install 3.12", None),
        ("uv venv --python python3.12 .venv", None),
        ("pixi add python numpy", None),
        ("tar cf x.tar train.py", None),
        ("", None),
    ],
)
def test_the_file_that_an_interpreter_runs_is_found(command: str, file: str | None) -> None:
    try:
        words = shlex.split(command)
    except ValueError:
        words = ["bash", "-c", "python 'half"]
    assert _interpreters.file_of(words) == file


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["python", "trian.py"], "train.py"),
        (["python3", "-u", "trian.py", "--lr", "1"], "train.py"),
        (["python", "deep.py"], "src/deep.py"),
        (["python", "src/train.py"], "train.py"),
        (["python", "scr/deep.py"], "src/deep.py"),
        (["python", "src/depe.py"], "src/deep.py"),
        (["bash", "rum.sh"], "run.sh"),
        (["bash", "-c", "python trian.py"], "train.py"),
        (["nice", "python", "trian.py"], "train.py"),
        (["python", "model.py"], None),
        (["python", "/nowhere/train.py"], "train.py"),
    ],
)
@pytest.mark.parametrize("copy", [False, True], ids=["in place", "copy"])
def test_a_file_that_is_not_there_is_refused_with_the_one_meant(
    work: Path, words: list[str], meant: str | None, copy: bool
) -> None:
    words = [sys_python() if one in ("python", "python3") else one for one in words]
    with pytest.raises(UsageError, match="there is no file") as caught:
        script = _scripts.describe(words, copy=copy)
        _copies.plan(script)
    assert str(caught.value).partition("; did you mean ")[2] == (f"{meant}?" if meant else "")


def sys_python() -> str:
    return sys.executable


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["train.py"], {}),
        (["src"], {}),
        (["-m", "nowhere"], {}),
        (["later.py"], {"after": ["1"]}),  # which makes it
        (["there.py"], {"is_far": True}),
    ],
)
def test_what_can_be_there_later_or_elsewhere_is_accepted(work: Path, words: list[str], options: Any) -> None:
    assert _scripts.describe([sys_python(), *words], **options).argv[1:] == words


def test_a_shell_script_on_the_path_is_accepted(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "src" / "tool").write_text("")
    with pytest.raises(UsageError, match="no file 'tool'"):
        _scripts.describe(["sh", "tool"])
    monkeypatch.setenv("PATH", str(work / "src"), prepend=":")
    assert _scripts.describe(["sh", "tool"]).argv == ["sh", "tool"]


def test_a_file_that_may_not_be_looked_at_is_accepted(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", refuse)
        _interpreters.check_file(["python", "trian.py"], str(work), {})


def test_a_file_of_a_copy_can_come_from_another_job(work: Path) -> None:
    script = _scripts.describe([sys_python(), "made.py"], copy=True)
    assert _copies.plan(script, reused=["1/made.py"]).script is script
    with pytest.raises(UsageError, match=r"no file 'made\.py'"):
        _copies.plan(script)
    far = _scripts.describe(["python", "/opt/made.py"], is_far=True)
    assert _copies.plan(far, root=str(work)).script is far  # an absolute path is one of that machine


def test_a_mistyped_file_of_a_submission_file_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "job.yaml").write_text("run: python3 trian.py\n")
    assert cli("job", "submit", "--dry-run", "job.yaml") == 2
    assert "did you mean train.py?" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("python", ["nopython", "./nopython", "/nowhere/python3", "./train.py"])
def test_an_interpreter_of_a_setup_that_is_not_here_is_refused(work: Path, python: str) -> None:
    with pytest.raises(UsageError, match=r"python: there is no program .* name another one, or leave --python out"):
        _scripts.describe(["true"], setup="pip install x", python=python)
    assert _scripts.describe(["true"], setup="pip install x", python=python, is_far=True)
    assert _scripts.describe(["true"], setup="pip install x", python=sys_python())
