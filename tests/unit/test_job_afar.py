"""`ports job … -H far`: what home asks through a session, and shows. The queue is on the disk; no resource runs."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ports
from ports import __main__, hosts
from ports.cli import main
from ports.jobs import _afar, _client, _copies, _logs, _model, _needed_there, _places, _scripts, _there
from ports.jobs._store import Store
from ports.jobs.resource import lay_out

FOLLOWED = 1200  # lines


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home from which the alias `far` leads to this machine, where no compute resource runs."""
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hosts, "resolve", lambda _: hosts.here())
    yield tmp_path
    _client.disconnect()


def cli(*words: str) -> int:
    return main.run(main.ports, ["job", *words])


def submit(*words: str) -> int:
    return cli("submit", "-H", "far", "--no-start", *words)


def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_script_waits_there_where_no_resource_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--name", "lr", "--tag", "study=1", "--", "sh", "-c", "exit 3", "--json") == 0
    told = capsys.readouterr()
    assert told.out == "far:1\n" and "jobs and what they print are kept on far below" in told.err
    assert submit("--", "true") == 0 and "kept on far" not in capsys.readouterr().err
    assert cli("show", "far:1", "--json") == 0
    row = shown(capsys)
    assert (row["id"], row["host"], row["state"], row["tags"]) == ("far:1", "far", "pending", {"study": "1"})
    assert row["asked"]["script"]["argv"] == ["sh", "-c", "exit 3", "--json"]
    assert cli("why", "far:1") == 0
    assert "no compute resource runs there; `ports resource start -H far` goes on" in " ".join(
        capsys.readouterr().out.split()
    )
    assert cli("wait", "--within", "0.1", "far:1", "far:2") == 6
    assert "no compute resource runs on far, so nothing begins; `ports resource start -H far`" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ([], ["far:3", "far:2", "far:1"]),
        (["--newest", "1"], ["far:3"]),
        (["--name", "lr"], ["far:2"]),
        (["--tag", "study"], ["far:3", "far:1"]),
        (["--tag", "study=1"], ["far:1"]),
        (["--queue", "night"], ["far:2"]),
        (["--search", "LR"], ["far:2"]),
        (["--search", "true study=2"], ["far:3"]),
        (["--state", "pending", "--tag", "study=2"], ["far:3"]),
        (["--state", "finished"], []),
    ],
)
def test_the_list_of_another_machine_is_filtered_there(
    words: list[str], ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    machine = _afar.Afar("far")
    for options in ({"tag": ["study=1"]}, {"name": "lr", "queue": "night"}, {"tag": ["study=2"]}):
        machine.submit_script(_scripts.describe(["true"], is_far=True, **options), start=False)  # type: ignore[arg-type]
    assert cli("list", "-H", "far", "--json", *words) == 0
    assert [row["id"] for row in shown(capsys)] == ids
    assert cli("list", "-H", "far", "--csv", *words) == 0
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [line["id"] for line in lines] == ids and all(line["state"] == "pending" for line in lines)


def test_a_list_without_a_match_leads_to_the_whole_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("list", "-H", "far", "--tag", "x") == 0
    assert capsys.readouterr().err == "no job matches; `ports job list -H far` shows all\n"
    assert cli("list", "-H", "far") == 0
    assert capsys.readouterr().err == "no jobs; `ports job submit -H far` submits one\n"


def test_a_job_that_another_machine_does_not_have_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["show", "far:9"], ["logs", "far:9"], ["wait", "far:9"], ["cancel", "far:9"], ["rerun", "far:9"]):
        assert cli(*words) == 3, words
        told = " ".join(capsys.readouterr().err.split())
        assert "far: no job '9'; `ports job list -H far` shows what there is" in told, words


