"""A shell where a job runs or ran, at a terminal, and what a job listens on."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ports
from ports.state.waiting import wait_until
from tests.integration.conftest import Home
from tests.integration.test_job_commands import show, submitted, until_running, waited

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks at processes in /proc"),
]


@pytest.fixture(scope="module")
def mine(home_of_jobs: Home) -> Home:
    """The home with a compute resource."""
    return home_of_jobs


@contextlib.contextmanager
def terminal(*words: str) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """Run ``ports WORDS`` at a terminal; gives what types a text, and what waits until another is shown."""
    pid, screen = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-m", "ports", *words])
    shown = b""

    def until(text: str) -> None:
        def look() -> bool | None:
            nonlocal shown
            if select.select([screen], [], [], 0)[0]:
                with contextlib.suppress(OSError):
                    shown += os.read(screen, 65536)
            return True if text.encode() in shown else None

        wait_until(look, timeout=60, what=f"{text!r} of {words}")

    try:
        yield lambda text: (os.write(screen, text.encode()), None)[1], until
    finally:
        os.close(screen)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGHUP)
        os.waitpid(pid, 0)


def test_a_shell_has_the_place_of_a_script_and_ends_nothing_of_it(mine: Home, tmp_path: Path) -> None:
    place, out = tmp_path / "with blank", tmp_path / "out"
    place.mkdir()
    words = ["sh", "-c", f"cd '{place}'; while sleep 0.2; do :; done"]
    id = submitted(mine, "--environ", "MY_VARIABLE=of the job", *words)
    running = until_running(mine, id)
    with terminal("job", "shell", id) as (types, until):
        until(f"(job {id})")
        types(f'echo "$MY_VARIABLE:$PWD:$PORTS_JOB:$PORTS_ATTEMPT" > {out}\n')
        wait_until(lambda: (out.exists() and out.read_text()) or None, timeout=30, what="what the shell says")
        assert out.read_text() == f"of the job:{place}:{id}:1\n"
        types("\x02d")  # Ctrl-b d
        until("[detached")
    (row,) = mine.json("shell", "--list")
    assert (row["name"], row["terminals"]) == (f"job-{id}", 0)
    assert mine.ports("shell", "--stop", "--name", f"job-{id}").returncode == 0
    assert Path(f"/proc/{running['pid']}").exists()
    assert show(mine, id)["state"] == "running"
    mine.ports("job", "cancel", id)
    assert waited(mine, id) == "cancelled"
    with terminal("job", "shell", id) as (types, until):  # it has ended: its directory is left
        types(f"pwd > {out}; exit\n")
        until("[exited]")
    assert out.read_text() == f"{mine.work}\n"


def test_a_shell_has_the_variables_of_the_child_of_a_function(mine: Home, tmp_path: Path) -> None:
    def work() -> None:
        import time

        time.sleep(600)

    job, out = ports.submit(work), tmp_path / "out"
    wait_until(lambda: job.state == "running" or None, timeout=60, what="the job", every=0.1)
    with terminal("job", "shell", job.id) as (types, until):
        until(f"(job {job.id})")
        types(f'echo "$PORTS_JOB:$OMP_NUM_THREADS:$PWD" > {out}; exit\n')
        until("[exited]")
    assert out.read_text() == f"{job.id}:1:{mine.work}\n"
    assert job.state == "running"
    assert job.cancel()


def test_what_has_no_shell_says_what_to_do(mine: Home) -> None:
    many = ports.map(abs, [1, 2])
    ports.gather(many, progress=False)
    with terminal("job", "shell", str(many[0].id).partition(".")[0]) as (_, until):
        until("name one of")
    with terminal("job", "shell", "99") as (_, until):
        until("ports job list")
    done = mine.ports("job", "shell", many[0].id)
    assert (done.returncode, "a shell needs a terminal" in " ".join(done.stderr.split())) == (2, True)
    assert mine.ports("job", "logs", many[0].id).returncode == 0
    assert mine.ports("job", "shell", many[0].id, "--json").returncode == 2
    assert mine.ports("job", "shell", "x").returncode == 2
    assert mine.ports("job", "shell", "server1:1", "-H", "server2").returncode == 2


UNTIL_DONE = """
import http.server, os
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.server.is_over = self.path == "/done"
server = http.server.HTTPServer(("127.0.0.1", 0), Page)
server.is_over = False
print("ready", flush=True)
while not server.is_over: server.handle_request()
"""


def open_line(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ports", "job", "submit", "--cpus", "0.1", "--open", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_port_is_named_while_the_output_is_followed(mine: Home) -> None:
    with open_line("--follow", "--", sys.executable, "-c", UNTIL_DONE) as running:
        assert running.stderr is not None
        id = next(line for line in running.stderr if line.startswith("job ")).strip().removeprefix("job ")
        said = next(line for line in running.stderr if "listens on" in line)
        found = re.fullmatch(rf"job {id} listens on port (\d+): (http://localhost:\1/)\n", said)
        assert found is not None, said
        shown = mine.json("job", "show", id)["ports"]
        assert [(one["port"], one["local_url"], one["name"]) for one in shown] == [
            (int(found[1]), found[2], f"job-{id}")
        ]
        urllib.request.urlopen(f"{found[2]}done", timeout=30).close()
        out, _ = running.communicate(timeout=60)
    assert (running.returncode, out) == (0, "ready\n")


def test_ctrl_c_while_a_port_is_awaited_leaves_the_job_running(mine: Home) -> None:
    with open_line("--", "sleep", "600") as running:
        assert running.stderr is not None
        id = next(line for line in running.stderr if line.startswith("job ")).strip().removeprefix("job ")
        until_running(mine, id)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert f"job {id} goes on; `ports job show {id}` shows what it listens on" in " ".join(said.split())
    assert "ports" not in mine.json("job", "show", id)
    assert show(mine, id)["state"] == "running"
