"""``ports who``: the process table summed up by user, and how it is shown."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ports import machine, probe
from ports.cli import main, watch, who
from ports.machine import _usage
from ports.probe import accounts
from ports.probe.programs import who as table
from ports.state.waiting import wait_until

GIB = 1 << 30
OLD_PYTHONS = [*Path.home().glob(".pyenv/versions/3.6.*/bin/python"), Path("/usr/bin/python3.6")]
OLD_PYTHON = next((str(python) for python in OLD_PYTHONS if python.exists()), None)
SEEN: dict[str, Any] = {
    "host": "server1",
    "uid": 1001,
    "time": 0.0,
    "n_cores": 96,
    "usable_cores": 96,
    "busy_cores": 37.2,
    "load": (40.0, 30.0, 20.0),
    "total_bytes": 512 * GIB,
    "available_bytes": 212 * GIB,
    "limit_bytes": 512 * GIB,
    "limit_available_bytes": 212 * GIB,
    "swap_bytes": 0,
    "swap_free_bytes": 0,
    "pressure": {"cpu_some": 3.2, "memory_some": 0.0, "memory_full": 0.0, "io_some": 1.0},
    "hidden": False,
    "promises": [
        {"uid": 1002, "pid": 7, "n_workers": 16, "n_threads": 32, "bytes": 192 * GIB, "held_bytes": 138 * GIB},
        {"uid": 1002, "pid": 8, "n_workers": 1, "n_threads": 1, "bytes": 8 * GIB, "held_bytes": 9 * GIB},
    ],
}


def user(uid: int, name: str, memory: float, cores: float, dask: float = 0) -> dict[str, Any]:
    sized = {"memory_bytes": int(memory * GIB), "dask_bytes": int(dask * GIB)}
    return {"uid": uid, "user": name, "cores": cores, "dask_cores": 0.0, "n_processes": 3, **sized}


USERS = [
    user(0, "root", 3, 0.5),
    user(103, "messagebus", 0.5, 0.0),
    user(1001, "alice", 80, 16.0),
    user(1002, "bob", 150, 20.1, 138),
    user(1003, "carol", 0.1, 0.0),
    user(1004, "dave", 0.2, 0.01),
]


def seen(**changed: Any) -> machine.Usage:
    return _usage.from_probe({**SEEN, "users": USERS, **changed})


def hidden(promised: int = 100, **changed: Any) -> machine.Usage:
    """Return what alice sees if others' processes are hidden: the promise of bob, and totals."""
    promise = {"uid": 1002, "pid": 0, "n_workers": 4, "n_threads": 4, "bytes": promised * GIB, "held_bytes": None}
    users = [USERS[2], {**user(1002, "bob", 0, 0), "n_processes": 0}]
    return _usage.from_probe({**SEEN, "users": users, "promises": [promise], "hidden": True, **changed})


def words(line: str) -> str:
    return " ".join(line.split())


def test_each_user_has_a_bar_of_what_is_used_and_what_is_promised_beyond() -> None:
    lines = who.lines(seen())
    assert lines[0] == (
        "server1: 96 cores, 37.2 busy; 512.0 GiB, 212.0 GiB available; "
        "time lost waiting for cpu 3 %, memory 0 %, disks 1 %"
    )
    assert lines[1].split() == ["USER", "MEMORY", "CORES", "DASK", "PROMISED"]
    rows = {line.split()[0]: line for line in lines[2:-2]}
    assert lines[2] == rows["bob"]  # who uses most stands first
    assert words(rows["bob"]) == "bob ██████▒▒············ 150.0 GiB 20.1 138.0 GiB 200.0 GiB, 33 threads"
    assert words(rows["alice"]) == "alice ███················· 80.0 GiB 16.0"
    assert rows["system"].split()[-3:] == ["3.5", "GiB", "0.5"]
    assert rows["2"].startswith("2 with little ") and "carol" not in "".join(lines)


def test_what_is_left_and_what_i_would_get_stand_last() -> None:
    left, mine = who.lines(seen())[-2:]
    assert left == "left: 58.8 cores, 212.0 GiB, of which 54.0 GiB are promised to clusters and not used yet"
    assert mine == (
        "a cluster of yours would get 9 workers × 7 threads, 8.8 GiB each: "
        "half of 158.0 GiB available and not promised, one other active"
    )


@pytest.mark.parametrize("columns", [66, 70, 79, 80, 100])
def test_on_a_narrow_terminal_bars_shrink_and_sentences_wrap(columns: int) -> None:
    narrow, wide = who.lines(seen(), columns), who.lines(seen())
    assert max(map(len, narrow)) <= columns < max(map(len, wide))
    said = [" ".join(re.sub("[█▒·]+", "", " ".join(lines)).split()) for lines in (narrow, wide)]
    assert said[0] == said[1]


