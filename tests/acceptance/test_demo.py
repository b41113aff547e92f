"""scripts/demo from a checkout: links are fetched, everything it started ends, also by Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ports.state.waiting import wait_until
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo"

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(
        sys.prefix != str(DEMO.parents[1] / ".venv"),
        reason="the demo uses .venv of the checkout, these tests another one",
    ),
]


@pytest.fixture
def demo() -> Iterator[subprocess.Popen[str]]:
    """The demo, running; it needs no terminal."""
    command = ["bash", str(DEMO), "--no-wait"]
    pipe = subprocess.PIPE
    running = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    yield running
    if running.poll() is None:
        os.killpg(running.pid, signal.SIGTERM)
    running.communicate(timeout=60)


def left(top: str) -> list[str]:
    """Return what of the demo with its files in `top` is still there."""
    found = [f"{path}" for path in [Path(top)] if path.exists()]
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("LAB_SITE") == top and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if marked:
            found.append(f"{process}")
    return found


def test_the_demo_opens_both_pages_over_two_hops_and_leaves_nothing(demo: subprocess.Popen[str]) -> None:
    shown, _ = demo.communicate(timeout=170)
    assert demo.returncode == 0, shown
    assert re.search(r"laptop\$ ports open server1\n", shown)
    assert re.search(r"notebook lab: 200 '\S.*'  http://localhost:\d+/lab", shown), shown
    assert re.search(r"cluster main: 200 '\S.*'  http://localhost:\d+/status", shown), shown
    assert re.search(r"laptop\$ ports job submit -H server1 .*\n(.*\n)*?42\n", shown), shown
    top = re.search(r"serves (/tmp/lab-[^/]+)/", shown)
    assert top is not None
    assert not left(top.group(1))


@pytest.mark.long
def test_the_demo_in_a_terminal_fits_it_and_counts_no_wait_for_enter() -> None:
    """It waits for Enter there, and what a command says comes in its place."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 80, 0, 0))
    running = subprocess.Popen(["bash", str(DEMO)], stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True)
    os.close(terminal)
    shown, waited, begun, entered = "", 8.0, time.monotonic(), 0.0
    with os.fdopen(master, "r+b", buffering=0) as screen:
        while running.poll() is None or select.select([screen], [], [], 0)[0]:
            assert time.monotonic() - begun < 170, shown
            if select.select([screen], [], [], 0.2)[0]:
                try:
                    shown += screen.read(4096).decode(errors="replace")
                except OSError:
                    break
            if "Enter ends the demo" in shown and not entered:
                entered = time.monotonic() + waited
            if entered and time.monotonic() > entered:
                screen.write(b"\n")
                entered = float("inf")
    took = time.monotonic() - begun
    told = re.search(r"All of that worked, in (\d+) s", shown)
    assert running.wait(10) == 0 and told is not None, shown
    assert int(told[1]) <= took - waited + 1
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
    assert lines.index("open; Ctrl-C closes them") < lines.index("Both pages, as a browser on the laptop gets them:")
    breakable = [line for line in lines if " " in line.strip() and "http://" not in line and "laptop$" not in line]
    assert [line for line in breakable if len(line) > 80] == []


@pytest.mark.long
def test_an_ordinary_user_beside_others_gets_both_pages_without_a_terminal(
    root_site: NamespaceSite, fresh_home: NamespaceSite, nothing_left: LeakCheck
) -> None:
    other = root_site.popen("laptop", ["sleep", "170"], user="bob")
    command, environ = [root_site.python, str(DEMO.with_name("demo.py"))], {"PYTHONPATH": str(DEMO.parents[1])}
    done = root_site.run("laptop", command, env=environ, timeout=150)
    other.kill()
    other.communicate()
    assert done.returncode == 0 and "All of that worked" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count(": 200 '") == 2, done.stdout


def until_it_lists(demo: subprocess.Popen[str]) -> str:
    """Read until the demo lists what runs, and return its directory."""
    assert demo.stdout is not None
    seen = ""
    while "laptop$ ports list" not in seen:
        line = demo.stdout.readline()
        assert line, seen
        seen += line
    top = re.search(r"serves (/tmp/lab-[^/]+)/", seen)
    assert top is not None, seen
    return top.group(1)


def test_a_demo_that_is_interrupted_leaves_nothing(demo: subprocess.Popen[str]) -> None:
    top = until_it_lists(demo)
    os.killpg(demo.pid, signal.SIGINT)
    rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, rest
    wait_until(lambda: not left(top) or None, timeout=5, what=f"end of the demo, not {left(top)}")


def test_a_demo_whose_terminal_is_closed_leaves_nothing(demo: subprocess.Popen[str]) -> None:
    top = until_it_lists(demo)
    assert demo.stdout is not None
    demo.stdout.close()  # nothing can be printed any more
    os.killpg(demo.pid, signal.SIGHUP)
    demo.wait(60)
    wait_until(lambda: not left(top) or None, timeout=5, what=f"end of the demo, not {left(top)}")


def test_a_step_that_takes_long_says_so() -> None:
    code = """
import time, demo
demo.SILENT_SECONDS = 0.1
with demo.doing("`ports list` runs"):
    time.sleep(1)
"""
    environ = {**os.environ, "PYTHONPATH": f"{DEMO.parent}:{DEMO.parents[1]}"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert 2 <= len(lines) <= 11 and all(re.fullmatch(r"  ... `ports list` runs, for \d s now", one) for one in lines)


@pytest.mark.parametrize(
    ("printed", "then"),
    [("server1  notebook other  http://localhost:1/", "time.sleep(60)"), ("server1  cluster main  http://x/", "")],
)
def test_a_page_that_was_not_opened_ends_the_demo_within_its_limit(printed: str, then: str) -> None:
    code = f"""
import subprocess, sys, demo
code = "import time; print({printed!r}, flush=True); {then}"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
try:
    demo.read_links(child, demo.WANTED, seconds=3)
except demo.DemoError as error:
    print("refused:", error)
finally:
    child.kill()
"""
    environ = {**os.environ, "PYTHONPATH": f"{DEMO.parent}:{DEMO.parents[1]}"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, text=True, capture_output=True, timeout=30)
    refused = [line for line in done.stdout.splitlines() if line.startswith("refused:")]
    assert refused and "notebook lab" in refused[0], done.stdout + done.stderr


def test_a_word_that_the_demo_does_not_know_is_answered_with_its_usage() -> None:
    done = subprocess.run(["bash", str(DEMO), "--wait"], text=True, capture_output=True, timeout=20)
    assert done.returncode == 2
    assert "scripts/demo --no-wait" in done.stdout
