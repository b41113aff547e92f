"""`ports job submit --copy`, as a user types it: a script in a copy of its directory, and its output fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Home

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a script leaves is adopted on Linux only"),
]
TRAIN = """
import os, pathlib, sys
data = pathlib.Path("data/x.txt").read_text()
pathlib.Path("data/x.txt").write_text("changed by the job")
out = pathlib.Path("results/deep")
out.mkdir(parents=True)
(out / "model.bin").write_bytes(data.encode() * 1000)
(out.parent / "last").symlink_to("deep/model.bin")
pathlib.Path("other.txt").write_text("not in results")
print("read", data, "in", pathlib.Path.cwd().name, oct(os.umask(0)), flush=True)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def home(shared_home: Home) -> Iterator[Home]:
    """A home with a compute resource, which the first submission starts."""
    yield shared_home
    shared_home.ports("resource", "stop", "--now")


@pytest.fixture
def project(home: Home, tmp_path: Path) -> Home:
    """A home whose current directory is a project under git, with something that stays behind."""
    files = {"train.py": TRAIN, "data/x.txt": "12", ".gitignore": "*.log\n", "big.log": "1" * 2000, ".env": "A=b"}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for words in (["init", "-q"], ["add", "train.py", "data", ".gitignore"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, "commit", "-qm", "one"], cwd=tmp_path, check=True)
    return Home(home.state, home.runtime, home.disk, tmp_path)


def submitted(home: Home, *words: str) -> str:
    """Submit a job of one core that runs in a copy, wait for it, and return its id."""
    done = home.ports("job", "submit", "--cpus", "1", "--copy", *words)
    assert done.returncode == 0, done.stderr
    id = done.stdout.strip()
    assert home.ports("job", "wait", "--within", "60", id, timeout=90).returncode in (0, 8)
    return id


def test_a_failed_script_in_a_copy_keeps_its_output(project: Home) -> None:
    dry = project.ports("job", "submit", "--dry-run", "--copy", "--out", "results/", "python", "train.py", "3").stdout
    assert "3 files" in dry and "big.log (2 KiB, git ignores it)" in dry and ".env" in dry and "data/x.txt" in dry
    project.work.joinpath("train.py").write_text(f"{TRAIN}# not committed\n")
    id = submitted(project, "--out", "results/", sys.executable, "train.py", "3")
    project.work.joinpath("data/x.txt").write_text("later")
    row = project.json("job", "show", id)
    workspace = row["asked"]["script"]["workspace"]
    assert row["state"] == "error" and row["reason"] == "exit status 3"
    assert "read 12 in workspace 0o22" in project.ports("job", "logs", id).stdout
    assert len(workspace["commit"]) == 40 and workspace["dirty"]
    assert row["asked"]["script"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "+# not committed" in Path(row["files"]["patch"]).read_text()
    done = project.ports("job", "fetch", id)
    assert done.returncode == 0 and f"2 files (2 KiB) in job-{id}" in done.stdout, done.stderr
    fetched = project.work / f"job-{id}"
    assert (fetched / "results/deep/model.bin").read_text() == "12" * 1000
    assert os.readlink(fetched / "results/last") == "deep/model.bin" and not (fetched / "other.txt").exists()
    assert "2 were there already" in project.ports("job", "fetch", id).stdout


def test_without_out_what_the_script_made_or_changed_is_fetched(project: Home) -> None:
    id = submitted(project, sys.executable, "train.py", "0")
    found = project.json("job", "fetch", id, "--to", "there")
    assert found["n_files"] == 4 and found["directory"] == "there"
    made = sorted(str(path.relative_to(project.work / "there")) for path in (project.work / "there").rglob("*"))
    assert [one for one in made if "." in one and not one.startswith(".")] == [
        "data/x.txt",
        "other.txt",
        "results/deep/model.bin",
    ]
    assert (project.work / "data/x.txt").read_text() == "12"


def test_a_job_gets_the_output_of_another_and_runs_again_with_what_it_had(project: Home) -> None:
    first = submitted(project, "--out", "results", sys.executable, "train.py", "0")
    code = "import pathlib; print(len(pathlib.Path('results/deep/model.bin').read_bytes()))"
    second = submitted(project, "--reuse", f"{first}/results", sys.executable, "-c", code)
    assert project.ports("job", "logs", second).stdout == "2000\n"
    project.work.joinpath("data/x.txt").write_text("today")
    again = project.ports("job", "rerun", first).stdout.strip()
    project.ports("job", "wait", again)
    assert "read 12 in" in project.ports("job", "logs", again).stdout
    refused = project.ports("job", "submit", "--copy", "--reuse", f"{first}/none", "true")
    assert refused.returncode == 3 and f"no output '{first}/none'" in refused.stderr


def test_an_attempt_goes_on_in_the_copy_of_the_one_before(project: Home) -> None:
    script = "test -e made && echo again; touch made; test $PORTS_ATTEMPT = 2"
    id = submitted(project, "--retries", "1", "sh", "-c", script)
    assert project.ports("job", "logs", id).stdout == "again\n"


def test_prune_keeps_output_that_nobody_fetched(project: Home) -> None:
    fetched, kept = (submitted(project, "--name", "of-prune", "sh", "-c", f"echo {n} > out") for n in range(2))
    empty = submitted(project, "--name", "of-prune", "true")
    assert project.ports("job", "fetch", fetched).returncode == 0
    done = project.ports("job", "prune", "--older", "0")
    assert project.ports("job", "show", empty).returncode == 3  # it made nothing
    assert "kept, because nobody fetched their output" in done.stdout, done.stdout + done.stderr
    assert project.ports("job", "show", fetched).returncode == 3
    assert project.json("job", "fetch", kept)["n_files"] == 1
    assert project.ports("job", "prune", "--older", "0", "--unfetched").returncode == 0
    objects = next(project.state.glob("hosts/*/jobs/objects"))
    assert not list(objects.glob("??/*")) and not list((objects.parent / "workspaces").iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "results", "true"], "--out is for a copy; add --copy"),
        (["--copy", "--out", "../x", "true"], "outside of the copy"),
        (["--copy", "cat", "big.log"], "big.log would stay behind: git ignores it"),
        (["--copy", "--reuse", "12", "true"], "write JOB/PATH"),
    ],
)
def test_what_cannot_be_meant_is_refused(project: Home, words: list[str], said: str) -> None:
    done = project.ports("job", "submit", *words)
    assert done.returncode == 2 and said in " ".join(done.stderr.split())


