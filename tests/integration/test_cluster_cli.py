"""``ports cluster`` as it is typed: results on stdout, progress and errors on stderr, the documented exit codes."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
import yaml
from distributed import Client

import ports
from ports import clusters, sessions
from ports.state.waiting import wait_until
from tests.integration.conftest import Home
from tests.lab.laptop import without_waits

pytestmark = pytest.mark.ci

SMALL = ["--n-workers", "1", "--threads-per-worker", "1"]


@pytest.fixture(scope="module")
def main(shared_home: Home) -> Iterator[str]:
    done = shared_home.ports("cluster", "start", "main", *SMALL)
    assert done.returncode == 0, done.stderr
    yield done.stdout
    shared_home.ports("cluster", "stop", "main")


@pytest.mark.quick
def test_start_says_what_runs_and_what_to_type_at_home(main: str) -> None:
    lines = main.splitlines()
    assert lines[0] == "cluster 'main' runs: 1 worker with 1 thread"
    assert lines[1].startswith("at home:  ports open ") and lines[2].startswith("then:     http://localhost:")


@pytest.mark.quick
def test_list_is_a_table_for_people_and_json_for_programs(shared_home: Home, main: str) -> None:
    done = shared_home.ports("cluster", "list")
    heading, line = done.stdout.splitlines()
    assert heading.split()[:3] == ["NAME", "STATE", "WORKERS"] and line.split()[:3] == ["main", "running", "1"]
    [row] = shared_home.json("cluster", "list")
    assert {"host", "kind", "name", "state", "url"} <= set(row) and row["kind"] == "cluster"


@pytest.mark.quick
def test_show_names_the_tmux_line_and_the_log(shared_home: Home, main: str) -> None:
    shown = shared_home.ports("cluster", "show", "main").stdout
    assert "tmux -S " in shown and "attach-session -t =cluster-main" in shown
    assert "logs/cluster-main.log" in shown
    assert shared_home.json("cluster", "show")["name"] == "main"


@pytest.mark.quick
def test_logs_shows_the_last_lines(shared_home: Home, main: str) -> None:
    assert "runs at unix://" in shared_home.ports("cluster", "logs", "main").stdout
    assert len(shared_home.ports("cluster", "logs", "-n", "2").stdout.splitlines()) == 2
    assert len(shared_home.json("cluster", "logs", "main", "-n", "3")["lines"]) == 3
    assert not [
        line for line in shared_home.json("cluster", "logs", "--warnings")["lines"] if "runs at unix://" in line
    ]
    assert "http://127.0.0.1:0" not in shared_home.ports("cluster", "logs", "-n", "0").stdout  # nothing listens there
    refused = shared_home.ports("cluster", "logs", "-f", "--json")
    assert refused.returncode == 2 and "--follow has no end" in refused.stderr + refused.stdout


@pytest.mark.quick
def test_restart_keeps_name_and_link(shared_home: Home, main: str) -> None:
    before = shared_home.json("cluster", "show", "main")
    after = shared_home.json("cluster", "restart", "main")
    assert [after[key] for key in ("name", "link", "address", "pid")] == [
        before[key] for key in ("name", "link", "address", "pid")
    ]


@pytest.mark.parametrize(
    ("words", "code", "kind", "message"),
    [
        (["start", "main"], 4, "NameInUseError", "change it, `ports cluster stop main` stops it"),
        (["show", "nobody"], 3, "NotFoundError", "no cluster 'nobody'; there is main"),
        (["stop", "nobody"], 3, "NotFoundError", "no cluster 'nobody'; there is main"),
        (["logs", "nobody"], 3, "NotFoundError", "no cluster 'nobody'; there is main"),
        (["start", "Big One"], 2, "InvalidNameError", "'Big One' is not a name; use a letter a-z"),
        (["start", "x", "--n-workers", "-1"], 2, "UsageError", "--n-workers"),
        (
            ["start", "x", "--memory-limit", "much"],
            2,
            "UsageError",
            "memory_limit is 'much'; it must be bytes, 4GB",
        ),
        (["start", "x", "--option", "host=0.0.0.0"], 2, "UsageError", "option host='0.0.0.0' cannot be given"),
        (["start", "x", "--option", "novalue"], 2, "UsageError", "'novalue' is not NAME=VALUE"),
        (["start", "x", "--environ", "=1"], 2, "UsageError", "'=1' is not NAME=VALUE"),
        (["start", "x", "--env", "/nowhere"], 3, "EnvironmentNotFoundError", "/nowhere"),
        (["scale", "main", "many"], 2, "UsageError", "many"),
        (["scale"], 2, "UsageError", "N_WORKERS"),
        (["strat"], 2, "UsageError", "strat"),
        (
            ["start", "x", "--option", "no_such=1"],
            2,
            "UsageError",
            "there is no option no_such=1 of ports, or of Dask's",
        ),
        (
            ["start", "x", "--option", 'scheduler_kwargs={"idle_timeout": "soon"}'],
            5,
            "StartError",
            "did not start: exit status 1",
        ),
    ],
)
@pytest.mark.quick
def test_a_failure_is_one_line_an_exit_code_and_a_json_document(
    shared_home: Home, main: str, words: list[str], code: int, kind: str, message: str
) -> None:
    done = shared_home.ports("cluster", *words, "--json")
    assert done.returncode == code, done.stderr
    told = json.loads(done.stdout)["error"]
    assert (told["type"], told["exit_code"]) == (kind, code)
    assert message in told["message"]
    said = without_waits(done.stderr)
    assert said.startswith("ports: ") and "Traceback" not in said.partition("log: ")[0]
    assert code == 5 or len(said.splitlines()) == 1
    plain = shared_home.ports("cluster", *words)
    assert (plain.returncode, plain.stdout) == (code, "")


def test_stop_says_where_the_log_stays(home: Home) -> None:
    home.ports("cluster", "start", *SMALL)
    done = home.ports("cluster", "stop")
    assert done.returncode == 0 and done.stdout.startswith("cluster 'main' is stopped; its log stays: ")
    assert Path(done.stdout.rpartition(": ")[2].strip()).exists()
    done = home.ports("cluster", "list")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "no clusters; `ports cluster start` starts one\n"
    assert home.json("cluster", "list") == []


#: Whether this version of Dask says why a future is cancelled.
HAS_REASONS = "reason" in inspect.signature(Client._handle_cancelled_keys).parameters
NOTEBOOK = """
import asyncio, sys, time, ports
client = ports.client()
held = client.submit(sum, [1, 2])
held.result()
for _ in range(2):
    waiting = client.submit(time.sleep, 120, pure=False)
    print("waits", flush=True)
    try:
        waiting.result()
    except (Exception, asyncio.CancelledError) as error:
        print(str(error).replace("\\n", " "), flush=True)
