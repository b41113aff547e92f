"""The end of a page, and what goes on after it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ports.probe import SAFE_PATH
from ports.state import records
from ports.web import _record, _serve
from ports.web._record import PageRecord

AS_WINDOWS = Path(__file__).parents[1] / "lab" / "as_windows.py"

#: A page with a child in a session of its own, as is the process that keeps the tunnels.
PAGE = f"""{SAFE_PATH}
import subprocess, sys, time
from ports.state import records
from ports.web import _record, _serve
below = subprocess.Popen(["sleep", "100"], start_new_session=True)
record = _record.PageRecord(process=_serve._this_process(), started_at=time.time(), socket="/nowhere", port=1)
records.write(_record.new_file(), record)
print(below.pid, flush=True)
time.sleep(100)
"""
#: A page that ends while an act of it goes on.
ACTING = f"""{SAFE_PATH}
import asyncio, threading
from ports.web import _acts

async def act():
    began, goes_on = threading.Event(), threading.Event()
    _acts.in_daemon(lambda: (began.set(), goes_on.wait()))
    began.wait(20)

asyncio.run(act())
print("ended")
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_end_of_a_page_spares_the_process_that_keeps_tunnels() -> None:
    page = subprocess.Popen([sys.executable, "-c", PAGE], stdout=subprocess.PIPE, text=True)
    assert page.stdout is not None
    below = int(page.stdout.readline())
    try:
        (row,) = _record.stop()
        assert row["pid"] == page.pid
        assert page.wait(20) == -signal.SIGTERM
        assert is_running(below)
    finally:
        page.stdout.close()
        page.kill()
        page.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.kill(below, signal.SIGKILL)


def test_a_page_ends_while_an_act_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", ACTING], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


@pytest.mark.parametrize("more", [[], ["--background"]], ids=["here", "background"])
def test_windows_is_told_where_a_page_can_run(more: list[str]) -> None:
    code = "from ports.__main__ import main; main()"
    command = [sys.executable, str(AS_WINDOWS), code, "page", "--no-browser", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "no page runs on Windows; `ports page -H HOST` starts one on a server" in " ".join(done.stderr.split())


def test_a_page_to_which_a_host_was_added_is_found_by_it() -> None:
    path = _record.new_file()
    own = _serve._this_process()
    record = PageRecord(process=own, started_at=1.0, socket="/nowhere", port=1, background=True)
    records.write(path, record)
    assert _record.in_background(["server1"]) is None
    _serve.keep(path, record, ["server1"])
    found = _record.in_background(_record.kept_hosts())
    assert found is not None
    assert found.hosts == ("server1",)
    path.unlink()