def test_a_job_that_ran_in_place_has_nothing_to_fetch(project: Home) -> None:
    id = project.ports("job", "submit", "--cpus", "1", "true").stdout.strip()
    done = project.ports("job", "fetch", id)
    assert done.returncode == 2 and f"it ran in {project.work}, its files are there" in done.stderr


def test_an_object_that_is_missing_is_said_by_the_job(project: Home) -> None:
    id = submitted(project, "true")
    tree = project.json("job", "show", id)["asked"]["script"]["workspace"]["tree"]
    for path in project.state.glob(f"hosts/*/jobs/objects/{tree[:2]}/{tree[2:]}"):
        path.unlink()
    again = project.ports("job", "rerun", id).stdout.strip()
    assert project.ports("job", "wait", again).returncode == 8
    assert "the files of the job cannot be laid out" in project.ports("job", "logs", again).stderr
    assert json.loads(project.ports("job", "show", "--json", submitted(project, "true")).stdout)["state"] == "finished"


def test_a_setup_makes_the_environment_of_a_script_once(project: Home) -> None:
    make = "import sysconfig, pathlib; pathlib.Path(sysconfig.get_path('purelib'), 'made.py').write_text('x = 42')"
    (project.work / "make.py").write_text(make)
    (project.work / "use.py").write_text("import made, sys; print(made.x, sys.prefix)")
    told = project.ports("job", "submit", "--cpus", "1", sys.executable, "use.py")
    assert "made, which the script imports, is missing on" in told.stderr  # here, without a setup
    words = ("--setup", "python make.py", "python", "use.py")
    first, second = submitted(project, *words), submitted(project, *words)
    rows = [project.json("job", "show", id) for id in (first, second)]
    assert [row["state"] for row in rows] == ["finished", "finished"], rows
    out = [project.ports("job", "logs", "--stdout", id).stdout for id in (first, second)]
    assert out[0] == out[1] and out[0].startswith("42 ") and "/environments/" in out[0]
    logs = [project.ports("job", "logs", "--stderr", id).stderr for id in (first, second)]
    assert "making the environment of --setup" in logs[0] and logs[1] == ""
    failed = project.json("job", "show", submitted(project, "--setup", "echo why; exit 3", "python", "use.py"))
    assert (failed["state"], failed["reason"]) == ("error", "the setup failed: `echo why; exit 3`: exit status 3")
    assert project.ports("job", "logs", "--stdout", failed["id"]).stdout == "why\n"
    again = project.ports("job", "rerun", "--here", second)
    assert again.returncode == 0, again.stderr
    assert failed["note"]["size"] > 0