def test_variables_go_to_a_private_file_there_and_nowhere_else(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    assert submit("--cpus", "2", "--environ", "TOKEN=s3cr3t", "--", "true") == 0
    (kept,) = _places.here().environs.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600 and json.loads(kept.read_text()) == {"TOKEN": "s3cr3t"}
    others = [path for path in (home / "state").rglob("*") if path.is_file() and path != kept]
    assert others and not any(b"s3cr3t" in path.read_bytes() for path in others)
    left = next(path for path in _places.here().submissions.iterdir()).read_bytes()
    assert b'"OMP_NUM_THREADS": "2"' in left and b'"directory": "~"' in left and str(home).encode() not in left


def test_a_file_of_options_is_submitted_from_home(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(home))
    (home / "runs").mkdir()
    (home / "train.yaml").write_text("run: |\n  echo hello\nname: night\ncpus: 1\nlifetime: 2h\ndirectory: runs\n")
    assert submit("--json", "train.yaml") == 0
    row = shown(capsys)
    assert row["asked"]["script"]["argv"] == ["bash", "-e", "-c", "echo hello\n"] and row["name"] == "night"
    assert (row["asked"]["lifetime"], row["asked"]["directory"]) == (7200, "~/runs")
    (home / "train.yaml").write_text("run: true\nmemry: 3GB\n")
    assert submit("train.yaml") == 2
    assert "train.yaml: 'memry' is no option; did you mean memory?" in " ".join(capsys.readouterr().err.split())


def project(home: Path, monkeypatch: pytest.MonkeyPatch, name: str = "home/project") -> Path:
    """Make a directory below a home, and go there."""
    monkeypatch.setenv("HOME", str(home / "home"))
    (home / name).mkdir(parents=True)
    monkeypatch.chdir(home / name)
    (home / name / "train.py").write_text("print(42)")
    return home / name


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str, str | None]:
    """Submit; return what was said, the directory, and the root of what was sent."""
    assert submit(*words) == 0
    said = capsys.readouterr().err
    row = _afar.Afar("far").list_jobs(newest=1)[0][0]
    told = _afar.Afar("far").show(row["id"])["asked"]
    return " ".join(said.split()), told["directory"], (told["script"].get("workspace") or {}).get("root")


def test_the_directory_is_sent_and_what_stays_behind_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project(home, monkeypatch)
    (root / ".env").write_text("TOKEN=1")
    said, _, sent = asked(capsys, "--", "python3", "train.py")
    assert sent == str(root) and "sent 1 file, 9 B" in said
    assert "stays behind: .env (7 B, it can be a secret, and git does not track it)" in said
    assert cli("submit", "-H", "far", "--dry-run", "--json", "--", "python3", "train.py") == 0
    assert shown(capsys)["workspace"]["n_files"] == 1
    (root / "train.yaml").write_text("run: python3 train.py\nout: results\n")
    assert asked(capsys, "train.yaml")[2] == str(root)
    assert submit("--", "python3", ".env") == 2 and ".env would stay behind" in capsys.readouterr().err


