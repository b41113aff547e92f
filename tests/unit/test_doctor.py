"""`ports doctor`: what the facts mean, Windows around a WSL, and how the checklist is shown."""

from __future__ import annotations

import io
import json
import re
import select
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ports import doctor, hosts
from ports.cli import doctor as cli
from ports.cli.output import Output
from ports.doctor import _checks, _forwarding, _here, _judge, _route, _there, _wsl
from ports.errors import HostKeyError, SSHError, TimedOutError
from ports.hosts import Answer, Route
from ports.probe.logout import logout_ends
from ports.probe.programs.examine import examine, memory_left, space
from ports.state import paths


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Set an empty state directory, and settings from the environment, whatever other tests have imported."""
    monkeypatch.delitem(sys.modules, "dask.config", raising=False)
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    return monkeypatch


SPACE = {"path": "/home/alice/.local/state/ports", "place": "/home/alice", "writable": True}
SPACE |= {"free_bytes": 50 << 30, "total_bytes": 100 << 30, "free_files": 10**6, "total_files": 10**7}


@pytest.mark.parametrize(
    ("changed", "state", "word"),
    [
        ({}, "ok", "50.0 GiB of 100.0 GiB free, 1000000 inodes"),
        ({"free_bytes": 500 << 20}, "warning", "nearly full"),
        ({"free_bytes": 1 << 20}, "failed", "is full"),
        ({"free_files": 3}, "failed", "is full"),
        ({"free_files": 5000}, "warning", "nearly full"),
        ({"free_files": 0, "total_files": 0}, "ok", "free"),  # btrfs counts none
        ({"writable": False}, "failed", "is not writable"),
        ({"error": "Stale file handle"}, "failed", "Stale file handle"),
    ],
)
def test_the_disk_is_judged_by_space_inodes_and_permission(changed: dict[str, Any], state: str, word: str) -> None:
    check = _judge.state_directory(SPACE | changed)
    assert check.state == state and word in check.found + check.cause
    assert bool(check.hint) == (state != "ok")


@pytest.mark.parametrize(
    ("bounds", "state", "word"),
    [
        ((-0.3, 0.2), "ok", "as here"),
        ((-40.0, 40.0), "ok", "as here"),  # a slow answer proves nothing
        ((3.0, 3.4), "ok", "3 s ahead"),
        ((3599.0, 3601.0), "warning", "1 h ahead of"),
        ((-121.0, -120.0), "warning", "2 min behind"),
    ],
)
def test_a_clock_is_wrong_only_beyond_the_time_that_the_answer_took(
    bounds: tuple[float, float], state: str, word: str
) -> None:
    check = _judge.clock(*bounds)
    assert check.state == state and word in check.found + check.cause


def test_a_stall_is_told_from_a_slow_network_and_from_a_busy_machine() -> None:
    quick, stalled = [0.002] * 20, [0.044, 0.002, 0.002] * 7
    assert _judge.latency(0.001, 0.002, quick).state == "ok"
    assert _judge.latency(0.001, 0.002, [0.3, *quick]).state == "ok"
    assert _judge.latency(0.150, 0.3, [0.31] * 20).state == "ok"
    assert "stall, for 44.0 ms" in _judge.latency(0.001, 0.002, stalled).cause
    assert "pages are slow" in _judge.latency(0.3, 0.9, [0.31] * 20).cause


def test_what_start_files_print_is_shown_and_slow_ones_are_told() -> None:
    assert _judge.shell("", "", 0.1).state == "ok"
    assert "'welcome'" in _judge.shell("\nwelcome\nback\n", "", 0.1).cause
    assert "'oops'" in _judge.shell("", "oops\n", 0.1).cause
    assert "4.0 s" in _judge.shell("", "", 4.0).cause


@pytest.mark.parametrize(
    ("check", "state"),
    [
        (_judge.ssh_program("OpenSSH_9.2p1", (9, 2), True), "ok"),
        (_judge.ssh_program("OpenSSH_for_Windows_9.5p1", (9, 5), False), "warning"),
        (_judge.ssh_program("OpenSSH_6.6", (6, 6), True), "warning"),
        (_judge.python("3.6.15", "/usr/bin/python3"), "ok"),
        (_judge.python("3.5.2", "/usr/bin/python3"), "failed"),
        (_judge.tmux("tmux 3.3a"), "ok"),
        (_judge.tmux(None), "warning"),
        (_judge.tmux("tmux: error while loading shared libraries: libevent"), "warning"),
        (_judge.logout(False, "x"), "ok"),
        (_judge.logout(True, "x"), "failed"),
        (_judge.memory({"free_bytes": 20 << 30, "total_bytes": 64 << 30}), "ok"),
        (_judge.memory({"free_bytes": 1 << 28, "total_bytes": 64 << 30}), "warning"),
        (_judge.memory({}), "skipped"),
        (_judge.installed({"version": "1.0", "command": "/x"}, "1.0", "server1"), "ok"),
        (_judge.installed({"version": "0.9", "command": "/x"}, "1.0", "server1"), "warning"),
        (_judge.installed({"error": "ports is not installed there; name it"}, "1.0", "server1"), "warning"),
        (_judge.scratch(SPACE), "ok"),
        (_judge.scratch({**SPACE, "free_bytes": 500 << 20}), "warning"),
        (_judge.scratch({**SPACE, "free_bytes": 0}), "failed"),
        (_judge.scratch(SPACE, ["cluster 'main' (/var/tmp/x)"]), "warning"),
        (_judge.scratch({**SPACE, "error": "Stale file handle"}), "failed"),
    ],
)
def test_facts_are_judged_by_whether_the_main_job_can_be_done(check: _checks.Check, state: str) -> None:
    assert check.state == state
    assert bool(check.hint) == (state in ("warning", "failed"))


def test_the_way_out_is_split_from_the_cause_in_the_sentence_of_an_error() -> None:
    known = SSHError("server1", "the jump host login: needs a login (publickey); run `ports login login`")
    check = _checks.from_error("authentication", known, "server1")
    assert (check.cause, check.hint) == ("needs a login (publickey)", "run `ports login login`")
    changed = HostKeyError("server1", "its host key has CHANGED: somebody may listen. Ask the administrator; or else")
    check = _checks.from_error("host-key", changed, "server1")
    assert check.cause.endswith("listen") and check.hint == "Ask the administrator; or else"
    assert _checks.from_error("connect", SSHError("x", "is down"), "x", "wait").hint == "wait"


def test_all_rows_have_the_same_keys() -> None:
    made = [
        _checks.ok("a", "b"),
        _checks.warning("a", "b", "c"),
        _checks.failed("a", "b", "c"),
        _checks.skipped("a", "b"),
    ]
    rows = [check.at("login").row("server1") for check in made]
    keys = {"host", "kind", "name", "hop", "state", "found", "cause", "way_out"}
    assert all(set(row) == keys and row["kind"] == "check" for row in rows)
    assert [doctor.is_well([row]) for row in rows] == [True, True, False, True]


@pytest.mark.parametrize(
    ("sentence", "cause", "way_out"),
    [
        ("they end it (`[ -t 0 ] || return; x`); mend them", "they end it (`[ -t 0 ] || return; x`)", "mend them"),
        ("it says 'go away; come back'. Ask", "it says 'go away; come back'", "Ask"),
        ("needs a login (publickey; password); run it", "needs a login (publickey; password)", "run it"),
        ("the user's shell; ends", "the user's shell", "ends"),
        ("there is no environment 'x' there; name the environment", "there is no environment 'x' there",
         "name the environment"),
    ],
)  # fmt: skip
def test_a_sentence_is_not_cut_in_what_it_quotes(sentence: str, cause: str, way_out: str) -> None:
    assert _checks.split(sentence) == (cause, way_out)


def test_all_that_ports_there_says_of_a_missing_ports_is_shown() -> None:
    said = (
        "your start files there ended the shell (exit); mend them (`[ -t 0 ] || return`), or name the environment as "
    )
    check = _judge.installed({"error": f"{said}ports.hosts.<alias>.env in the settings"}, "1.0", "server1")
    assert (
        check.hint
        == "mend them (`[ -t 0 ] || return`), or name the environment as ports.hosts.server1.env in the settings"
    )
    assert check.cause.startswith("your start files there ended the shell (exit); `ports list`")


VERSIONS: dict[str, str | None] = {
    "dask": "2026.8.0",
    "distributed": "2026.8.0",
    "jupyterlab": "4",
    "jupyter_server": "2",
}


@pytest.mark.parametrize(
    ("versions", "others", "state", "word"),
    [
        ({}, {}, "ok", "/env: dask 2026.8.0, distributed 2026.8.0, jupyterlab 4, jupyter_server 2"),
        ({}, {"active": "/env", "recorded": "/env/bin/python"}, "ok", "/env: dask"),
        ({}, {"recorded": "/old/bin/python"}, "ok", "commands from other machines run in /old/bin/python"),
        ({"dask": None}, {}, "failed", "dask is missing in /env"),
        ({"distributed": "2024.4.0"}, {}, "warning", "dask is 2026.8.0 and distributed 2024.4.0 in /env"),
        (
            {},
            {"active": "/conda/envs/thesis"},
            "warning",
            "/conda/envs/thesis is activated, but this `ports` is in /env",
        ),
        ({}, {"gone": ["cluster 'main' (/gone/bin/python)"]}, "warning", "cluster 'main' (/gone/bin/python)"),
        ({"jupyterlab": None, "jupyter_server": None}, {}, "warning", "there is no Jupyter in /env"),
    ],
)
def test_an_environment_is_judged_by_its_packages_and_what_is_activated(
    versions: dict[str, str | None], others: dict[str, Any], state: str, word: str
) -> None:
    check = _judge.environment("/env/bin/python", VERSIONS | versions, prefix="/env", **others)
    assert check.state == state and word in check.found + check.cause
    assert bool(check.hint) == (state != "ok")


def test_a_resolver_that_hangs_is_given_up_and_its_error_comes_through() -> None:
    import threading

    with pytest.raises(TimedOutError):
        _route.within(0.05, threading.Event().wait)
    with pytest.raises(ZeroDivisionError):
        _route.within(5, lambda: 1 // 0)


def test_a_machine_is_examined_without_ports_being_looked_for() -> None:
    facts = examine()
    assert {
        "python",
        "executable",
        "user",
        "tmux",
        "logout_ends",
        "login_ends",
        "state",
        "memory",
        "began",
        "time",
    } <= set(facts)
    assert "ports" not in facts and facts["began"] <= facts["time"]
    assert facts["memory"]["free_bytes"] <= facts["memory"]["total_bytes"]


def test_space_is_told_of_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    found = space(str(tmp_path / "not" / "yet"))
    assert found["place"] == str(tmp_path) and found["writable"] and found["free_bytes"] > 0
    file = tmp_path / "file"
    file.write_text("")
    assert not space(str(file / "below"))["writable"]


def test_the_memory_that_is_left_is_the_least_of_all_control_groups(tmp_path: Path) -> None:
    gib = 2**30
    place = "/cgroups/user.slice"  # wherever they are mounted
    shown = {
        "/proc/meminfo": f"MemTotal: {64 * gib // 1024} kB\nMemAvailable: {48 * gib // 1024} kB\n",
        "/proc/self/mountinfo": "29 23 0:26 / /cgroups rw - cgroup2 cgroup2 rw\n",
        "/proc/self/cgroup": "0::/user.slice/job\n",
    }
    for group, limit, used in ((place, 16, 15), (place + "/job", 12, 2)):
        shown |= {f"{group}/memory.max": f"{limit * gib}\n", f"{group}/memory.current": f"{used * gib}\n"}
    for name, text in shown.items():
        path = tmp_path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory_left(str(tmp_path)) == {"total_bytes": 12 * gib, "free_bytes": gib, "limited": True}
    assert memory_left(str(tmp_path / "no")) == {}


def test_nobody_is_ended_at_logout_where_there_is_no_systemd() -> None:
    if not Path("/run/systemd/system").exists():
        assert not logout_ends("nobody")


def test_both_piped_programs_say_that_python_is_missing_on_a_host() -> None:
    answer = Answer(None, "", "bash: line 1: exec: python3: not found", 127, 0.0, 1.0)
    first, *others = _there.judge_answer("server2", answer)
    assert (first.name, first.state) == ("python", "failed") and "ports.hosts.server2.env" in first.hint
    assert {check.state for check in others} == {"skipped"}
    assert [check.name for check in (first, *others)] == list(_there.SERVER_CHECKS)
    old = Answer(None, "", 'File "<stdin>"\nSyntaxError: invalid syntax', 1, 0.0, 1.0)
    assert "older than 3.6" in next(_there.judge_answer("server2", old)).cause


# --- WSL, from what is written of it: it was not run there ---

WSL2 = "Linux version 5.15.167.4-microsoft-standard-WSL2 (root@f9c826d3017f) (gcc 11.2.0) #1 SMP"
WSL1 = "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com) (gcc 5.4.0) #1237-Microsoft"
DEBIAN = "Linux version 6.1.0-26-amd64 (debian-kernel@lists.debian.org) (gcc-12 12.2.0)"


@pytest.mark.parametrize(
    ("text", "signs", "version"),
    [
        (WSL2, ["Ubuntu"], 2),
        (WSL1, ["Ubuntu"], 1),
        (DEBIAN, ["Ubuntu"], 0),
        (WSL2, [None, False], 0),  # a container on Windows
        ("", [None], 0),
    ],
)
def test_wsl_is_known_by_its_kernel_and_its_variables(text: str, signs: list[object], version: int) -> None:
    assert _wsl.kernel_says(text, signs) == version


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root of what a WSL 2 with systemd shows, its home being ``home/alice``."""
    monkeypatch.setenv("WSL_DISTRO_NAME", "Ubuntu")
    for name, text in {
        "proc/version": WSL2,
        "proc/1/comm": "systemd\n",
        "etc/wsl.conf": "[boot]\nsystemd=true\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "mnt/c/Users/Alice B/.ssh").mkdir(parents=True)
    (tmp_path / "mnt/c/Users/Public").mkdir()
    (tmp_path / "home/alice/.ssh").mkdir(parents=True)
    return tmp_path


def judged(root: Path, program: str = "ssh") -> dict[str, _checks.Check]:
    found = _wsl.look(root)
    assert found is not None
    return {check.name: check for check in _wsl.judge(found, program, root / "home/alice/.ssh/config")}


def test_elsewhere_nothing_is_said_of_wsl(tmp_path: Path) -> None:
    assert _wsl.look(tmp_path) is None


def test_hosts_that_only_windows_knows_come_with_a_command_to_copy_them(windows: Path) -> None:
    theirs = windows / "mnt/c/Users/Alice B/.ssh/config"
    theirs.write_text("Host server1\n")
    check = judged(windows)["wsl-configuration"]
    assert check.state == "warning" and str(theirs) in check.cause and f"cp '{theirs}'" in check.hint
    (windows / "home/alice/.ssh/config").write_text("Host server1\n")
    check = judged(windows)["wsl-configuration"]
    assert check.state == "ok" and f"not {theirs}" in check.found


def test_a_link_to_the_disk_of_windows_and_the_ssh_of_windows_are_told(windows: Path) -> None:
    theirs = windows / "mnt/c/Users/Alice B/.ssh/config"
    theirs.write_text("Host server1\n")
    (windows / "home/alice/.ssh/config").symlink_to(theirs)
    assert "is on the disk of Windows" in judged(windows)["wsl-configuration"].cause
    assert "set ports.ssh.program to ssh" in judged(windows, "ssh.exe")["wsl-configuration"].hint


def test_a_keeper_ends_with_the_terminal_unless_the_idle_time_is_off(windows: Path) -> None:
    check = judged(windows)["wsl-keeper"]
    assert check.state == "warning" and "instanceIdleTimeout=-1" in check.hint
    (windows / "mnt/c/Users/Alice B/.wslconfig").write_text("[general]\ninstanceIdleTimeout = -1\n")
    assert judged(windows)["wsl-keeper"].state == "ok"
    (windows / "mnt/c/Users/Alice B/.wslconfig").unlink()
    (windows / "proc/1/comm").write_text("init\n")
    assert judged(windows)["wsl-keeper"].state == "ok"
    (windows / "proc/version").write_text(WSL1)
    assert "WSL 1" in judged(windows)["wsl-keeper"].found


def test_the_place_of_the_drives_may_be_another(windows: Path) -> None:
    (windows / "mnt").rename(windows / "drives")
    (windows / "etc/wsl.conf").write_text('[automount]\nroot = "/drives/"\n')
    (windows / "drives/c/Users/Alice B/.ssh/config").write_text("Host server1\n")
    assert "drives/c" in judged(windows)["wsl-configuration"].cause


# --- this machine, and the command ---


def test_without_a_host_this_machine_is_examined_as_client_and_as_server(
    tmp_path: Path, fresh: pytest.MonkeyPatch
) -> None:
    names = [check.name for check in _here.as_both()]
    own = ["scratch", "environment", "records"]
    assert names == ["ports", "state-directory", "settings", "ssh", "tmux", "logout", "memory", *own]
    assert not (tmp_path / "state").exists()  # looking makes nothing


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """Make a directory on a disk: /tmp of a test run is in memory."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        yield Path(made)


@pytest.mark.parametrize(
    ("setting", "word", "way_out"),
    [
        ("/dev/shm", "is in memory (tmpfs)", "name a directory on a disk"),
        ("/nowhere", "is missing or not writable", "name a directory of yours"),
        ("{open}", "is not safe: any user could replace what is in", "name a directory of yours"),
    ],
)
def test_a_scratch_that_no_cluster_would_take_is_found(
    setting: str, word: str, way_out: str, on_disk: Path, fresh: pytest.MonkeyPatch
) -> None:
    if setting == "/dev/shm" and "tmpfs /dev/shm" not in Path("/proc/self/mounts").read_text(encoding="utf-8"):
        pytest.skip("/dev/shm is no tmpfs here")
    (on_disk / "open").mkdir()
    (on_disk / "open").chmod(0o777)
    place = setting.format(open=on_disk / "open")
    fresh.setenv("DASK_PORTS__CLUSTER__LOCAL_DIRECTORY", place)
    found = {check.name: check for check in _here.as_both()}["scratch"]
    assert found.state == "failed" and place in found.cause and word in found.cause and way_out in found.hint


def test_a_good_scratch_and_this_interpreter_are_shown(
    tmp_path: Path, on_disk: Path, fresh: pytest.MonkeyPatch
) -> None:
    fresh.setenv("DASK_PORTS__CLUSTER__LOCAL_DIRECTORY", str(on_disk))
    fresh.delenv("VIRTUAL_ENV", raising=False)
    fresh.delenv("CONDA_PREFIX", raising=False)
    found = {check.name: check for check in _here.as_both()}
    assert found["scratch"].found.startswith(f"{on_disk}: ") or found["scratch"].state == "warning"
    assert found["environment"].state == "ok" and f"dask {metadata.version('dask')}" in found["environment"].found
    fresh.setenv("CONDA_PREFIX", str(tmp_path / "envs" / "thesis"))
    other = {check.name: check for check in _here.as_both()}["environment"]
    assert other.state == "warning" and "envs/thesis is activated" in other.cause


@pytest.mark.parametrize(
    ("text", "cause", "way_out"),
    [
        ("{broken", "cannot be read", "`ports prune` moves it aside"),
        ('{"format": 99}', "has format 99, but this version of ports reads formats up to", "upgrade ports"),
    ],
)
@pytest.mark.parametrize("place", ["clusters/main/record.json", "tunnels/17-1.json"])
def test_a_record_that_cannot_be_read_is_named_with_the_way_out(
    place: str, text: str, cause: str, way_out: str, tmp_path: Path, fresh: pytest.MonkeyPatch
) -> None:
    path = paths.here().root / place
    path.parent.mkdir(parents=True)
    path.write_text(text)
    check = {check.name: check for check in _here.as_both()}["records"]
    assert check.state == "warning" and str(path) in check.cause and cause in check.cause and way_out in check.hint


def test_what_a_host_finds_of_itself_is_shown_with_hints_for_here(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer({"ports": {"version": "0.1", "command": "/x"}}, "", "", 0, 0.0, 1.0)
    broken = _checks.warning("records", "record /r cannot be read", "`ports prune` moves it aside").row("box")
    rows = [_checks.ok("scratch", "/var/tmp: 3.0 GiB free").row("box"), broken]
    monkeypatch.setattr(hosts, "run_ports", lambda *_, **__: rows)  # an older ports, which looks at less
    found = {check.name: check for check in _there.own_checks("server1", answer)}
    assert list(found) == list(_there.OWN_CHECKS)
    assert (found["scratch"].state, found["environment"].state) == ("ok", "skipped")
    assert found["records"].hint == "`ports prune -H server1` moves it aside"
    without = Answer({"ports": {"error": "ports is not installed there"}}, "", "", 0, 0.0, 1.0)
    assert {check.cause for check in _there.own_checks("server1", without)} == {"needs ports on server1"}


def test_without_ssh_no_host_can_be_reached_and_a_server_misses_nothing(
    tmp_path: Path, fresh: pytest.MonkeyPatch
) -> None:
    fresh.setenv("DASK_PORTS__SSH__PROGRAM", str(tmp_path / "no-ssh"))
    found = {check.name: check for check in _here.as_both()}["ssh"]
    assert found.state == "warning" and "paramiko" in found.cause
    fresh.setenv("DASK_PORTS__SSH__TRANSPORT", "ssh")
    assert {check.name: check.state for check in _here.as_both()}["ssh"] == "warning"
    rows = doctor.examine(["server1"])
    assert [row["state"] for row in rows if row["name"] == "ssh"] == ["failed"]
    assert {row["state"] for row in rows if row["host"] == "server1"} == {"skipped"}
    assert not doctor.is_well(rows)


def test_a_wrong_setting_is_found_and_hosts_are_not_asked(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("DASK_PORTS__SSH__PERSIT", "3")
    rows = doctor.examine(["server1"])
    found = next(row for row in rows if row["name"] == "settings")
    assert found["state"] == "failed" and "persit" in found["cause"] and "persist" in found["way_out"]
    assert {row["cause"] for row in rows if row["host"] == "server1"} == {"needs settings here"}


def test_json_is_one_document_and_the_exit_code_shows_a_failure(tmp_path: Path, fresh: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(cli.doctor, ["--json"], standalone_mode=False)
    assert done.return_value == 0 and {row["kind"] for row in json.loads(done.stdout)} == {"check"}
    fresh.setenv("DASK_PORTS__SSH__PERSIT", "3")
    done = CliRunner().invoke(cli.doctor, ["--json"], standalone_mode=False)
    assert done.return_value == 5 and json.loads(done.stdout)


def test_each_of_several_hosts_is_shown_in_one_piece(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with cli.Checklist(Output(False), alone=False) as shown:
        shown.take(_checks.ok("configuration", "as it is").row("server1"))
        shown.take(_checks.ok("configuration", "as it is").row("server2"))
        shown.take(_checks.failed("connect", "is down", "wait").at("login").row("server1"))
        for name in ("python", "tmux", "clock"):
            shown.take(_checks.skipped(name, "needs connect of login").row("server1"))
        shown.end_host("server2")
        shown.end_host("server1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "server2" and lines[3] == "server1"
    assert lines[5].split(None, 3) == ["failed", "login:", "connect", "is down"]
    assert lines[6].strip() == "-> wait"
    assert lines[7].endswith("needs connect of login (and 2 more checks)")


@pytest.mark.parametrize("columns", ["80", "60", "50"])
def test_a_checklist_breaks_no_word_in_a_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    path, hint = "/home/alice/.local/state/ports", "write `ports login server1`, or load your key with `ssh-add`"
    with cli.Checklist(Output(False), alone=True) as shown:
        shown.take(_checks.ok("state-directory", f"{path}: 11.8 GiB of 11.8 GiB free, 3085251 inodes").row("server1"))
        shown.take(_checks.failed("authentication", "needs a login (publickey,password)", hint).at("login").row("s"))
    lines = click.unstyle(screen.getvalue()).splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert f"{path}:" in screen.getvalue() and "`ports login server1`" in screen.getvalue()


class EchoHost:
    """A connection to a host on which the echo program starts; it sees whether somebody still reads its output."""

    def __init__(self) -> None:
        self.route = Route("server1", (), "ssh")
        self.is_read: list[bool] = []

    def exec_channel(self, command: str) -> socket.socket:
        mine, self.far = socket.socketpair()
        threading.Thread(target=self._answer, daemon=True).start()
        return mine

    def _answer(self) -> None:
        with self.far.makefile("r") as program:
            marker = re.findall(r"ports-[0-9a-f]{16}:", program.read())[0]
        self.far.sendall(f'\n{marker}{{"port": 1, "path": "/s"}}\n'.encode())

    def dial(self, remote: str, *, timeout: float) -> socket.socket:
        self.look()
        raise SSHError("server1", "nothing answers")

    def look(self) -> None:
        """Note whether somebody reads the output, as the program does."""
        poller = select.poll()
        poller.register(self.far, 0)  # even so there is an event when the reader is gone
        self.is_read.append(not poller.poll(0))

    def close(self) -> None:
        self.look()
        self.far.close()


def test_the_program_to_forward_to_is_read_until_all_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    made = EchoHost()
    monkeypatch.setattr(hosts, "connect", lambda *_, **__: made)
    found = {check.name: check.state for check in _forwarding.forwards(made.route, "/usr/bin/python3")}
    assert (found["forward-port"], found["latency"]) == ("failed", "skipped")
    assert made.is_read == [True, True, False]