def test_limits_around_me_and_hidden_processes_are_said() -> None:
    lines = who.lines(hidden(usable_cores=4, limit_bytes=16 * GIB, limit_available_bytes=12 * GIB))
    assert "this machine hides the processes of others (hidepid); together they use about 220.0 GiB" in lines
    assert "you may have 4 cores and 16.0 GiB, of which 12.0 GiB are left" in lines[-2]
    assert "processes of others are hidden here" in lines[-1]


def test_what_hidden_clusters_fill_is_reckoned_from_the_totals() -> None:
    filled = who.lines(hidden(promised=200))  # of 220 GiB that are in use and not hers
    assert words(filled[3]) == "bob ···················· 0 B 0.0 200.0 GiB, 4 threads"
    assert filled[-2] == "left: 58.8 cores, 212.0 GiB" and filled[-1].startswith("a cluster of yours would get")
    assert "half of 212.0 GiB available, two others active as far as can be seen" in filled[-1]
    half = who.lines(hidden(promised=300))
    assert words(half[3]) == "bob ▒▒▒················· 0 B 0.0 300.0 GiB, 4 threads"
    assert "212.0 GiB, of which 80.0 GiB are promised to clusters and not used yet" in half[-2]
    room = hidden(promised=200, busy_cores=40.0).room
    assert (room.unseen_bytes, room.unseen_cores) == (220 * GIB, 24.0)


def test_gpus_are_shown_with_who_uses_them() -> None:
    from dataclasses import replace

    gpu = {"index": 0, "name": "A100", "memory_bytes": 80 * GIB, "used_bytes": 40 * GIB, "busy": 93}
    lines = who.lines(replace(seen(), gpus=({**gpu, "users": {"alice": 30 * GIB, "bob": 10 * GIB}},)))
    assert "gpu 0: A100, 40.0 GiB of 80.0 GiB, 93 % busy, alice 30.0 GiB, bob 10.0 GiB" in lines


def test_a_terminal_without_these_letters_gets_others(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    code = "from tests.unit.test_who import seen; from ports.cli import who; who.show(seen())"
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, timeout=30, check=True)
    assert b"######++............" in done.stdout and b"9 workers x 7 threads" in done.stdout


def test_the_row_is_what_json_can_hold() -> None:
    row = json.loads(json.dumps(seen().row()))
    assert (row["kind"], row["name"], row["state"], row["url"]) == ("machine", "server1", "running", None)
    assert row["promised_bytes"] == 200 * GIB and row["share"]["n_workers"] == 9
    bob = next(one for one in row["users"] if one["user"] == "bob")
    assert (bob["held_bytes"], bob["promised_threads"], bob["is_me"]) == (146 * GIB, 33, False)


def test_what_one_user_was_promised_counts_for_them_alone() -> None:
    room = seen().room
    assert (room.promised_bytes, room.unfilled_bytes) == (0, 0)
    assert [one.user for one in room.active] == ["bob"] and [one.user for one in room.others] == [
        "bob",
        "carol",
        "dave",
    ]
    mine = seen(uid=1002).room
    assert (mine.promised_bytes, mine.unfilled_bytes) == (200 * GIB, 54 * GIB)


@pytest.mark.parametrize(
    ("uid", "expected"),
    [(0, False), (999, False), (1000, True), (60000, True), (61200, False), (65534, False), (250000, True)],
)
def test_people_are_told_from_services(uid: int, expected: bool) -> None:
    assert accounts.is_person(uid) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("UID_MIN\t\t\t  500\nUID_MAX 60000\n", 500),
        ("#UID_MIN 100\n  UID_MIN 1000\nSYS_UID_MIN 101\n", 1000),
        ("UID_MIN 5000\n", 1000),  # a directory's accounts may lie below
        ("UID_MIN 0\n", 1),  # root is nobody's peer
        ("UID_MIN many\n", 1000),
        (None, 1000),
    ],
)
def test_people_begin_where_the_machine_says(
    text: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "login.defs").write_text(text)
    monkeypatch.setattr(accounts, "LOGIN_DEFS", str(tmp_path / "login.defs"))
    monkeypatch.setattr(accounts, "FIRST", [])
    assert accounts.first_person() == expected
    assert accounts.is_person(700) is (expected <= 700)


