"""The words of `ports job`: what a script's submission says, what is refused and how, what rows and sentences say."""

from __future__ import annotations

import datetime
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ports.cli import job_rows, tables
from ports.errors import UsageError
from ports.jobs import _durable, _places, _scripts, _where
from ports.jobs._model import Capacity

NOON = datetime.datetime(2026, 12, 1, 12, 0).timestamp()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))


def test_a_script_runs_where_and_how_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("CONDA_PREFIX", "/opt/conda/envs/fit")
    before = os.umask(0o027)
    try:
        found = _scripts.describe(["sh", "-c", "exit 3"])
    finally:
        os.umask(before)
    told = json.loads(found.blob("k" * 32))
    assert (told["argv"], told["directory"], told["umask"]) == (["sh", "-c", "exit 3"], str(tmp_path), 0o027)
    assert found.environ["OMP_NUM_THREADS"] == "3" and found.environ["CONDA_PREFIX"] == "/opt/conda/envs/fit"


def test_no_value_of_the_environment_is_in_the_queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOKEN", "s3cr3t-words")
    found = _scripts.describe(["true"], environ=["PASSWORD=s3cr3t-too"])
    assert "s3cr3t" not in json.dumps(found.submission.to_json()) + json.dumps(found.row()) + str(found.blob("key"))
    places = _places.make_places()
    _durable.write_together(files := found.environ_file(places, "0" * 32))
    (kept,) = files
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert json.loads(kept.read_text())["PASSWORD"] == "s3cr3t-too"


def test_libraries_get_as_many_threads_as_cpus_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    found = _scripts.describe(["true"], cpus=2.5, environ=["MKL_NUM_THREADS=1"])
    assert {one: found.environ[one] for one in _scripts.THREADS} == {
        "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "2",
        "PYTHON_CPU_COUNT": "2",
    }  # fmt: skip
    assert found.submission.needs.cpus == 2.5


def test_a_script_without_a_number_of_cpus_books_all_that_there_are() -> None:
    assert _scripts.describe(["true"]).submission.needs.on(Capacity(cpus=16)).cpus == 16
    assert _scripts.describe(["true"], cpus=2).submission.needs.on(Capacity(cpus=16)).cpus == 2
    again = _scripts.again(json.loads(json.dumps({**_scripts.describe(["true"]).row(), "id": "12"})))
    assert again.submission.needs.is_whole


def test_a_script_that_runs_again_asks_for_the_same(tmp_path: Path) -> None:
    first = _scripts.describe(["true"], cpus=2, timeout="1h", tag=["a=b"], name="fit")
    again = _scripts.again(json.loads(json.dumps({**first.row(), "id": "12"})))
    assert again.submission.needs == first.submission.needs and again.submission.timeout == 3600
    assert again.argv == ["true"] and again.submission.name == "fit" and again.submission.tags == {"a": "b"}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["python", "train.py", "--lr", "1"], "train.py"),
        (["python3.11", "-m", "package.fit"], "package.fit"),
        (["/usr/bin/python3", "-c", "print(1)"], "python3"),
        (["bash", "jobs/run.sh"], "run.sh"),
        (["./run.sh"], "run.sh"),
        (["sleep", "60"], "sleep"),
    ],
)
def test_a_script_has_a_name_in_lists_without_being_given_one(words: list[str], name: str) -> None:
    assert _scripts._name_of(words) == name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"argv": ["no-such-program"]}, "there is no program 'no-such-program' on your PATH"),
        ({"argv": ["train.yaml"]}, "there is no file 'train.yaml' in /"),
        ({"argv": ["train.yaml"], "is_far": True}, "there is no file 'train.yaml' in /"),
        ({"argv": ["python train.py"]}, "without the quotes, or `sh -c 'python train.py'`, it is a command"),
        ({"argv": ["./gone.sh"]}, "there is no program './gone.sh' in "),
        ({"argv": ["./plain.sh"]}, "./plain.sh is not executable; `chmod +x ./plain.sh`"),
        ({"argv": []}, "there is no command; write `ports job submit -- COMMAND …`"),
        ({"directory": "/no/such/place"}, "directory: /no/such/place does not exist"),
        ({"memory": "3 bananas"}, "memory: '3 bananas' is no size; write bytes, or 3GB, 512MiB"),
        ({"memory": "3h"}, "memory: '3h' is no size"),
        ({"timeout": "2 GB"}, "timeout: '2 GB' is no duration; write seconds, or 90m, 1h, 2d"),
        ({"timeout": "-5"}, "timeout: -5.0 is no number"),
        ({"tag": ["plain"]}, "tag: 'plain' is not NAME=VALUE"),
        ({"environ": ["NO_SUCH_VARIABLE_X"]}, "NO_SUCH_VARIABLE_X is not set here; write NO_SUCH_VARIABLE_X=VALUE"),
        ({"environ": ["=5"]}, "environ: '=5' is neither NAME nor NAME=VALUE"),
        ({"queue": "Not A Queue"}, "queue: 'Not A Queue' is no name"),
        ({"after": ["twelve"]}, "'twelve' is not the id of a job"),
        ({"at": "noonish"}, "at: 'noonish' is no time; write 18:00, 2026-12-24T08:00, or 2h for in two hours"),
        ({"gpus": -1}, "gpus: -1 is no whole number"),
    ],
)
def test_what_cannot_be_submitted_is_refused_with_the_way_out(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "plain.sh").write_text("exit 0")
    with pytest.raises(UsageError) as refused:
        _scripts.describe(**{"argv": ["true"], **changes})
    assert said in str(refused.value)


