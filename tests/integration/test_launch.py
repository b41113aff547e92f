"""The launcher: it passes on environment and directory, keeps the log, notes the end, lets nothing outlive it."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports import sessions
from ports.sessions import launch
from ports.state import records
from ports.state.waiting import wait_until


class Launched:
    """A launcher that runs a command, with its files in one directory."""

    def __init__(self, place: Path, argv: list[str], **changes: Any) -> None:
        self.place = place
        self.log, self.exit, self.file = place / "main.log", place / "exit.json", place / "launch.json"
        spec = {
            "format": 1, "title": "a test", "argv": argv, "cwd": str(place), "environ": {"PATH": os.defpath},
            "log": str(self.log), "log_bytes": 10_000_000, "exit": str(self.exit), "hold": [str(place)], **changes,
        }  # fmt: skip
        self.file.write_text(json.dumps(spec))
        command = [sys.executable, "-I", "-S", str(Path(launch.__file__)), str(self.file)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def wait(self) -> tuple[int, dict[str, Any]]:
        """Return the launcher's exit status, and what it noted."""
        self.shown = self.process.communicate(timeout=30)[0]
        return self.process.returncode, json.loads(self.exit.read_text())

    def text(self) -> str:
        """Return the log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def said(self, text: str) -> None:
        """Wait until the command has printed `text`."""
        wait_until(lambda: text in self.text() or None, timeout=10, what=f"{text!r} in the log")

    def pids(self) -> list[int]:
        """Return the numbers that the command printed."""
        return [
            int(word)
            for line in self.text().partition("after the end")[0].splitlines()[1:]
            for word in line.split()
            if word.isdigit() and word[0] != "0"
        ]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    started: list[Launched] = []

    def make(script: str, **changes: Any) -> Launched:
        argv = changes.pop("argv", ["sh", "-c", script])
        started.append(Launched(tmp_path, argv, **changes))
        return started[-1]

    yield make
    for one in started:
        pids = one.pids()
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()
        assert not any(map(alive, pids)), "the command outlived its launcher"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_directory_and_variables_are_those_of_the_file_and_no_others(run: Any, tmp_path: Path) -> None:
    inside = tmp_path / "in here"
    inside.mkdir()
    one = run("pwd; env; umask", cwd=str(inside), environ={"PATH": os.defpath, "A": "b c\nd", "EMPTY": ""})
    assert one.wait()[0] == 0
    lines = one.text().splitlines()
    assert lines[1] == str(inside) and "A=b c" in lines and "EMPTY=" in lines and lines[-1] == "0077"
    assert not [line for line in lines if line.startswith(("HOME=", "PORTS_HOME="))]


def test_a_command_ignores_no_signal_and_blocks_none(run: Any) -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGQUIT, signal.SIGTSTP)}
    try:  # as behind an `&` of a script; Python itself ignores SIGPIPE and SIGXFSZ
        one = run("grep -E '^Sig(Ign|Blk)' /proc/self/status")
        assert one.wait()[0] == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert {line.split()[1] for line in one.text().splitlines()[1:]} == {"0" * 16}


def test_a_person_in_a_shell_keeps_the_umask(tmp_path: Path) -> None:
    for given, expected in (({"umask": 0o002}, "0002"), ({}, "0077")):
        file = tmp_path / "shell-main.launch"
        task = {"argv": ["/bin/sh", "-c", "umask"], "cwd": "/", "environ": {}, "terminal": True, **given}
        file.write_text(json.dumps(task))
        command = [sys.executable, "-I", "-S", str(Path(launch.__file__)), str(file)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == expected


def test_the_file_with_the_environment_is_gone_once_it_runs(run: Any) -> None:
    one = run("echo ready; sleep 60")
    one.said("ready")
    assert not one.file.exists()
    one.process.terminate()
    one.wait()


@pytest.mark.parametrize(
    ("script", "status", "noted"),
    [
        ("exit 0", 0, (0, None)),
        ("exit 3", 3, (3, None)),
        ("kill -KILL $$", 137, (None, 9)),
        ("kill -HUP $$", 129, (None, 1)),
    ],
)
def test_how_it_ended_is_noted(run: Any, script: str, status: int, noted: tuple[int | None, int | None]) -> None:
    one = run(script)
    code, told = one.wait()
    assert (code, (told["status"], told["signal"])) == (status, noted)
    assert told["format"] == 1 and told["ended_at"] > 1e9
    assert stat.S_IMODE(one.exit.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"argv": ["/no/such/program"]}, "No such file"),
        ({"cwd": "/no/such/place"}, "No such file"),
        ({"argv": ["/"]}, "denied"),
    ],
)
def test_what_cannot_be_run_is_told_in_the_log(run: Any, changes: dict[str, Any], reason: str) -> None:
    one = run("", **changes)
    assert one.wait()[0] == 127
    assert "cannot run" in one.text() and reason in one.text()


def test_output_goes_to_the_log_and_to_the_terminal(run: Any) -> None:
    one = run("echo to stdout; echo to stderr >&2; printf 'no newline \\377'")
    one.process.stdout.reconfigure(errors="replace")
    one.wait()
    log = one.log.read_bytes()
    assert log.startswith(b"--- ") and b"a test\n" in log.splitlines(keepends=True)[0]
    for part in (b"to stdout\n", b"to stderr\n", b"no newline \xff"):
        assert part in log and part.decode(errors="replace") in one.shown
    assert stat.S_IMODE(one.log.stat().st_mode) == 0o600


def test_a_log_that_grows_is_rotated_once(run: Any) -> None:
    one = run("yes 'many lines' | head -c 300000; echo last", log_bytes=100_000)
    one.wait()
    sizes = {path.name: path.stat().st_size for path in one.place.glob("main.log*")}
    assert set(sizes) == {"main.log", "main.log.1"} and all(0 < size <= 100_000 for size in sizes.values())
    assert one.text().endswith("last\n")


def test_the_next_start_goes_on_in_the_same_log(run: Any) -> None:
    run("echo first").wait()
    one = run("echo second")
    one.wait()
    assert [line for line in one.text().splitlines() if not line.startswith("---")] == ["first", "second"]


def test_a_log_in_the_place_of_which_somebody_put_a_link_is_not_written(run: Any, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "main.log").symlink_to(tmp_path / "elsewhere")
    one = run("echo no")
    one.process.communicate(timeout=10)
    assert one.process.returncode != 0 and (tmp_path / "elsewhere").read_text() == "mine"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_command_as_sigterm(run: Any, number: signal.Signals) -> None:
    one = run("trap 'echo ended well; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    one.said("ready")
    one.process.send_signal(number)
    assert one.wait()[0] == 5
    assert "ended well" in one.text()


def test_ctrl_c_in_the_pane_ends_nothing_and_says_what_does(run: Any) -> None:
    one = run(
        "trap 'echo ended by term; exit 5' TERM; trap 'echo ended by int; exit 6' INT; echo ready; sleep 600 & wait"
    )
    one.said("ready")
    one.process.send_signal(signal.SIGINT)
    one.process.send_signal(signal.SIGTERM)
    assert one.wait()[0] == 5
    assert "ended by int" not in one.text()


CHILDREN = {
    "a child": "sleep 600 & echo $!",
    "a child with a session of its own": "setsid sleep 600 & echo $!",
    "an orphan": "setsid -f sh -c 'echo $$; exec sleep 600'",
    "an orphan of an orphan": "setsid -f sh -c 'setsid -f sleep 600; echo $$; exec sleep 600'",
    "one that holds the output open": "(sleep 600; echo) & echo $!",
}


@pytest.mark.parametrize("script", CHILDREN.values(), ids=CHILDREN)
@pytest.mark.parametrize("end", ["itself", "killed", "stopped", "its launcher killed", "the launcher's guard killed"])
def test_nothing_outlives_the_command(run: Any, script: str, end: str) -> None:
    after = "sleep 0.2" if end == "itself" else "echo ready; exec sleep 600"
    one = run(f"{script}; {after}")
    if end != "itself":
        one.said("ready")
        wait_until(lambda: one.pids() or None, timeout=5, what="the children's pids")
        if end == "killed":
            [command] = commands_of(one.process.pid)
            os.kill(command, signal.SIGKILL)
        elif end == "its launcher killed":
            one.process.kill()
        elif end == "the launcher's guard killed":
            os.kill(children_of(one.process.pid)[0], signal.SIGKILL)
        else:
            one.process.terminate()
    one.process.communicate(timeout=30)
    pids = one.pids()
    assert pids
    wait_until(lambda: not any(map(alive, pids)) or None, timeout=10 if "launcher" in end else 0, what="their end")


def children_of(pid: int) -> list[int]:
    """Return the children of `pid`."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def commands_of(pid: int) -> list[int]:
    """Return what the launcher `pid` runs: leaders of a process group of their own, without a session of their own."""
    found = [child for supervisor in children_of(pid) for child in children_of(supervisor)]
    return [child for child in found if os.getpgid(child) == child and os.getsid(child) != child]