def test_in_place_sends_nothing_and_means_the_same_path_there(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project(home, monkeypatch)
    said, directory, sent = asked(capsys, "--in-place", "--", "python3", "train.py")
    assert (directory, sent) == ("~/project", None) and "sent" not in said
    monkeypatch.setattr(_scripts, "_same_there", lambda: "~/not-there")
    (home / "home" / "train.py").touch()
    (home / "home" / "runs").mkdir()
    (home / "home" / "runs" / "train.py").touch()
    said, directory, sent = asked(capsys, "--in-place", "--", "python3", "train.py")
    assert "~/not-there is not on far: the job runs in your home there; without --in-place, files are sent" in said
    assert (directory, sent) == ("~", None)
    (root / "train.yaml").write_text("run: python3 train.py\nin_place: true\ndirectory: runs\n")
    assert asked(capsys, "train.yaml")[1:] == ("~/runs", None)
    (root / "train.yaml").write_text("run: python3 train.py\ncopy: true\nout: results\n")
    assert asked(capsys, "--in-place", "train.yaml")[2] is None
    (root / "train.yaml").write_text("run: python3 train.py\nin_place: true\n")
    assert asked(capsys, "--copy", "train.yaml")[2] == str(root)


def test_a_path_outside_of_the_home_is_the_same_there(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project(home, monkeypatch, "homes/project")
    assert asked(capsys, "--in-place", "--", "true")[1] == str(root)


@pytest.mark.parametrize("what", ["your home", "above your home", "a directory of all users"])
def test_no_home_is_sent_and_a_command_without_files_runs(
    what: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project(home, monkeypatch)
    root = {"your home": root.parent, "above your home": home}.get(what, root)
    root.chmod(0o1777 if what.startswith("a") and root.name == "project" else 0o755)
    monkeypatch.chdir(root)
    said, directory, sent = asked(capsys, "--", "true")
    assert f"{root} is {what}, so nothing is sent: the job runs in your home on far" in said
    assert (directory, sent) == ("~", None)
    (root / "true").touch()
    (root / "train.py").touch()
    assert asked(capsys, "--", "true", "/etc/hosts", "~/x", "--train.py")[1] == "~"


NAMING = [
    ["--", "python3", "train.py"],
    ["--", "./train.py"],
    ["--", "sh", "-c", "cd / && python3 train.py"],
    ["--", "python3", "-m", "x", "--config=train.py"],
    ["--setup", "sh train.py", "--", "true"],
    ["train.yaml"],
]


def test_a_command_that_names_a_file_of_a_home_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project(home, monkeypatch, "home")
    (root / "train.py").chmod(0o755)
    (root / "train.yaml").write_text("run: |\n  module load x\n  python train.py\n")
    for words in NAMING:
        assert submit(*words) == 2, words
        said = " ".join(capsys.readouterr().err.split())
        assert "train.py is in" in said and "your home, which is not sent to far; `cd` to" in said, words
        assert "--in-place uses the files that far has" in said
    assert asked(capsys, "--in-place", *NAMING[0])[1:] == ("~", None)
    assert submit("--copy", "--", "python3", "train.py") == 2 and "is your home;" in capsys.readouterr().err
    assert asked(capsys, "--send-all", "--", "python3", "train.py")[2] == str(root)


def test_jobs_are_cancelled_and_run_again_from_home(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--", "echo", "one") == 0 and submit("--after", "far:1", "--", "true") == 0
    assert cli("rerun", "--no-start", "far:1") == 0
    assert capsys.readouterr().out.split() == ["far:1", "far:2", "far:3"]
    assert cli("cancel", "far:1", "far:3") == 0
    assert capsys.readouterr().out == "far:1, far:3: cancelled\n"
    assert cli("wait", "far:3") == 8
    assert "job far:3 is cancelled: you cancelled it" in capsys.readouterr().err
    assert cli("show", "far:2", "--json") == 0 and shown(capsys)["asked"]["after"] == ["far:1"]


def printed(n: int) -> bytes:
    return b"".join(
        b"2026-11-30T11:%02d:%02d.%03dZ line %d\n" % (i // 60000, i // 1000 % 60, i % 1000, i) for i in range(n)
    )


def test_output_there_is_read_in_parts_and_across_the_rotation(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--", "true") == 0
    work = _places.here().work / "1"
    work.mkdir(parents=True, mode=0o700)
    lines = printed(30_000).splitlines(keepends=True)
    (work / "stdout.1").write_bytes(b"".join(lines[:25_000]))
    (work / "stdout").write_bytes(b"".join(lines[25_000:]))
    capsys.readouterr()
    assert cli("logs", "-n", "0", "far:1") == 0
    assert capsys.readouterr().out.splitlines() == [f"line {i}" for i in range(30_000)]
    assert cli("logs", "-n", "6000", "--stdout", "--stamps", "far:1") == 0
    assert capsys.readouterr().out.splitlines() == [line.decode().rstrip() for line in lines[24_000:]]
    assert ports.jobs.get("far:1").logs().count("\n") == 30_000  # type: ignore[union-attr]
    assert cli("logs", "--stderr", "far:1") == 0 and capsys.readouterr() == ("", "")


def test_a_session_that_is_cut_repeats_and_loses_no_line_of_the_output() -> None:
    machine = _afar.Afar("far")
    machine.submit_script(_scripts.describe(["true"], is_far=True), start=False)
    work = _places.here().work / "1"
    work.mkdir(parents=True, mode=0o700)
    lines = printed(FOLLOWED).splitlines(keepends=True)
    found, n_looks = machine.output("far:1"), 0

    def is_over() -> bool:
        """Print a little more, move the file away now and then, and cut the session: before each look, or between."""
        nonlocal n_looks
        part = lines[n_looks * 100 : (n_looks + 1) * 100]
        n_looks += 1
        with (work / "stdout").open("ab") as file:
            file.writelines(part)
        if n_looks % 5 == 0:
            (work / "stdout").rename(work / "stdout.1")
        if n_looks % 4 == 0:
            _client.connection("far", start=False)._socket.close()
        return n_looks > FOLLOWED // 100

    seen = []
    for pieces, _ in _logs.follow(found.files, {}, stamped=True, is_over=is_over, every=0.01):
        seen += [one.text for one in pieces]
    assert b"".join(seen).splitlines() == [b"line %d" % i for i in range(FOLLOWED)]


def test_a_wait_goes_on_where_the_way_is_cut_as_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = _afar.Afar("far")
    machine.submit_script(_scripts.describe(["true"], is_far=True), start=False)
    assert machine.cancel(["far:1"])["cancelled"] == ["far:1"]
    real, failed = _there.connect, list[str]()

    def connect(alias: str, **options: Any) -> Any:
        if len(failed) < 2:
            failed.append(alias)
            raise ports.errors.NetworkError(alias, "no route to host")
        return real(alias, **options)

    monkeypatch.setattr(_there, "connect", connect)
    _client.connection("far", start=False)._lose("it was cut")
    (row,) = machine.wait(["far:1"])
    assert row["state"] == "cancelled" and failed == ["far", "far"]


def test_a_refused_script_leaves_no_variables_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ask = [], _client.ask

    def refuse(op: str, *blobs: Any, **fields: Any) -> Any:
        asked.append(op)
        if op == "submit":
            raise ports.errors.UsageError("this job can never run here")
        return ask(op, *blobs, **fields)

    monkeypatch.setattr(_client, "ask", refuse)
    with pytest.raises(ports.errors.UsageError):
        _afar.Afar("far").submit_script(_scripts.describe(["true"], environ=["A=b"], is_far=True), start=False)
    assert "submit" in asked and list(_places.here().environs.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [ports.errors.StoreError("x", "is full"), ports.errors.NotFoundError("job", "9", "list")],
    ids=["full", "unknown"],
)
@pytest.mark.parametrize("op", ["submit", "disk.environ"])
def test_a_submission_that_fails_leaves_nothing_that_was_kept(
    op: str, error: Exception, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = _client.ask
    project(home, monkeypatch)

    def fail(asked: str, *blobs: Any, **fields: Any) -> Any:
        if asked == op and (blobs[0] if blobs else None):
            raise error
        return ask(asked, *blobs, **fields)

    monkeypatch.setattr(_client, "ask", fail)
    script = _scripts.describe(["true"], environ=["A=b"], is_far=True)
    with pytest.raises(type(error)):
        _afar.Afar("far").submit_script(_copies.plan(script, root=str(Path.cwd())), start=False)
    places = _places.here()
    assert list(places.objects.glob("??/*")) != [] and list(places.workspaces.iterdir()) == []
    assert not places.environs.exists() or list(places.environs.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--memory", "3TB"], "far: this job can never run here: it needs 3TB of memory, and this resource has 8GB"),
        (["--gpus", "1"], "it needs 1 gpu, and this resource has none"),
        (["--cpus", "5"], "it needs 5 cpus, and this resource has 4"),
        (["--after", "77"], "far: no job '77'; `ports job list -H far` shows what there is"),
        (["--after", "far:77"], "no job '77'"),
    ],
)
def test_what_never_runs_there_is_refused_before_files_are_sent(
    options: list[str], says: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project(home, monkeypatch)
    ask = _client.ask

    def running(op: str, *blobs: Any, **fields: Any) -> Any:
        found = ask(op, *blobs, **fields)
        if op == "status":
            found.header["capacity"] = {"cpus": 4, "memory": 8 * 10**9, "gpus": [], "tags": []}
        return found

    monkeypatch.setattr(_client, "ask", running)
    assert submit(*options, "--", "python3", "train.py") in (2, 3)
    said = capsys.readouterr()
    assert says in " ".join(said.err.split()) and "sent" not in said.err and said.out == ""
    assert list(_places.here().objects.glob("??/*")) == []
    assert submit("--memory", "3GB", "--cpus", "4", "--", "true") == 0


def test_a_machine_knows_its_own_name_in_the_ids_of_jobs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user copies ``server1:12`` from home, and types it on server1."""
    assert cli("submit", "--no-start", "true") == 0
    assert cli("submit", "--no-start", "--after", "localhost:1", "--", "true") == 0
    assert cli("submit", "--no-start", "-H", "localhost", "--after", "1,localhost:2", "--", "true") == 0
    (home / "next.yaml").write_text("run: 'true'\nafter: [localhost:1, 2]\n")
    assert cli("submit", "--no-start", "next.yaml") == 0
    assert cli("wait", "--within", "0", "1", "localhost:2") == 6
    assert cli("cancel", "-H", "localhost", "1", "localhost:2", "127.0.0.1:3") == 0
    capsys.readouterr()
    assert cli("show", "localhost:4", "--json") == 0 and shown(capsys)["asked"]["after"] == ["1", "2"]


def test_a_file_of_options_names_jobs_as_home_calls_them(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--", "true") == 0
    for text in ("far:1", "[far:1]", "1", "far:1, 1"):
        (home / "next.yaml").write_text(f"run: 'true'\nin_place: true\nafter: {text}\n")
        assert submit("next.yaml") == 0, capsys.readouterr().err
    (home / "next.yaml").write_text("run: 'true'\nin_place: true\nafter: near:1\n")
    assert submit("next.yaml") == 2
    assert "'near:1' is a job of near; `ports job submit -H near` runs there" in " ".join(
        capsys.readouterr().err.split()
    )


def job_with_output(home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Submit far:1, which ends with output, from a project; return the project and what far:1 has there."""
    root = project(home, monkeypatch)
    (root / "results").mkdir()
    (root / "results" / "old").write_text("old")
    (root / "results" / "x").write_text("before")
    assert submit("--out", "results", "--", "true") == 0 and cli("cancel", "far:1") == 0
    there = _places.here().copy_of(_model.JobId(1))
    (there / "results" / "deep" / "er").mkdir(parents=True)
    (there / "results" / "x").write_text("new")
    (there / "results" / "deep" / "er" / "run").write_text("#!/bin/sh")
    (there / "results" / "deep" / "er" / "run").chmod(0o755)
    (there / "results" / "link").symlink_to("deep/er")
    (there / "other").write_text("no output")
    return root, there


@pytest.mark.parametrize("reused", ["far:1/results/", "1/"])
def test_output_of_a_job_there_goes_into_the_copy_of_another(
    reused: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = job_with_output(home, monkeypatch)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert submit("--reuse", reused, "--", "cat", "train.py") == 0
    told = _afar.Afar("far").show("far:2")["asked"]["script"]["workspace"]
    lay_out.lay_out(str(_places.here().objects), told["tree"], str(home / "laid"))
    found = {str(path.relative_to(home / "laid")): path for path in (home / "laid").rglob("*") if not path.is_dir()}
    assert sorted(found) == ["results/deep/er/run", "results/old", "results/x", "train.py"]
    assert found["results/x"].read_text() == "new" and found["results/old"].read_text() == "old"
    assert os.access(found["results/deep/er/run"], os.X_OK)
    assert os.readlink(home / "laid" / "results" / "link") == "deep/er" and told["reuse"] == [reused]
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before  # nothing came home
    assert submit("--", "cat", "train.py") == 0
    assert _afar.Afar("far").show("far:3")["asked"]["script"]["workspace"]["tree"] != told["tree"]
    assert cli("rerun", "--no-start", "--here", "far:2") == 0
    assert _afar.Afar("far").show("far:4")["asked"]["script"]["workspace"]["tree"] == told["tree"]


REFUSED = [
    ("far:1", 2, "'far:1' has no path; write JOB/PATH, for example far:1/results"),
    ("server9:1/results", 2, "job server9:1 is of server9, and this one runs on far; `ports job fetch server9:1`"),
    ("far:1/other", 3, "no output 'far:1/other'; `ports job fetch far:1` shows what there is"),
    ("far:1/../../2", 3, "no output"),
    ("far:2/results", 2, "job far:2 is pending; its output can be reused once it has ended"),
    ("far:9/results", 3, "no job '9'"),
    ("far:x/results", 2, "is not the id of a job"),
]


def test_what_cannot_be_reused_there_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = job_with_output(home, monkeypatch)
    assert submit("--", "true") == 0
    for reused, code, said in REFUSED:
        capsys.readouterr()
        assert submit("--reuse", reused, "--", "true") == code, reused
        assert said in " ".join(capsys.readouterr().err.split()), reused
    assert len(list(_places.here().workspaces.iterdir())) == 2  # of the two jobs
    (root / "results" / "x").unlink()
    (root / "results" / "x").mkdir()
    (root / "results" / "x" / "y").touch()
    assert submit("--reuse", "1/results", "--", "true") == 2
    assert "x of another job does not fit: a file is where" in " ".join(capsys.readouterr().err.split())


def test_prune_where_no_job_ever_ran_removes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that has python3 only never runs one."""
    assert submit("--", "true") == 0 and cli("cancel", "far:1") == 0
    capsys.readouterr()
    assert cli("prune", "-H", "far", "--older", "0") == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    assert cli("show", "far:1") == 0


def test_prune_without_a_resource_is_done_by_ports_there(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places, asked = _places.make_places(), []
    Store.open(places).close()

    def run_ports(host: str, words: list[str], **_: object) -> dict[str, Any]:
        asked.append((host, words))
        return {"removed": ["3", "4"], "unfetched": ["5"], "dry_run": True}

    monkeypatch.setattr(hosts, "run_ports", run_ports)
    assert cli("prune", "-H", "far", "--older", "7d", "--keep-failed", "--dry-run", "--json") == 0
    assert shown(capsys)["removed"] == ["far:3", "far:4"]
    assert asked == [("far", ["job", "prune", "--older", "7d", "--keep-failed", "--dry-run"])]


@pytest.mark.parametrize(
    ("words", "begun"),
    [
        (["submit", "-H", "server1", "--", "ssh", "-H", "x"], ["server1"]),
        (["submit", "-H", "gpu1,gpu2", "train.yaml"], ["gpu1", "gpu2"]),
        (["logs", "-f", "server1:12"], ["server1"]),
        (["wait", "server1:12", "server1:13.7"], ["server1"]),
        (["wait", "server1:12", "server2:13"], []),
        (["shell", "server1:12"], []),
        (["submit", "-H", "server1", "--dry-run", "true"], []),
        (["submit", "-H", "-oProxyCommand=x", "true"], []),
        (["list"], []),
    ],
)
def test_the_way_to_a_host_is_begun_while_the_command_is_read(
    words: list[str], begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    monkeypatch.setattr(ports.jobs, "begin", found.append, raising=False)
    __main__._begin(["job", *words])
    assert found == begun


def test_what_fails_while_the_way_is_begun_is_raised_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(alias: str) -> object:
        raise ports.errors.UnknownHostError(alias, "no such name")

    monkeypatch.setattr(hosts, "resolve", unknown)
    _client.begin("far")
    monkeypatch.setattr(hosts, "resolve", lambda _: hosts.here())
    with pytest.raises(ports.errors.UnknownHostError):
        _client.connection("far", start=False)
    assert _client.connection("far", start=False).resource["protocol"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--in-place", "--", "pyhton", "x.py"], "no program 'pyhton' on the PATH of your login shell on far"),
        (["--in-place", "--", "./run.sh"], "there is no program './run.sh' on far"),
        (["--in-place", "--", "python3", "trian.py"], "there is no file 'trian.py' in "),
        (["--", "pyhton", "train.py"], "no program 'pyhton' on the PATH of your login shell on far"),
        (["--", "python3.99", "train.py"], "no program 'python3.99' on the PATH of your login shell on far"),
        (["--", "python3", "trian.py"], "did you mean train.py?"),
        (["--", "python3", "/nowhere/train.py"], "there is no file '/nowhere/train.py' in ~ on far"),
        (
            ["--setup", "true", "--python", "nopython", "--", "tool"],
            "python: there is no program 'nopython' on the PATH",
        ),
        (["file.yaml"], "directory: ~/nowhere does not exist on far"),
    ],
)
def test_what_is_surely_not_there_is_refused_at_the_submission(
    words: list[str], said: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "work").mkdir()
    monkeypatch.chdir(home / "work")
    Path("train.py").write_text("import json\n")
    Path("file.yaml").write_text("run: 'true'\ndirectory: nowhere\n")
    assert submit(*words) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert cli("list", "-H", "far", "--json") == 0 and shown(capsys) == []
    kept = list(_places.here().workspaces.glob("*"))
    assert kept == []  # nothing is kept for it


@pytest.mark.parametrize(
    "words",
    [
        ["--environ", "PATH=/opt", "--", "tool-of-opt"],
        ["--setup", "true", "--", "tool-of-the-setup"],
        ["--after", "far:1", "--in-place", "--", "python3", "made-by-1.py"],
        ["--", "python3", "train.py"],
        ["--", "sh", "-c", "tool"],
    ],
)
def test_what_can_be_there_is_submitted(words: list[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "work").mkdir()
    monkeypatch.chdir(home / "work")
    Path("train.py").write_text("")
    assert submit("--", "true") == 0
    assert submit(*words) == 0


def test_a_machine_without_python3_for_its_login_shell_refuses_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "sh").write_text("#!/bin/sh\nexit 127\n")
    (home / "sh").chmod(0o755)
    monkeypatch.setenv("SHELL", str(home / "sh"))
    assert submit("--in-place", "--", "pyhton", "x.py") == 0


def test_what_every_machine_has_costs_no_question() -> None:
    script = _scripts.describe(["sleep", "1"], is_far=True)
    assert _needed_there.names(script, has_files=True) == {}
    other = _scripts.describe(["bash", "run.sh"], is_far=True)
    assert _needed_there.names(other, has_files=True) == {}
    assert _needed_there.names(other, has_files=False) == {"file": ("run.sh", os.F_OK, True)}