def test_a_program_that_is_not_executable_runs_after_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    with pytest.raises(UsageError, match=r"`chmod \+x ./run.sh`"):
        _scripts.describe(["./run.sh"])
    (tmp_path / "run.sh").chmod(0o755)
    assert _scripts.describe(["./run.sh"]).argv == ["./run.sh"]


def test_a_directory_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="the current directory is gone"):
        _scripts.describe(["true"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18:00", datetime.datetime(2026, 12, 1, 18, 0).timestamp()),
        ("9:30", datetime.datetime(2026, 12, 2, 9, 30).timestamp()),
        ("2026-12-24T08:00", datetime.datetime(2026, 12, 24, 8, 0).timestamp()),
        ("2026-12-24", datetime.datetime(2026, 12, 24).timestamp()),
        ("2026-12-24T08:00:00Z", datetime.datetime(2026, 12, 24, 8, tzinfo=datetime.timezone.utc).timestamp()),
        ("2h", NOON + 7200),
        ("90m", NOON + 5400),
    ],
)
def test_a_time_is_a_clock_a_date_or_a_duration_from_now(text: str, expected: float) -> None:
    assert _scripts.parse_time(text, NOON) == expected


@pytest.mark.parametrize("text", ["25:00", "", "soon", "2026-13-01", "-2h", "9999999999d"])
def test_another_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        _scripts.parse_time(text, NOON)


def test_a_file_has_the_options_by_name_and_the_command(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("run: |\n  cd data\n  python fit.py\ncpus: 2\nmemory: 3GB\nkeep-children: true\ntag: {a: b}\n")
    argv, options = _scripts.read_file(path)
    assert argv[-1] == "cd data\npython fit.py\n" and argv[1:3] == ["-e", "-c"]
    found = _scripts.describe(argv, **options).submission
    assert (found.needs.cpus, found.needs.memory, found.name) == (2, 3_000_000_000, "cd data")
    path.write_text("run: [python, fit.py, 3]")
    assert _scripts.read_file(path) == (["python", "fit.py", "3"], {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cpu: 2\nrun: x", "'cpu' is no option; did you mean cpus?"),
        ("cpus: 2", "`run` is missing; write `run: python train.py`"),
        ("run: ''", "`run` is missing"),
        ("run: [a, {b: c}]", "`run` is missing"),
        ("just text", "has no options; it needs at least `run: COMMAND`"),
        ("{", "is no YAML"),
        ("\udcff", "is no YAML"),
    ],
)
def test_a_file_that_is_wrong_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError) as refused:
        _scripts.read_file(tmp_path / "job.yaml")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("noted", "state", "reason"),
    [
        ({"status": 0, "signal": None, "ended": None}, "finished", ""),
        ({"status": 3, "signal": None, "ended": None}, "error", "exit status 3"),
        ({"status": None, "signal": 11, "ended": None}, "error", "signal 11 (SIGSEGV)"),
        ({"status": 0, "signal": None, "ended": "cancel"}, "cancelled", "it was cancelled"),
        ({"status": None, "signal": 15, "ended": "timeout"}, "error", "it ran out of its time"),
        ({"status": None, "signal": 9, "ended": "memory"}, "error", "it used more memory than it asked for"),
        ({"status": None, "signal": None, "ended": "lost", "reason": "gone"}, "lost", "gone"),
        ({"status": None, "signal": 15, "ended": "signal"}, "lost", "something else ended its launcher"),
        ({}, "lost", "nobody saw its end"),
    ],
)
def test_the_end_of_a_script_says_its_state(noted: dict[str, Any], state: str, reason: str) -> None:
    found, why = _scripts.verdict(noted)
    assert found == state and why.startswith(reason)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "job", "id": "12", "name": "train.py", "state": "running", "what": "script", "queue": "default",
        "priority": 0, "count": None, "counts": {}, "created_at": 1000.0, "began_at": 1010.0, "ended_at": None,
        "tags": {}, **changes,
    }  # fmt: skip


