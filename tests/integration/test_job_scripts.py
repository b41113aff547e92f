"""The launcher of a job's script: as it was typed, its output apart, its end noted, nothing of it left or lost."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ports import probe
from ports.errors import ConflictError
from ports.jobs import _logs
from ports.jobs._model import JobId, Lease
from ports.jobs._places import Places
from ports.jobs.resource import lease, oversee, script
from ports.state.waiting import wait_until

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a script leaves is adopted on Linux only"),
]
SHELL = {"PATH": os.defpath}


class Started:
    """A script that runs, with its directory."""

    def __init__(self, place: Path, line: str, **changes: Any) -> None:
        self.work, self.lease, self.attempt = place / "work", place / "lease", changes.get("attempt", 1)
        spec = {
            "argv": ["sh", "-c", line], "cwd": str(place), "umask": 0o022, "environ": SHELL, "attempt": 1,
            "log_bytes": 10_000_000, "lease": str(self.lease), "timeout": None, "memory": None, "grace": 0.5,
            "linger": 0.2, **changes,
        }  # fmt: skip
        self.running = script.launched(self.work, spec)

    def end(self) -> dict[str, Any]:
        """Return what was noted of the end."""
        path = self.work / "exit.json"
        wait_until(lambda: path.exists() or None, timeout=30, what="the end of the script")
        return dict(json.loads(path.read_text()))

    def text(self, stream: str = "stdout") -> str:
        """Return what it printed."""
        pieces, _ = _logs.last({stream: self.work / stream}, 0, stamped=True)
        return b"".join(one.text for one in pieces).decode()

    def said(self, text: str) -> None:
        """Wait until it has printed `text`."""
        wait_until(lambda: text in self.text() or None, timeout=20, what=f"{text!r} in its output")

    def is_leased(self) -> bool:
        """Tell whether a process of it holds the lease."""
        with contextlib.suppress(FileNotFoundError), self.lease.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def is_over(self) -> None:
        """Wait until nothing of it holds the lease."""
        wait_until(lambda: None if self.is_leased() else True, timeout=20, what="the end of the lease")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    started: list[Started] = []

    def make(line: str, **changes: Any) -> Started:
        started.append(Started(tmp_path, line, **changes))
        return started[-1]

    yield make
    for one in started:
        for who in (one.running["watcher"], one.running["process"]):
            with contextlib.suppress(OSError):
                os.kill(who["pid"], signal.SIGTERM)
        one.is_over()


def alive(pid: int) -> bool:
    return not probe.is_zombie(pid)


@pytest.mark.parametrize(
    ("line", "status", "number"),
    [("exit 0", 0, None), ("exit 3", 3, None), ("kill -KILL $$", None, 9), ("kill -SEGV $$", None, 11)],
)
def test_how_a_script_ended_is_noted(run: Any, line: str, status: int | None, number: int | None) -> None:
    one = run(line)
    noted = one.end()
    assert (noted["status"], noted["signal"], noted["ended"], noted["attempt"]) == (status, number, None, 1)
    assert noted["began_at"] <= noted["ended_at"] and noted["dropped"] == {"stdout": 0, "stderr": 0}
    assert stat.S_IMODE((one.work / "exit.json").stat().st_mode) == 0o600
    one.is_over()


def test_stdout_and_stderr_of_a_script_are_kept_apart_and_stamped(run: Any) -> None:
    one = run("echo out; echo err >&2; printf 'no end'")
    one.end()
    assert (one.text(), one.text("stderr")) == ("out\nno end", "err\n")
    assert all(line[23] == "Z" for line in (one.work / "stdout").read_text().splitlines())


def test_output_of_a_script_is_there_while_it_runs(run: Any, tmp_path: Path) -> None:
    one = run("printf 'half a li'; while [ ! -e go ]; do sleep 0.05; done; echo ne")
    one.said("half a li")
    (tmp_path / "go").touch()
    one.end()
    assert one.text() == "half a line\n"


def test_a_script_runs_as_it_was_typed(run: Any, tmp_path: Path) -> None:
    inside = tmp_path / "in here"
    inside.mkdir()
    environ = {**SHELL, "A": "b c\nd", "EMPTY": ""}
    one = run("pwd; umask; env; grep ^SigIgn /proc/self/status", cwd=str(inside), umask=0o027, environ=environ)
    assert one.end()["status"] == 0
    lines = one.text().splitlines()
    assert lines[:2] == [str(inside), "0027"] and "A=b c" in lines and "EMPTY=" in lines
    assert lines[-1].split()[1] == "0" * 16 and not [line for line in lines if line.startswith(("HOME=", "PORTS_"))]


def test_the_environment_of_a_script_is_on_no_disk_once_it_runs(run: Any) -> None:
    one = run("echo ready; sleep 60", environ={**SHELL, "SECRET": "s3cr3t-words"})
    one.said("ready")
    assert not [path for path in one.work.iterdir() if b"s3cr3t" in path.read_bytes()]
    command = Path(f"/proc/{one.running['process']['pid']}/cmdline").read_bytes()
    assert b"s3cr3t" not in command
    script.end(one.work, 1, "cancel")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"argv": ["/no/such/program"]}, "No such file"), ({"cwd": "/no/such/place"}, "No such file")],
)
def test_what_cannot_be_run_is_said_in_its_stderr(run: Any, changes: dict[str, Any], reason: str) -> None:
    one = run("", **changes)
    assert one.end()["status"] == 127
    assert "cannot run" in one.text("stderr") and reason in one.text("stderr")


def test_a_hundred_megabytes_of_output_are_bounded(run: Any) -> None:
    one = run("yes 'a line of thirty characters..' | head -c 100000000; echo last", log_bytes=1_000_000)
    noted = one.end()
    sizes = [path.stat().st_size for path in one.work.glob("stdout*")]
    assert len(sizes) == 2 and max(sizes) <= 1_000_000 and one.text().endswith("last\n")
    assert noted["dropped"]["stdout"] > 98_000_000 and noted["dropped"]["stderr"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own needs root")
def test_the_end_of_a_script_is_noted_on_a_disk_that_is_full(run: Any, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path / "work")], check=True)
    try:
        one = run("yes | head -c 1000000; exit 3")
        noted = one.end()
        one.is_over()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "work")], check=True)
    assert noted["status"] == 3 and noted["dropped"]["stdout"] > 500_000


def test_peak_memory_and_cpu_time_are_those_of_the_script(run: Any) -> None:
    code = "x = bytearray(200_000_000); [n * n for n in range(2_000_000)]"
    noted = run("", argv=[sys.executable, "-c", code]).end()
    assert 200_000_000 < noted["peak_memory"] < 400_000_000 and noted["cpu_time"] > 0.1


def test_what_a_script_leaves_running_is_ended_a_while_later(run: Any) -> None:
    one = run("(trap '' TERM; sleep 600) & echo $!; setsid sleep 600 & echo $!; exit 4", linger=1.0)
    assert one.end()["status"] == 4
    pids = [int(word) for word in one.text().split()]
    assert len(pids) == 2 and all(map(alive, pids)) and one.is_leased()  # its state is that of the main process
    one.is_over()
    wait_until(lambda: not any(map(alive, pids)) or None, timeout=10, what="the end of what it left")


def test_what_a_script_leaves_running_goes_on_where_that_is_wanted(run: Any) -> None:
    one = run("setsid sh -c 'sleep 1.5; echo later' & echo $!", linger=None)
    assert one.end()["status"] == 0
    one.is_over()
    assert "later" in one.text()


def test_a_script_that_closes_its_output_goes_on(run: Any) -> None:
    one = run("echo before; exec >&- 2>&-; sleep 0.5; exit 6")
    assert one.end()["status"] == 6 and one.text() == "before\n"


def test_a_script_that_changes_its_directory_has_its_output_where_it_was(run: Any) -> None:
    one = run("cd /; echo from $PWD; exit 0")
    assert one.end()["status"] == 0 and one.text() == "from /\n"


def test_a_cancelled_script_gets_sigterm_and_can_tidy_up(run: Any) -> None:
    one = run("trap 'echo tidied; exit 5' TERM; echo ready; while :; do sleep 0.05; done", grace=20)
    one.said("ready")
    assert script.end(one.work, 1, "cancel")
    noted = one.end()
    assert (noted["status"], noted["ended"]) == (5, "cancel") and one.text().endswith("tidied\n")


def test_a_script_that_ignores_sigterm_is_killed_with_its_children(run: Any) -> None:
    one = run("trap '' TERM; setsid sleep 600 & echo $!; echo ready; while :; do sleep 0.05; done")
    one.said("ready")
    script.end(one.work, 1, "cancel")
    noted = one.end()
    assert (noted["signal"], noted["ended"]) == (9, "cancel")
    one.is_over()
    assert not alive(int(one.text().split()[0]))


def test_a_former_attempt_cannot_be_ended(run: Any) -> None:
    one = run("echo ready; sleep 60", attempt=2)
    one.said("ready")
    assert not script.end(one.work, 1, "cancel") and one.is_leased()
    assert script.end(one.work, 2, "cancel") and one.end()["ended"] == "cancel"


def test_a_script_ends_at_its_time_limit(run: Any) -> None:
    noted = run("exec sleep 60", timeout=0.5).end()
    assert (noted["signal"], noted["ended"]) == (15, "timeout")


def test_a_script_with_too_much_memory_is_ended(run: Any) -> None:
    code = "import time; x = bytearray(300_000_000); time.sleep(60)"
    noted = run("", argv=[sys.executable, "-c", code], memory=100_000_000).end()
    assert (noted["signal"], noted["ended"]) == (9, "memory") and noted["peak_memory"] > 100_000_000


def test_all_processes_of_a_script_count_for_its_memory(run: Any) -> None:
    child = f'"{sys.executable}" -c "import time; x = bytearray(60_000_000); time.sleep(60)" &'
    assert run(f"for n in 1 2 3; do {child} done; wait", memory=150_000_000).end()["ended"] == "memory"


def test_a_script_outlives_the_outer_process_of_its_launcher(run: Any) -> None:
    one = run("echo ready; sleep 1; echo done; exit 7")
    one.said("ready")
    os.kill(one.running["process"]["pid"], signal.SIGKILL)
    noted = one.end()
    assert (noted["status"], noted["ended"]) == (7, None) and one.text() == "ready\ndone\n"


def test_a_script_whose_launcher_was_killed_is_noted_as_lost(run: Any) -> None:
    one = run("echo $$; sleep 60")
    one.said("\n")
    os.kill(one.running["watcher"]["pid"], signal.SIGKILL)
    noted = one.end()
    assert (noted["ended"], noted["status"], noted["reason"]) == ("lost", None, "its launcher was killed")
    one.is_over()
    assert not alive(int(one.text()))


def test_who_inherits_the_lease_shows_that_the_script_lives(run: Any) -> None:
    """Both processes of the launcher can be killed at once."""
    one = run("trap '' TERM; echo ready; sleep 2 & wait; sleep 0.5")
    one.said("ready")
    for who in ("process", "watcher"):
        os.kill(one.running[who]["pid"], signal.SIGKILL)
    assert one.is_leased() and not (one.work / "exit.json").exists()
    one.is_over()


def test_two_launchers_do_not_run_one_attempt(run: Any) -> None:
    one = run("echo ready; sleep 60")
    one.said("ready")
    with pytest.raises(ConflictError, match="runs already"):
        run("echo never")
    assert one.text() == "ready\n"


def test_the_next_attempt_goes_on_in_the_same_files(run: Any) -> None:
    one = run("echo first; exit 1")
    assert one.end()["attempt"] == 1
    one.is_over()
    two = run("echo second", attempt=2)
    wait_until(lambda: two.end()["attempt"] == 2 or None, timeout=20, what="the second end")
    assert two.text() == "first\nsecond\n"


def test_a_script_wears_the_mark_of_no_worker(run: Any, tmp_path: Path) -> None:
    """`orphans` would end it with the worker, and leave its zombie if it wore none."""
    sys.path.append(str(Path(probe.__file__).parents[1] / "clusters/owner"))
    from ports_owner import orphans

    code = (
        "import json, sys; from pathlib import Path; sys.path.append(sys.argv[1]); from ports_owner import orphans\n"
        "from ports.jobs.resource import script\n"
        "orphans.wear(int(sys.argv[2])); print(json.dumps(script.launched(Path(sys.argv[3]), json.loads(sys.argv[4]))))"
    )
    mark = orphans.new_mark()
    spec = {
        "argv": ["sleep", "600"], "cwd": "/", "umask": 0o022, "environ": SHELL, "attempt": 1, "log_bytes": 1_000_000,
        "lease": str(tmp_path / "lease"), "timeout": None, "memory": None, "grace": 0.5, "linger": 0.2,
    }  # fmt: skip
    work = tmp_path / "work"
    words = [sys.executable, "-c", code, sys.path[-1], str(mark), str(work), json.dumps(spec)]
    libc = __import__("ctypes").CDLL(None)
    libc.prctl(orphans.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # as the owner of a cluster
    try:
        running = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        pid = running["process"]["pid"]
        assert pid in probe.processes.children(os.getpid()) and orphans.mark_of(pid) not in (mark, None)
        assert orphans.end_left_by(mark) == 0 and alive(running["pid"])
        assert not {pid, running["pid"]} & set(orphans._below(os.getpid())) and probe.launchers.is_session(pid)
        script.end(work, 1, "cancel")
        wait_until(lambda: not alive(pid) or None, timeout=20, what="its end")
        orphans.reap()
        assert not Path(f"/proc/{pid}").exists()
    finally:
        script.end(work, 1, "cancel")
        libc.prctl(orphans.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def test_a_session_that_ends_spares_the_script_of_a_job(run: Any) -> None:
    """The cluster of the compute resource can be stopped, whose owner adopts the launcher."""
    one = run("echo ready; sleep 60")
    one.said("ready")
    launcher = psutil.Process(one.running["process"]["pid"])
    assert probe.launchers.is_launcher(launcher.cmdline()) and os.getsid(launcher.pid) == launcher.pid
    assert os.getsid(one.running["watcher"]["pid"]) == launcher.pid and launcher.parent().pid != os.getpid()


def test_a_starter_that_dies_leaves_a_script_that_is_seen(tmp_path: Path) -> None:
    """The worker is killed before the launcher has said a word: the lease is locked all the same."""
    work, go = tmp_path / "jobs" / "work" / "7", tmp_path / "go"
    places = Places(tmp_path / "jobs", tmp_path / "run")
    places.leases.mkdir(parents=True)
    held = Lease("job-7-1", str(places.lease_of("job-7-1")))
    assert oversee.left(places, JobId(7), 1) is None
    spec = {
        "argv": ["sh", "-c", f"until [ -e {go} ]; do sleep 0.05; done"], "cwd": "/", "umask": 0o022, "environ": SHELL,
        "attempt": 1, "log_bytes": 10_000_000, "lease": held.path, "timeout": None, "memory": None, "grace": 0.5,
        "linger": 0.2,
    }  # fmt: skip
    dies = "script._said = lambda source: os._exit(9)"
    words = f"import json, os, sys\nfrom pathlib import Path\nfrom ports.jobs.resource import script\n{dies}\n"
    words += "script.launched(Path(sys.argv[1]), json.loads(sys.argv[2]))"
    done = subprocess.run([sys.executable, "-c", words, str(work), json.dumps(spec)], check=False, timeout=30)
    assert done.returncode == 9
    found = oversee.left(places, JobId(7), 1)
    assert found is not None and lease.look(found).alive is True and found.slot == held.slot
    with pytest.raises(ConflictError, match="runs already"):
        script.launched(work, spec)
    assert oversee.left(places, JobId(7), 2) is None
    go.touch()
    wait_until(lambda: (work / "exit.json").exists() or None, timeout=30, what="the end of the script")
    assert oversee.left(places, JobId(7), 1) is not None
    wait_until(lambda: True if lease.look(held).alive is not True else None, timeout=20, what="the end of its lease")


def test_a_starter_that_dies_before_the_script_leaves_nothing(tmp_path: Path) -> None:
    places = Places(tmp_path / "jobs", tmp_path / "run")
    places.leases.mkdir(parents=True)
    words = "import os, sys\nfrom ports.jobs.resource import script\nscript._take(sys.argv[1])\nos._exit(9)"
    command = [sys.executable, "-c", words, str(places.lease_of("job-7-1"))]
    assert subprocess.run(command, check=False, timeout=30).returncode == 9
    assert places.lease_of("job-7-1").exists() and oversee.left(places, JobId(7), 1) is None
