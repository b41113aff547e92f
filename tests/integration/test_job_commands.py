"""`ports job`, as a user types it: a script from its submission to its end, whatever is killed meanwhile."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ports import clusters, sessions
from ports.errors import PortsError
from ports.state.waiting import wait_until
from tests.integration.conftest import Home

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a script leaves is adopted on Linux only"),
]


@pytest.fixture(scope="module")
def home(home_of_jobs: Home) -> Home:
    """The home with a compute resource."""
    return home_of_jobs


def submitted(home: Home, *words: str) -> str:
    """Submit a job of one core, and return its id."""
    done = home.ports("job", "submit", "--cpus", "1", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def show(home: Home, id: str) -> dict[str, Any]:
    return dict(home.json("job", "show", id))


def waited(home: Home, id: str, *, within: str = "60") -> str:
    """Wait for a job, and return its state."""
    done = home.ports("job", "wait", "--within", within, id, timeout=90)
    assert done.returncode in (0, 8), done.stderr
    return str(show(home, id)["state"])


def until_running(home: Home, id: str) -> dict[str, Any]:
    """Wait until a job runs, and return what its launcher has noted."""
    wait_until(lambda: show(home, id)["state"] == "running" or None, timeout=60, what=f"job {id}", every=0.1)
    work = Path(next(home.state.glob(f"hosts/*/jobs/work/{id}")))
    return dict(json.loads((work / "running.json").read_text()))


@pytest.mark.parametrize(
    ("script", "state", "reason"),
    [
        ("exit 0", "finished", None),
        ("exit 3", "error", "exit status 3"),
        ("kill -SEGV $$", "error", "signal 11 (SIGSEGV)"),
    ],
)
def test_a_script_ends_in_a_true_state(home: Home, script: str, state: str, reason: str | None) -> None:
    id = submitted(home, "sh", "-c", script)
    done = home.ports("job", "wait", id)
    assert done.returncode == (0 if state == "finished" else 8), done.stderr
    row = show(home, id)
    assert (row["state"], row.get("reason"), row["attempt"]) == (state, reason, 1)
    assert [one["state"] for one in row["transitions"]] == ["pending", "running", state]
    assert reason is None or f"job {id} failed: {reason}; `ports job logs {id}` shows more" in done.stderr


def test_a_script_runs_as_it_was_typed_and_its_output_is_apart(home: Home) -> None:
    code = "echo out $PWD $OMP_NUM_THREADS $MY_VARIABLE $PORTS_ATTEMPT; umask; echo err >&2"
    id = submitted(home, "--environ", "MY_VARIABLE=mine", "sh", "-c", code)
    assert waited(home, id) == "finished"
    done = home.ports("job", "logs", id)
    assert done.stdout.splitlines()[0] == f"out {home.work} 1 mine 1" and done.stderr == "err\n"
    assert home.ports("job", "logs", "--stderr", id).stdout == ""
    stamped = home.ports("job", "logs", "--stamps", "--stdout", "-n", "1", id).stdout
    assert stamped[23:25] == "Z " and home.json("job", "logs", id)["lines"][-1]["stream"] == "stderr"


def test_follow_shows_the_output_and_ends_with_the_job(home: Home) -> None:
    words = ("job", "submit", "--cpus", "1", "--follow")
    done = home.ports(*words, "--", "sh", "-c", "echo one; sleep 0.3; echo two; echo err >&2; exit 5")
    assert (done.returncode, done.stdout) == (8, "one\ntwo\n")
    assert "err\n" in done.stderr and "failed: exit status 5" in done.stderr
    assert home.ports(*words, "--exit-code", "--", "sh", "-c", "exit 5").returncode == 5
    done = home.ports(*words, "--json", "--", "sh", "-c", "echo out; exit 6")
    assert (done.returncode, json.loads(done.stdout)["note"]["status"]) == (8, 6) and "out\n" in done.stderr
    assert home.ports(*words, "--", "true").returncode == 0


def test_ctrl_c_without_a_terminal_leaves_the_job_running(home: Home) -> None:
    command = [sys.executable, "-m", "ports", "job", "submit", "--cpus", "1", "--follow", "--"]
    script = "echo begun; sleep 2; echo done"
    following = subprocess.Popen(
        [*command, "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert following.stdout is not None and following.stdout.readline() == "begun\n"
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=30)
    id = next(line for line in said.splitlines() if line.startswith("job ")).removeprefix("job ")
    assert following.returncode == 130 and f"job {id} goes on; `ports job logs -f {id}` follows it again" in said
    done = home.ports("job", "logs", "-f", id)  # which ends with the job
    assert done.stdout == "begun\ndone\n" and show(home, id)["state"] == "finished"


def test_no_value_of_the_environment_stays_or_is_shown(home: Home) -> None:
    id = submitted(home, "--environ", "TOKEN=s3cr3t-words", "sh", "-c", "sleep 0.5; echo ${#TOKEN}")
    (kept,) = home.state.glob("hosts/*/jobs/environs/*")
    assert kept.stat().st_mode & 0o777 == 0o600 and "s3cr3t-words" in kept.read_text()
    assert waited(home, id) == "finished" and home.ports("job", "logs", id).stdout == "12\n"
    wait_until(lambda: not kept.exists() or None, timeout=10, what="the end of its environment")
    everything = [path for path in home.state.rglob("*") if path.is_file() and b"s3cr3t-words" in path.read_bytes()]
    assert everything == [] and "s3cr3t" not in home.ports("job", "show", "--json", id).stdout


def test_a_cancelled_script_is_ended_with_all_it_started(home: Home) -> None:
    id = submitted(home, "sh", "-c", "setsid sleep 600 & echo $!; wait")
    until_running(home, id)
    wait_until(lambda: home.ports("job", "logs", id).stdout or None, timeout=10, what="its output")
    done = home.ports("job", "cancel", id)
    assert f"{id}: ending" in done.stdout and waited(home, id) == "cancelled"
    pid = int(home.ports("job", "logs", id).stdout)
    wait_until(lambda: not psutil.pid_exists(pid) or None, timeout=20, what="the end of what it started")
    assert f"{id}: ended before" in home.ports("job", "cancel", id).stdout


def test_a_script_that_runs_too_long_is_ended(home: Home) -> None:
    id = submitted(home, "--timeout", "0.5s", "sleep", "60")
    assert waited(home, id) == "error" and "time" in show(home, id)["reason"]


def test_a_script_is_tried_again_and_finds_what_it_kept(home: Home) -> None:
    script = (
        "n=$(cat $PORTS_JOB_DIRECTORY/n 2>/dev/null || echo 0); echo $n $PORTS_ATTEMPT; echo 1 > $PORTS_JOB_DIRECTORY/n"
    )
    id = submitted(home, "--retries", "2", "sh", "-c", f"{script}; exit $((1 - n))")
    assert waited(home, id) == "finished"
    assert home.ports("job", "logs", id).stdout == "0 1\n1 2\n" and show(home, id)["attempt"] == 2


def test_a_job_begins_after_another_and_not_if_that_failed(home: Home) -> None:
    first = submitted(home, "sh", "-c", "sleep 0.5; echo first > made")
    second = submitted(home, "--after", first, "cat", "made")
    assert waited(home, second) == "finished" and home.ports("job", "logs", second).stdout == "first\n"
    wrong = submitted(home, "false")
    last = submitted(home, "--after", wrong, "true")
    assert waited(home, last) == "cancelled" and f"dependency {wrong} failed" in show(home, last)["reason"]


def test_jobs_without_a_number_of_cpus_run_one_after_another(home: Home) -> None:
    first = home.ports("job", "submit", "sleep", "600").stdout.strip()
    second = home.ports("job", "submit", "true").stdout.strip()
    until_running(home, first)
    assert "waits for" in home.ports("job", "why", second).stdout
    assert home.ports("job", "wait", "--within", "0.2", second).returncode == 6
    home.ports("job", "cancel", first)
    assert waited(home, second) == "finished"


def test_what_can_never_run_is_refused(home: Home) -> None:
    done = home.ports("job", "submit", "--cpus", "5000", "true")
    assert done.returncode == 2 and "it needs 5000 cpus, and this resource has" in done.stderr
    assert home.ports("job", "submit", "--after", "999999", "true").returncode == 3


def test_the_list_filters_and_has_lines_for_programs(home: Home) -> None:
    id = submitted(home, "--name", "of-the-list", "--tag", "study=a b", "true")
    waited(home, id)
    for words in (["--name", "of-the-list"], ["--tag", "study=a b"], ["--tag", "study"]):
        assert [row["id"] for row in home.json("job", "list", *words)] == [id]
    assert home.json("job", "list", "--state", "lost") == []
    (line,) = csv.DictReader(home.ports("job", "list", "--csv", "--name", "of-the-list").stdout.splitlines())
    assert (line["id"], line["state"], line["tags"]) == (id, "finished", "study=a b")
    table = home.ports("job", "list", "--name", "of-the-list").stdout.splitlines()
    assert table[0].split()[:3] == ["ID", "NAME", "STATE"] and table[1].split()[:3] == [id, "of-the-list", "finished"]


def test_the_list_is_shown_again_until_ctrl_c(home: Home) -> None:
    words = [sys.executable, "-m", "ports", "job", "list", "--watch"]
    with subprocess.Popen(words, cwd=home.work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        begun = 0
        while begun < 3:
            begun += watching.stdout.readline().startswith("ID ")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130 and watching.stderr.read() == ""


def test_a_job_from_a_file_runs_again(home: Home) -> None:
    (home.work / "job.yaml").write_text("run: |\n  echo from a file\n  false\n  echo never\ncpus: 1\nname: filed\n")
    id = home.ports("job", "submit", "job.yaml").stdout.strip()
    assert waited(home, id) == "error" and home.ports("job", "logs", id).stdout == "from a file\n"
    again = home.ports("job", "rerun", id).stdout.strip()
    assert int(again) > int(id) and waited(home, again) == "error" and show(home, again)["name"] == "filed"


def test_the_sentence_about_a_failed_job_leads_on(home: Home) -> None:
    id = submitted(home, "sh", "-c", "echo why; exit 1")
    said = home.ports("job", "wait", id).stderr
    assert f"`ports job logs {id}` shows more, `ports job rerun {id}` runs it again" in said
    assert home.ports("job", "logs", id).stdout == "why\n"
    again = home.ports("job", "rerun", id).stdout.strip()
    assert home.ports("job", "wait", again).returncode == 8
    said = home.ports("job", "show", "999999").stderr
    assert "`ports job list` shows what there is" in said and again in home.ports("job", "list").stdout
    assert "no job matches; `ports job list` shows all" in home.ports("job", "list", "--name", "nobody").stderr


def test_a_resource_that_drains_says_how_it_goes_on(home: Home) -> None:
    assert home.ports("resource", "drain").returncode == 0
    id = submitted(home, "true")
    assert "the resource drains: `ports resource resume` goes on" in home.ports("job", "why", id).stdout
    assert home.ports("resource", "resume").returncode == 0
    assert waited(home, id) == "finished"


def test_ctrl_c_at_a_terminal_asks_and_can_cancel(home: Home) -> None:
    script = "echo begun; sleep 600"
    words = [sys.executable, "-m", "ports", "job", "submit", "--cpus", "1", "--follow", "--", "sh", "-c", script]
    pid, terminal = os.forkpty()
    if not pid:
        os.execv(words[0], words)
    try:
        said = read_until(terminal, "begun")
        os.write(terminal, b"\x03")
        said += read_until(terminal, "ancel it?")
        os.write(terminal, b"c\n")
        said += read_until(terminal, "is being cancelled")
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    id = said.split("job ", 1)[1].split()[0]
    assert os.waitstatus_to_exitcode(status) == 130 and waited(home, id) == "cancelled"


def read_until(terminal: int, text: str) -> str:
    """Return what is printed until `text` is among it; lines can be broken anywhere."""
    found, end = "", time.monotonic() + 60
    while text not in " ".join(found.split()) and time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            found += os.read(terminal, 4096).decode(errors="replace")
    assert text in " ".join(found.split()), found
    return found


def test_what_functions_print_is_shown_for_each_job_of_a_map(home: Home) -> None:
    code = (
        "import ports, sys\n"
        "def fit(x):\n    print('out', x); print('err', x, file=sys.stderr)\n    return 1 / x\n"
        "jobs = ports.map(fit, [1, 0])\n"
        "print(jobs.id)\n"
    )
    done = home.python(code)
    assert done.returncode == 0, done.stderr
    id = done.stdout.strip()
    ended = home.ports("job", "wait", id)
    assert ended.returncode == 8 and f"`ports job show {id}` shows more" in ended.stderr
    shown = home.ports("job", "logs", f"{id}.1")
    assert (shown.stdout, shown.stderr) == ("out 0\n", "err 0\n")
    refused = home.ports("job", "logs", id)
    assert refused.returncode == 2 and f"name one of them: {id}.0" in refused.stderr
    assert "ZeroDivisionError" in home.ports("job", "show", f"{id}.1").stdout
    assert "1 finished, 1 error" in home.ports("job", "list").stdout


def test_why_says_what_the_cache_had_for_a_job(home: Home) -> None:
    code = (
        "import ports\n"
        "@ports.job(cache='use', version='1')\n"
        "def fit(x, y):\n    return x + y\n"
        "for pair in ((1, 2), (1, 3), (1, 2)):\n"
        "    job = fit.submit(*pair); job.result(60); print(job.id)\n"
    )
    done = home.python(code)
    assert done.returncode == 0, done.stderr
    first, second, third = (home.ports("job", "why", id).stdout for id in done.stdout.split())
    assert "it ran, because " in first
    assert "it ran, because argument 'y' of fit() differs from the entry of" in second
    assert "its result came from the cache" in third


def test_a_wait_goes_on_when_the_resource_is_killed(home: Home) -> None:
    id = submitted(home, "sh", "-c", "while [ ! -e over ]; do sleep 0.1; done")
    until_running(home, id)
    words = [sys.executable, "-m", "ports", "job", "wait", id]
    with subprocess.Popen(words, cwd=home.work, stderr=subprocess.PIPE, text=True) as waiting:
        asks = functools.partial(psutil.Process(waiting.pid).net_connections, "unix")
        wait_until(lambda: asks() or None, timeout=60, what="its connection to the resource")
        kill(home.json("resource", "show")["pid"])
        assert waiting.stderr is not None
        assert "no compute resource runs here, so nothing begins" in waiting.stderr.readline()
        (home.work / "over").touch()
        assert home.ports("resource", "start").returncode == 0
        assert waiting.wait(60) == 0


def test_removed_jobs_are_gone_with_their_output(home: Home) -> None:
    id = submitted(home, "--name", "to-remove", "echo", "x")
    waited(home, id)
    work = next(home.state.glob(f"hosts/*/jobs/work/{id}"))
    assert home.ports("job", "prune", "--older", "1h").stdout == "nothing to remove\n"
    assert work.exists() and home.json("job", "prune", "--older", "0", "--dry-run")["removed"]
    home.ports("job", "prune", "--older", "0")
    assert home.ports("job", "show", id).returncode == 3 and not work.exists()


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def lineage(process: psutil.Process) -> list[int]:
    """Return the pids of a process and of those above it; of one that has just ended, its own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process.pid, *(one.pid for one in process.parents())]
    return [process.pid]