def test_a_row_of_the_list_says_how_long_and_why() -> None:
    assert job_rows.row(row(), 1075.0)["ran"] == "1 min"
    ended = job_rows.row(row(state="error", ended_at=1040.0, reason="exit status 3", peak_memory=3 << 30), 9999.0)
    assert (ended["ran"], ended["peak"], ended["reason"]) == ("30 s", "3.0 GiB", "exit status 3")
    pending = job_rows.row(row(state="pending", began_at=None, reason="waits for memory: bob active"), 1075.0)
    assert (pending["ran"], pending["age"], pending["reason"]) == ("", "1 min", "waits for memory: bob active")
    kept = row(state="finished", note={"status": 0, "size": 3 << 20})
    assert job_rows.row(kept, 9999.0)["size"] == job_rows.details(kept)["size"] == "3.0 MiB"
    of_map = job_rows.row(row(count=100, counts={"finished": 97, "error": 3}), 1075.0)
    assert of_map["reason"] == "100 jobs: 97 finished, 3 error"


def test_the_size_of_what_a_job_keeps_is_shown_where_there_is_room() -> None:
    rows = [{**job_rows.row(row(note={"size": 3 << 20}), 1075.0), "host": "server1"}]
    lines = tables.table(rows, "job", 1075.0)
    assert "SIZE" in tables.fit(lines, 120)[0] and "SIZE" not in tables.fit(lines, 40)[0]
    assert not any("3.0 MiB" in cell for line in tables.fit(lines, 40) for cell in line)


def test_rows_for_programs_have_sizes_in_bytes_and_the_exit_code() -> None:
    found = job_rows.document(row(state="error", note={"status": None, "signal": 9, "size": 4096}))
    assert (found["size_bytes"], found["exit_code"]) == (4096, 137)
    assert job_rows.document(row())["size_bytes"] is None
    assert set(row()) | {"size_bytes", "exit_code", "reason", "host"} <= {*job_rows.CSV, "kind"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "pending"}, "job 12 is pending: it waits for its turn"),
        ({"state": "pending", "reason": "waits for a GPU: 0 bob"}, "job 12 is pending: waits for a GPU: 0 bob"),
        (
            {"state": "error", "reason": "exit status 3"},
            "job 12 failed: exit status 3; `ports job logs 12` shows more, `ports job rerun 12` runs it again",
        ),
        ({"state": "cancelled", "reason": "dependency 11 failed"}, "job 12 is cancelled: dependency 11 failed"),
        (
            {"state": "pending", "reason": "Lost: the compute resource was stopped", "why": "no compute resource runs"},
            "job 12 is pending: no compute resource runs",
        ),
        ({"state": "finished"}, "job 12 is finished"),
        ({"state": "running", "count": 9, "counts": {"running": 9}}, "job 12 is running (9 running)"),
    ],
)
def test_a_sentence_says_why_a_job_is_in_its_state(changes: dict[str, Any], said: str) -> None:
    assert job_rows.sentence(row(**changes)) == said


def test_the_lines_of_a_job_name_its_end_and_what_it_used() -> None:
    shown = job_rows.details(
        row(
            state="error", ended_at=1040.0, attempt=2, peak_memory=3 << 30, cpu_time=12.34,
            asked={"needs": {"cpus": 2}, "script": {"argv": ["python", "a b.py"]}},
            note={"status": None, "signal": 11, "dropped": {"stdout": 4096}},
        )
    )  # fmt: skip
    assert shown["runs"] == "python 'a b.py'" and shown["ended by"] == "signal 11" and shown["needs"] == "2 cpus"
    assert shown["output lost"] == "4 KiB of stdout" and shown["cpu time"] == "12.3 s" and "queue" not in shown
    lines = job_rows.history({"transitions": [{"attempt": 1, "state": "lost", "at": 1.0, "reason": "killed"}]})
    assert lines[1].endswith("lost       attempt 1  killed")


