"""What a co-user, a web page or a second start of the same name could do, and does not."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ports import clusters, probe
from ports.errors import NameInUseError
from ports.sessions import _tmux, processes
from ports.state.waiting import wait_until
from tests.integration.conftest import Home

pytestmark = pytest.mark.ci

SMALL = {"n_workers": 1, "threads_per_worker": 1}
# Ignores SIGTERM, and starts sessions of its own again and again: what a task may do.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
children = []
print("ready", flush=True)
for _ in range(200):
    children.append(subprocess.Popen(["setsid", "sleep", sys.argv[1]]))
    time.sleep(0.05)
time.sleep(300)
"""


def test_an_old_handle_leaves_the_next_cluster_of_its_name_alone(home: Home) -> None:
    first = clusters.start("main", **SMALL)
    first.stop()
    second = clusters.start("main", **SMALL)
    with pytest.raises(NameInUseError, match="started again meanwhile"):
        first.stop()
    assert clusters.get("main").state == "running"
    with second.get_client() as client:
        assert client.submit(sum, [1, 2]).result() == 3
    second.stop()


def test_a_dashboard_answers_no_other_web_page(home: Home) -> None:
    started = clusters.start("main", **SMALL)

    def status(headers: dict[str, str]) -> int:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(started.record.dashboard)
        connection.request("GET", "/info/main/workers.html", headers=headers)
        return connection.getresponse().status

    assert status({"Host": "localhost:8880"}) == 200
    assert status({"Host": "localhost:8880", "Origin": "http://localhost:8880"}) == 200
    assert status({"Host": "evil.example"}) == 403
    for other in ("http://evil.example", "http://localhost:3000", "http://127.0.0.1:8880", "null"):
        assert status({"Host": "localhost:8880", "Origin": other}) == 403
    started.stop()


@pytest.mark.quick
def test_modules_of_the_current_directory_are_not_run_by_a_start(home: Home, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for name in ("tempfile", "uuid", "secrets"):
        (tmp_path / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write({name!r})\n")
    command = ["cluster", "start", "--no-processes", "--n-workers", "1"]
    done = subprocess.run(
        [Path(sys.executable).parent / "ports", *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not ran.exists()
    clusters.get().stop()


TRAP = """
import sys
open({ran!r}, "a").write("{name}\\n")
here, saved = sys.path[:], sys.modules.pop("{name}")
sys.path[:] = [entry for entry in here if entry not in ("", {place!r})]
import {name} as real
sys.path[:], sys.modules["{name}"] = here, real
"""
STARTER = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
import distributed, functools, random, runpy, ports
sys.path.insert(0, "")  # as ipython does
if __name__ == "__main__":
    options = dict(n_workers=1, threads_per_worker=1)
    make = distributed.Client if not sys.argv[1] else functools.partial(ports.client, worker_start=sys.argv[1])
    with make(**options) as client:
        print(client.submit(lambda: __import__("of_mine").VALUE).result())
        print(client.run(lambda: (__import__("os").getcwd(), __import__("sys").path[:2])))  # the first one is Dask's
"""


@pytest.mark.parametrize("how", ["spawn", "forkserver", ""], ids=["spawn", "forkserver", "control, Dask alone"])
def test_workers_do_not_run_modules_of_the_current_directory(home: Home, tmp_path: Path, how: str) -> None:
    ran, place = tmp_path / "ran", tmp_path / "shared"
    place.mkdir()
    for name in ("random", "runpy", "tempfile"):
        (place / f"{name}.py").write_text(TRAP.format(ran=str(ran), name=name, place=str(place)))
    (place / "of_mine.py").write_text("VALUE = 'mine'\n")
    done = home.python(STARTER, how, cwd=place, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout and done.stdout.count(str(place)) == (2 if how else 1)  # its directory, its path
    assert ran.exists() is (how == ""), ran.read_text()
    if how:
        clusters.get().stop()
    else:
        shutil.rmtree(home.disk / "dask-scratch-space")


@pytest.mark.quick
def test_a_tmux_socket_that_others_could_have_made_is_not_spoken_to(tmp_path: Path) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "tmux.sock"))
        listener.listen()
        listener.setblocking(False)
        assert _tmux.has_session(place / "tmux.sock", "cluster-main") is False
        _tmux.kill_session(place / "tmux.sock", "cluster-main")
        _tmux.remove_dead_socket(place / "tmux.sock")
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.quick
def test_a_record_of_a_machine_made_from_the_same_image_is_not_judged() -> None:
    mine = probe.process_identity(os.getpid())
    assert probe.is_same_process_alive({**mine, "boot_id": "of yesterday"}) is False
    assert probe.is_same_process_alive({**mine, "boot_id": "of another", "node": "another"}) is None


def test_what_goes_on_starting_programs_is_ended_with_all_of_them(tmp_path: Path) -> None:
    launcher = f"import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n{STUBBORN}"  # a subreaper, as the launcher is
    marker = f"300.{time.time_ns()}"
    root = subprocess.Popen([sys.executable, "-c", launcher, marker], stdout=subprocess.PIPE)
    assert root.stdout is not None and root.stdout.readline() == b"ready\n"
    who = processes.identity(root.pid)
    assert who is not None
    assert processes.end([who], timeout=0.5) is True
    root.wait(5)
    root.stdout.close()

    def none_left() -> bool | None:
        found = subprocess.run(["ps", "-eo", "ppid,pid,args"], capture_output=True, text=True, check=True).stdout
        left = [line for line in found.splitlines() if line.endswith(f"sleep {marker}")]
        for line in left:
            os.kill(int(line.split()[1]), signal.SIGKILL)
        assert not left
        return True

    wait_until(none_left, timeout=2, what="their end")