while client.status != "closed":
    time.sleep(0.05)
print("closed", client.cluster.status)
"""


@pytest.mark.ci
def test_a_stop_from_elsewhere_says_so_at_once_and_in_quiet(home: Home) -> None:
    home.ports("cluster", "start", *SMALL)
    with subprocess.Popen(
        [sys.executable, "-c", NOTEBOOK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home.work
    ) as notebook:
        assert notebook.stdout is not None and notebook.stderr is not None
        assert notebook.stdout.readline() == "waits\n"
        wait_until(lambda: clusters.get().row()["n_running"] or None, timeout=20, what="a task that runs")
        restarted = home.ports("cluster", "restart")
        assert restarted.stdout.splitlines()[0].endswith("; 1 running task ended"), restarted
        cancelled = notebook.stdout.readline()
        assert "scheduler-restart" in cancelled or not HAS_REASONS
        assert notebook.stdout.readline() == "waits\n"
        wait_until(lambda: clusters.get().row()["n_running"] or None, timeout=20, what="a task that runs")
        stopped = home.ports("cluster", "stop")
        assert "'main' is stopped; 1 running task ended; its log stays: " in stopped.stdout
        why = "it was stopped, by `ports cluster stop` or by stop() in Python; ports.client('main') starts it again"
        reason, status = notebook.stdout.read().splitlines()
        if HAS_REASONS:
            assert "cancelled for reason: cluster-stopped. cluster 'main' ended at " in reason and reason.endswith(why)
        assert status == "closed closed"
        said = notebook.stderr.read().splitlines()
        assert [line for line in said if line.endswith(why)] != []
        # a reconnect takes 10 s; a traceback is that of a client that did not understand what it got
        assert [line for line in said if "Failed to reconnect" in line or "Traceback" in line] == []
    logged = home.ports("cluster", "logs", "-n", "0").stdout
    _, stop, ended = logged.partition("cluster main: stop")
    assert stop and "Traceback" not in ended, ended
    assert [line for line in ended.splitlines() if "WARNING" in line or "ERROR" in line] == []


# --- options: on the command line, in Python, and in the settings ---

EXPECTED = {
    "n_workers": 0,
    "threads_per_worker": 2,
    "memory_limit": 500_000_000,
    "daemon": True,
    "worker_start": "spawn",
    "environ": {"A_VARIABLE": "7"},
    "options": {"resources": {"GPU": 1}},
}


def started_by_the_command_line(home: Home) -> None:
    words = ["--n-workers=0", "--threads-per-worker=2", "--memory-limit=500MB", "--daemon", "--worker-start=spawn"]
    done = home.ports("cluster", "start", *words, "--environ", "A_VARIABLE=7", "--option", 'resources={"GPU": 1}')
    assert done.returncode == 0, done.stderr


def started_in_python(home: Home) -> None:
    clusters.start(
        n_workers=0,
        threads_per_worker=2,
        memory_limit="500MB",
        daemon=True,
        worker_start="spawn",
        environ={"A_VARIABLE": 7},
        resources={"GPU": 1},
    )


def started_from_settings(home: Home) -> None:
    directory = Path(os.environ["DASK_CONFIG"])
    directory.mkdir()
    settings = {**EXPECTED, "memory_limit": "500MB", "environ": {"A_VARIABLE": 7}}
    written = {key.replace("_", "-"): value for key, value in settings.items()}
    (directory / "mine.yaml").write_text(yaml.safe_dump({"ports": {"cluster": written}}))
    done = home.ports("cluster", "start")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("start", [started_by_the_command_line, started_in_python, started_from_settings])
def test_options_mean_the_same_everywhere(home: Home, start: object) -> None:
    start(home)  # type: ignore[operator]
    record = clusters.get("main").record.to_json()
    assert {name: record[name] for name in EXPECTED} == EXPECTED


@pytest.mark.quick
def test_a_wrong_setting_names_file_key_and_value(home: Home) -> None:
    directory = Path(os.environ["DASK_CONFIG"])
    directory.mkdir()
    (directory / "ports.yaml").write_text("ports:\n  cluster:\n    worker-start: fork\n")
    done = home.ports("cluster", "start")
    assert done.returncode == 2
    for part in (directory / "ports.yaml", "ports.cluster.worker_start", "'fork'", "spawn", "forkserver"):
        assert str(part) in done.stderr


# --- interrupted ---


@pytest.mark.parametrize("after", [0.08, 0.25, 0.4, 0.55, 0.8, 1.2])
def test_an_interrupted_start_leaves_nothing_half_started(home: Home, after: float) -> None:
    command = [sys.executable, "-m", "ports", "cluster", "start", "main", *SMALL]
    starting = subprocess.Popen(
        command, cwd=home.work, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        starting.wait(after)  # the moment is the parameter of this test; nothing is waited for
    with contextlib.suppress(ProcessLookupError):  # on a quick machine it has started
        os.killpg(starting.pid, signal.SIGINT)
    out, err = starting.communicate(timeout=30)
    if starting.returncode == 0 or (after < 0.2 and starting.returncode != 130):
        return  # it was up already, or Python itself was still starting
    assert (starting.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "ports: interrupted" and "Traceback" not in err
    assert clusters.list() == []
    wait_until(lambda: not home.processes() or None, timeout=10, what="end of all processes")
    assert [name for name in home.files() if name != "cluster-main.log"] == []


@pytest.mark.parametrize("moment", ["claimed", "launching", "launched"])
def test_a_start_that_was_killed_can_be_made_again(home: Home, moment: str) -> None:
    """SIGKILL: nothing can be cleaned up, so the next start has to."""
    command = [sys.executable, "-m", "ports", "cluster", "start", "main", *SMALL]
    starting = subprocess.Popen(command, cwd=home.work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    files = sessions.files("cluster", "main")

    def reached() -> bool | None:
        if moment == "claimed":
            return files.record.exists() or None
        launching = files.launch.exists() or b"launch.json" in b"".join(command_lines(home))
        return (launching and (moment == "launching" or not files.launch.exists())) or None

    wait_until(reached, timeout=10, what="the claim", every=0.001)
    starting.kill()
    starting.communicate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ports.client(n_workers=1, threads_per_worker=1, reuse="any") as client:
            assert client.submit(sum, [1, 2]).result() == 3
    assert len(list(home.disk.iterdir())) == 1


def command_lines(home: Home) -> list[bytes]:
    return [Path(f"/proc/{one.pid}/cmdline").read_bytes() for one in home.processes() if one.is_running()]


# --- another environment ---


def test_a_cluster_runs_in_another_environment(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(other)], check=True, timeout=60)
    packages = next(other.glob("lib/python*/site-packages"))
    for package in Path(dask.__file__).parents[1].iterdir():
        if "ports" not in package.name and "editable" not in package.name and package.suffix != ".pth":
            (packages / package.name).symlink_to(package)
    found = clusters.start("main", env=str(other), n_workers=1, threads_per_worker=1)
    assert found.record.interpreter == str(other / "bin" / "python")

    def look() -> tuple[str, str | None]:
        return sys.prefix, os.environ.get("VIRTUAL_ENV")

    with Client(found) as client:
        assert client.submit(look, pure=False).result() == (str(other), str(other))
        found.restart()
        assert client.submit(look, pure=False).result() == (str(other), str(other))
    with pytest.warns(UserWarning, match=f"its interpreter is {other}/bin/python, not {sys.executable}"):
        ports.cluster()
    with Client(ports.cluster(env=str(other), reuse="exact")) as client:
        assert client.submit(sum, [1, 2]).result() == 3


@pytest.mark.quick
def test_output_may_be_piped_to_a_program_that_ends_early(shared_home: Home, main: str) -> None:
    line = f"{sys.executable} -m ports cluster logs main -n 0 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=shared_home.work, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