def test_what_ignores_sigterm_is_killed_after_a_grace(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run("(trap '' TERM; echo ready; while :; do sleep 1; done) & echo $!; exec sleep 600")
    one.said("ready")
    one.process.terminate()
    one.wait()
    assert not any(map(alive, one.pids()))


def test_the_runtime_directory_is_locked_against_tmpfiles_while_it_runs(run: Any, tmp_path: Path) -> None:
    one = run("echo ready; exec sleep 600")
    one.said("ready")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # a second session may hold it too
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        one.process.terminate()
        one.wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def test_a_stop_that_removes_the_directory_first_is_no_error(run: Any, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    one = run("echo ready; exec sleep 600", exit=str(gone / "exit.json"))
    one.said("ready")
    one.process.terminate()
    one.process.communicate(timeout=10)
    assert one.process.returncode == 128 + signal.SIGTERM and not gone.exists()


def test_it_needs_nothing_but_the_standard_library_and_little_memory(run: Any) -> None:
    one = run("echo ready; exec sleep 600")
    one.said("ready")
    status = Path(f"/proc/{one.process.pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0])
    one.process.terminate()
    one.wait()
    assert resident < 40_000  # kB


def test_a_full_disk_ends_nothing_and_the_terminal_still_shows_it(run: Any) -> None:
    one = run("echo shown; exit 3", log="/dev/full")
    assert one.wait()[0] == 3
    assert one.shown == "shown\n"


AFTER = "cat exit.json; echo; env; test -d /proc/$(sed -n 2p main.log) || echo the child has ended"


def test_a_command_runs_after_the_end_of_the_session_s_own(run: Any) -> None:
    one = run("sleep 600 & echo $!; exec sleep 0.1", after=["sh", "-c", AFTER])
    assert one.wait()[0] == 0
    _, child, noted, *rest = one.text().splitlines()
    assert json.loads(noted)["status"] == 0 and f"PATH={os.defpath}" in rest  # the end is noted first
    assert child.isdigit() and "the child has ended" in rest and "after" not in json.loads(one.exit.read_text())


@pytest.mark.parametrize(
    ("after", "failure"),
    [
        (["sh", "-c", "echo tried; exit 7"], "sh: exit status 7"),
        (["sh", "-c", "kill -KILL $$"], "sh: signal 9"),
        (["/no/such/program"], "/no/such/program: exit status 127"),
        ("rm -r /", "'after' is 'rm -r /'; it must be a list of words"),
        (["sh", 7], "'after' is ['sh', 7]; it must be a list of words"),
        (["sh\0"], r"'after' is ['sh\x00']; it must be a list of words"),
    ],
)
def test_what_fails_after_the_end_is_noted_and_harmless(run: Any, after: object, failure: str) -> None:
    one = run("exit 3", after=after)
    code, noted = one.wait()
    assert (code, noted["status"], noted["after"]) == (3, 3, failure)
    assert one.text().splitlines()[-1] == f"after the end: {failure}"


@pytest.mark.ci
def test_what_hangs_after_the_end_is_killed_with_all_that_it_started(run: Any) -> None:
    one = run("exit 0", after=["sh", "-c", "echo $$; trap '' TERM; sleep 600 & echo $!; while :; do sleep 1; done"])
    wait_until(lambda: len(one.pids()) == 2 or None, timeout=10, what="what runs after the end")
    one.process.terminate()  # as `stop` does: it has its time all the same
    begun = time.monotonic()
    code, noted = one.wait()
    assert (code, noted["after"]) == (0, "sh did not end within 20 s") and time.monotonic() - begun > 15
    assert not any(map(alive, one.pids()))


def test_a_session_that_is_stopped_has_its_command_after_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Cleaned(sessions.SessionRecord):
        @property
        def after(self) -> tuple[str, ...]:
            return "sh", "-c", "sleep 1; echo cleaned; echo cleaned > cleaned"

    mine, now = sessions.new_identity()
    record = Cleaned(
        kind="notebook", name="lab", created_at=now, interpreter="", directory=str(tmp_path), started_by=mine
    )
    code = "import pathlib, time; pathlib.Path('ready').touch(); time.sleep(600)"
    found = sessions.claim(record)

    def announce(started: Any) -> None:
        if (tmp_path / "ready").exists():
            records.write(started.files.running, sessions.Running(process=mine))

    started = sessions.start(
        found, [sys.executable, "-c", code], environ={"PATH": os.defpath}, cwd=str(tmp_path), timeout=20,
        what="a test", announce=announce,
    )  # fmt: skip
    running = dataclasses.replace(started, running=None)
    (started.files.running).unlink()  # this process said that it runs, and must not be ended
    sessions.stop(running)
    assert (tmp_path / "cleaned").read_text() == "cleaned\n" and not started.files.directory.exists()
    assert started.files.log.read_text().splitlines()[-1] == "cleaned"


def test_a_program_whose_name_is_not_utf8_is_told_once(run: Any) -> None:
    one = run("", argv=[os.fsdecode(b"/no/\xff/program")])
    assert one.wait()[0] == 127
    assert one.text().count("cannot run /no/\\udcff/program") == 1 and "Traceback" not in one.text()