@pytest.mark.parametrize(
    ("note", "code"), [({"status": 3}, 3), ({"signal": 9}, 137), ({"status": 0, "signal": None}, 0), ({}, None)]
)
def test_the_own_code_of_a_job_is_that_of_a_shell(note: dict[str, Any], code: int | None) -> None:
    assert job_rows.exit_code(row(note=note)) == code


def test_a_value_of_a_table_is_one_cell() -> None:
    assert job_rows.cell({"a": 1, "b": 2}) == "a=1 b=2" and job_rows.cell(None) == "" and job_rows.cell([1, 2]) == "1 2"


def cli(*words: str) -> int:
    from ports.cli import main

    return main.run(main.ports, list(words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "twelve"], "'twelve' is not the id of a job; an id is 12, or 12.7 for a job of a map"),
        (["show", "server1:twelve"], "'twelve' is not the id of a job"),
        (["show", ":12"], "':12' is not the id of a job"),
        (["wait", "12", "server1:12"], "these are jobs of this machine and server1; name jobs of one machine at once"),
        (["cancel", "-H", "server2", "server1:12"], "these are jobs of server1 and server2; name jobs of one machine"),
        (
            ["submit", "--after", "server1:12", "--", "true"],
            "'server1:12' is a job of server1; `ports job submit -H server1` runs there",
        ),
        (["shell", "-H", "server2", "server1:12"], "'server1:12' is a job of server1, not of server2; leave -H out"),
        (["list", "--state", "done"], "--state is 'done'; it must be one of"),
        (["list", "--watch", "--json"], "--watch has no end, but --json prints one document"),
        (["list", "--watch", "--csv"], "--watch has no end, but --csv prints one table"),
        (["logs", "-f", "--json", "12"], "--follow has no end, but --json prints one document"),
        (["submit"], "COMMAND...|FILE.yaml is missing"),
        (["submit", "--exit-code", "true"], "--exit-code is for --follow"),
        (["submit", "--timeout", "soon", "true"], "'soon' is no duration; write seconds, or 90m, 1h, 2d"),
        (["submit", "--cpus", "two", "true"], "--cpus is two; it must be a number of 0 or more"),
        (["submit", "--memory", "3h", "true"], "memory: '3h' is no size"),
        (["submit", "--environ", "NO_SUCH_VARIABLE_X", "true"], "NO_SUCH_VARIABLE_X is not set here"),
        (["submit", "job.yaml", "--cpus", "2"], "options are written before the file"),
        (["submit", ""], "there is no command; write `ports job submit -- COMMAND …`"),
        (["show", "-H", "gpu1,gpu2", "12"], "-H gpu1,gpu2 names several hosts; `ports job show` takes one"),
        (["submit", "--copy", "--in-place", "true"], "--copy and --in-place do not go together; leave one of them out"),
        (["submit", "-H", "server1", "--copy", "--in-place", "true"], "--copy and --in-place do not go together"),
        (["submit", "--out", "results", "true"], "--out is for a copy; add --copy, or leave it out"),
        (["submit", "--in-place", "--out", "results", "true"], "--out is for a copy; add --copy, or leave it out"),
        (["submit", "-H", "server1", "--in-place", "--out", "x", "true"], "--out is for a copy; leave --in-place out"),
        (["submit", "-H", "gpu1,", "true"], "'gpu1,' has an empty name; write gpu1,gpu2"),
        (["submit", "-H", "gpu1,gpu2", "--after", "12", "true"], "after: job 12 is of one machine; name that one"),
        (["submit", "-H", "gpu1,gpu2", "--reuse", "1/x", "true"], "reuse: 1/x is of one machine; name that one"),
        (["wait"], "ID is missing; write `ports job wait ID...`"),
        (["wait", "--within", "1x", "12"], "'1x' is no duration"),
    ],
)
def test_a_wrong_word_is_refused_with_the_way_out(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("job.yaml").write_text("run: 'true'")
    assert cli("job", *words) == 2
    shown = capsys.readouterr().err
    assert said in shown.replace("\n  ", " "), shown


def test_rows_of_a_host_have_its_ids_its_name_and_its_hints() -> None:
    found = _where.at_home("server1", [row(id="12", host="node-7", asked={"after": ["3"]}), {"id": None}])
    assert [one["id"] for one in found] == ["server1:12", None] and found[0]["host"] == "server1"
    assert found[0]["asked"]["after"] == ["server1:3"]
    assert _where.at_home("server1", {"removed": ["1"]}) == {"removed": ["server1:1"]}
    told = _where.at_home("server1", {"why": "the resource drains: `ports resource resume` goes on"})
    assert told == {"why": "the resource drains: `ports resource resume -H server1` goes on"}
    told = _where.at_home("server1", {"why": "no compute resource runs here; `ports resource start` goes on"})
    assert told == {"why": "no compute resource runs there; `ports resource start -H server1` goes on"}


def test_options_behind_the_command_are_the_commands_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("job", "submit", "--dry-run", "--json", "sh", "--cpus", "2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["asked"]["script"]["argv"] == ["sh", "--cpus", "2", "--json"] and told["id"] is None


def test_a_dry_run_shows_what_would_be_submitted_and_makes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli("job", "submit", "--dry-run", "--memory", "3GB", "--timeout", "1h", "--", "sleep", "60") == 0
    shown = capsys.readouterr().out
    assert "not submitted" in shown and "sleep 60" in shown and "3GB" in shown and "1 h" in shown
    assert not (tmp_path / "state").exists()


def test_options_of_the_command_line_win_over_those_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.yaml").write_text("run: sleep 60\ncpus: 2\nname: of-the-file")
    assert cli("job", "submit", "--dry-run", "--json", "--cpus", "4", "job.yaml") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["asked"]["needs"]["cpus"] == 4 and told["name"] == "of-the-file"


@pytest.mark.parametrize("words", [["list"], ["prune"]])
def test_looking_for_jobs_where_there_are_none_makes_nothing(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli("job", *words) == 0
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("words", [["show", "12"], ["logs", "12"], ["wait", "12"], ["cancel", "12"], ["why", "12"]])
def test_a_job_that_does_not_exist_is_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("job", *words) == 3
    assert "no job '12'; `ports job list` shows what there is" in capsys.readouterr().err


def test_fetch_names_the_directory_here_and_no_other_machine() -> None:
    row = {"id": "server1:12", "n_files": 1, "n_same": 0, "n_bytes": 7, "directory": "job-server1-12"}
    assert job_rows.fetched(row) == "1 file (7 B) in job-server1-12"


def test_no_more_of_a_copy_is_new_than_it_has() -> None:
    assert job_rows.copied({"n_files": 1, "n_bytes": 228, "n_new_bytes": 321}) == "1 file, 228 B, 228 B of it new"


@pytest.mark.parametrize("after", [["--after", "11,12"], ["--after", "11", "--after", "12"], ["--after", "11, 12"]])
def test_several_jobs_are_waited_for_with_commas_or_without(
    after: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("job", "submit", "--dry-run", "--json", *after, "--", "true") == 0
    assert json.loads(capsys.readouterr().out)["asked"]["after"] == ["11", "12"]


@pytest.mark.parametrize("after", ["11", "'11,12'", "[11, 12]", "'11'"])
def test_a_file_names_the_jobs_that_are_waited_for_in_each_way(after: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.yaml").write_text(f"run: 'true'\nafter: {after}\n")
    assert cli("job", "submit", "--dry-run", "--json", "job.yaml") == 0
    assert json.loads(capsys.readouterr().out)["asked"]["after"][0] == "11"


def test_ids_with_commas_are_several_where_several_are_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("job", "wait", "11,12") == 3 and "no job '11'" in capsys.readouterr().err
    assert cli("job", "show", "11,12") == 2
    assert "'11,12' is 2 ids, and one is meant here" in " ".join(capsys.readouterr().err.split())
    assert cli("job", "cancel", "11,x") == 2 and "'x' is not the id of a job" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "meant"),
    [("--directory", ""), ("--memry", "--memory"), ("--cpu", "--cpus"), ("--dry", "--dry-run"), ("--zzz", "")],
)
def test_an_option_is_meant_only_where_one_is_near(option: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("job", "submit", option, "x", "--", "true") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"no option '{option}'" in said and (f"did you mean `{meant}`" in said if meant else "mean" not in said)