@pytest.mark.parametrize("words", [["who"], ["list"], ["ls", "server1"]], ids=" ".join)
def test_watching_has_no_document(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(main.ports, [*words, "--watch", "--json"]) == 2
    assert "--watch has no end" in capsys.readouterr().err


# --- on this machine ---


@pytest.fixture
def busy() -> Any:
    """A process that computes, has 64 MiB for itself and 64 MiB of a file, and looks like a Dask worker."""
    code = (
        "import mmap, sys, tempfile; own = bytearray(b'x') * (64 << 20); file = tempfile.TemporaryFile()\n"
        "file.write(own); file.flush(); seen = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED); sum(seen[::4096])\n"
        "print('ready', flush=True)\n"
        "while True: sum(range(10000))"
    )
    command = [sys.executable, "-c", code, "dask", "worker"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process.pid
        process.kill()


def test_a_process_is_seen_with_what_it_holds_for_itself_and_its_cores(busy: int) -> None:
    def looked() -> table.Process | None:
        found = table.processes()
        began = time.monotonic()
        time.sleep(0.2)  # what is measured is a time
        table.measure(found, began)
        table.recognise(found)
        return found[busy] if found[busy].cores > 0.05 else None

    one = wait_until(looked, timeout=30, what="a core for it")
    assert one.uid == os.getuid() and one.parent == os.getpid() and one.dask and one.cores < 1.3
    assert 64 << 20 <= one.memory < 100 << 20


def test_who_counts_what_is_below_an_owner(busy: int) -> None:
    found = table.processes()
    assert table.memory_below(found, busy) == found[busy].memory
    assert (table.memory_below(found, os.getpid()) or 0) >= found[busy].memory + found[os.getpid()].memory
    assert table.memory_below(found, 1 << 30) is None


def test_the_machine_is_looked_at_in_python() -> None:
    found = machine.usage(interval=0.01)
    [me] = [one for one in found.users if one.is_me]
    assert me.uid == os.getuid() and me.memory_bytes > 0 and me.n_processes > 0
    assert found.host == probe.probe({"port": 1})["host"] and found.share.n_workers >= 1


@pytest.mark.parametrize("python", [sys.executable, OLD_PYTHON], ids=["this", "3.6"])
def test_what_is_piped_to_another_host_answers_as_it_does_here(python: str | None) -> None:
    if python is None:
        pytest.skip("there is no Python 3.6 here")
    text = probe.script({"do": "who", "interval": 0.01, "marker": "ports-test:"})
    done = subprocess.run([python, "-I", "-S", "-"], input=text, capture_output=True, text=True, timeout=30)
    answer = probe.read_answer(done.stdout, "ports-test:")
    assert answer is not None and "error" not in answer, answer
    there, here = _usage.from_probe(answer, "server1"), machine.usage(interval=0.01)
    assert there.host == "server1" and there.n_cores == here.n_cores and there.memory_bytes == here.memory_bytes
    assert [one.user for one in there.users if one.is_me] == [one.user for one in here.users if one.is_me]


def test_a_user_whose_cluster_lends_memory_has_it_in_the_table() -> None:
    lending = {"uid": 1002, "pid": 9, "n_workers": 2, "n_threads": 0, "bytes": 2 * GIB, "held_bytes": GIB}
    seen = {**SEEN, "users": USERS, "promises": [{**lending, "lent_bytes": 30 * GIB}]}
    found = _usage.from_probe(seen)
    [bob] = [line for line in who.lines(found) if line.startswith("bob")]
    assert bob.endswith("2.0 GiB (lends 30.0 GiB)")
    assert [one["lent_bytes"] for one in found.row()["users"] if one["user"] == "bob"] == [30 * GIB]


def test_own_promises_are_called_own_where_they_leave_little() -> None:
    from dataclasses import replace

    mine = {"uid": SEEN["uid"], "pid": 0, "n_workers": 9, "n_threads": 9, "bytes": 400 * GIB, "held_bytes": 0}
    found = replace(seen(promises=[mine]), own_clusters=("main",))
    assert "to your cluster main (`ports cluster scale main 0` frees what it is promised)" in who.lines(found)[-1]


def test_a_frame_replaces_the_one_before_line_by_line() -> None:
    shown = watch.frame(["server1: 4 cores", "USER"], 24)
    assert shown == "\033[Hserver1: 4 cores\033[K\nUSER\033[K\n\033[J"
    assert watch.frame([str(n) for n in range(50)], 24).count("\n") == 22, "a longer one would scroll"


@pytest.mark.skipif(not shutil.which("tmux"), reason="there is no tmux")
def test_frames_leave_no_copies_in_the_history_of_tmux(tmp_path: Path) -> None:
    code = (
        "from ports.cli import watch; import time; print('\\n' * 5 + 'before' + '\\n' * 5, end=watch._HOME_AND_CLEAR)"
    )
    code += "; [print(watch.frame(['look %d' % n], 24)) for n in range(30)]; time.sleep(60)"
    tmux = ["tmux", "-S", str(tmp_path / "s"), "-f", os.devnull]
    command = shlex.join([sys.executable, "-c", code])
    subprocess.run([*tmux, "new-session", "-d", "-x", "80", "-y", "24", command], check=True)
    try:
        shown = wait_until(lambda: found if "look 29" in (found := history(tmux)) else None, timeout=30, what="frames")
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)
    assert shown.count("look") == 1 and shown.count("before") == 1, shown


def history(tmux: list[str]) -> str:
    return subprocess.run([*tmux, "capture-pane", "-p", "-S", "-"], capture_output=True, text=True, check=True).stdout


def test_the_machine_is_shown_where_my_records_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "file"))
    assert main.run(main.ports, ["who"]) == 0
    assert "cores" in capsys.readouterr().out