def test_a_script_outlives_all_that_started_it(home: Home) -> None:
    """Worker, owner of the cluster, resource and tmux server are killed; what it becomes is known afterwards."""
    id = submitted(home, "sh", "-c", "while [ ! -e go ]; do sleep 0.1; done; echo survived; exit 7")
    (home.work / "go").unlink(missing_ok=True)
    running = until_running(home, id)
    owner = clusters.get("jobs").row()["pid"]
    below = psutil.Process(owner).children(recursive=True)
    workers = [one for one in below if running["process"]["pid"] not in lineage(one)]
    resource = home.json("resource", "show")["pid"]
    assert workers
    server = sessions.tmux_server_pid(home.runtime / "tmux.sock")
    for one in workers:
        kill(one.pid)
    for pid in (owner, resource, server):
        if pid:
            kill(pid)
    time.sleep(0.5)
    assert psutil.pid_exists(running["pid"]), "the script was ended"
    assert show(home, id)["state"] == "running"  # without a resource
    (home.work / "go").touch()
    work = next(home.state.glob(f"hosts/*/jobs/work/{id}"))
    wait_until(lambda: (work / "exit.json").exists() or None, timeout=20, what="its end")
    assert home.ports("resource", "start").returncode == 0
    assert waited(home, id) == "error" and show(home, id)["reason"] == "exit status 7"
    assert home.ports("job", "logs", id).stdout == "survived\n" and show(home, id)["attempt"] == 1


def test_a_script_goes_on_while_its_resource_is_stopped(home: Home) -> None:
    id = submitted(home, "sh", "-c", "while [ ! -e stopped ]; do sleep 0.1; done; echo done")
    until_running(home, id)
    done = home.ports("resource", "stop")
    assert done.returncode == 0, done.stderr
    with pytest.raises(PortsError):
        clusters.get("jobs")
    assert "running" in home.ports("job", "list").stdout
    (home.work / "stopped").touch()
    again = home.ports("job", "submit", "--cpus", "1", "--no-start", "echo", "waited").stdout.strip()
    assert "no compute resource runs here; `ports resource start` goes on" in home.ports("job", "why", again).stdout
    assert home.ports("job", "wait", "--within", "1", again).returncode == 6
    assert home.ports("resource", "start").returncode == 0
    assert waited(home, id) == "finished" and waited(home, again) == "finished"
