"""Which users' processes end at logout: the rule is logind's own (`manager_shall_kill` in its source)."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from ports.doctor import _judge
from ports.probe import logout, recognise
from ports.sessions import _start, _tmux

YES = "[Login]\nKillUserProcesses=yes\n"


@pytest.mark.parametrize(
    ("text", "killed"),
    [
        ("", ""),
        (YES, "alice bob"),
        ("[Login]\nKillUserProcesses=Y\n", "alice bob"),
        ("[Login]\n#KillUserProcesses=yes\n;KillUserProcesses=yes\n", ""),
        ("[Login]\nKillUserProcesses=perhaps\n", ""),
        (YES + "KillUserProcesses=perhaps\n", "alice bob"),  # what is no switch is ignored
        (YES + "KillUserProcesses=no\n", ""),
        (YES + "KillExcludeUsers=root alice\n", "bob"),
        (YES + 'KillExcludeUsers="alice" carol\n', "root bob"),  # root is no longer excluded by itself
        (YES + "KillExcludeUsers=\n", "root alice bob"),
        (YES + "KillExcludeUsers=alice\nKillExcludeUsers=bob\n", "root"),
        (YES + "KillExcludeUsers=alice\nKillExcludeUsers=\nKillExcludeUsers=bob\n", "root alice"),
        (YES + "KillExcludeUsers=1000 \\\n  alice\n", "root bob"),  # names, never uids
        ("[Login]\nKillOnlyUsers=bob\n", "bob"),  # whatever the switch says
        (YES + "KillOnlyUsers=bob root\n", "bob"),
        (YES + "KillOnlyUsers=bob\nKillOnlyUsers=\n", "alice bob"),
        (YES + "KillOnlyUsers=bob\nKillExcludeUsers=bob\n", ""),
        ("[Sleep]\nKillUserProcesses=yes\n", ""),
    ],
)
def test_logout_ends_whom_logind_would_end(text: str, killed: str) -> None:
    found = logout.logind_settings([text])
    assert [user for user in ("root", "alice", "bob") if logout.kills(found, user)] == killed.split()


def test_files_of_logind_are_read_in_the_order_of_systemd(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write("usr/lib/systemd/logind.conf", "vendor")
    assert logout.logind_files(str(tmp_path)) == ["vendor"]
    write("etc/systemd/logind.conf", "own")
    write("usr/lib/systemd/logind.conf.d/20-site.conf", "hidden")
    write("etc/systemd/logind.conf.d/20-site.conf", "20 of etc")
    write("run/systemd/logind.conf.d/10-first.conf", "10 of run")
    write("usr/local/lib/systemd/logind.conf.d/90-last.conf", "90 of local")
    write("usr/lib/systemd/logind.conf.d/50-off.conf", "masked")
    (tmp_path / "etc/systemd/logind.conf.d/50-off.conf").symlink_to("/dev/null")
    write("etc/systemd/logind.conf.d/note.txt", "no configuration")
    assert logout.logind_files(str(tmp_path)) == ["own", "10 of run", "20 of etc", "90 of local"]


def test_an_excluded_user_is_not_warned_of_logout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logout.os.path, "exists", lambda path: path == "/run/systemd/system")
    monkeypatch.setattr(logout, "logind_files", lambda: [YES + "KillExcludeUsers=root alice\n"])
    assert not logout.logout_ends("alice") and logout.logout_ends("bob")


@pytest.mark.parametrize(
    ("cgroups", "ends"),
    [
        ("0::/user.slice/user-1000.slice/session-3.scope\n", True),
        ("12:memory:/user.slice\n1:name=systemd:/user.slice/user-1000.slice/session-c2.scope\n", True),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope\n", False),
        ("0::/user.slice/user-1000.slice/user@1000.service/session-3.scope-like.service\n", False),
        ("", False),
    ],
)
def test_what_is_in_the_scope_of_a_login_ends_with_it(cgroups: str, ends: bool) -> None:
    assert logout.in_session(cgroups) is ends


def test_a_configuration_that_cannot_be_read_is_not_called_no(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "etc/systemd/logind.conf.d").mkdir(parents=True)
    (tmp_path / "etc/systemd/logind.conf.d/loop.conf").symlink_to("loop.conf")
    with pytest.raises(OSError, match="symbolic links"):
        logout.logind_files(str(tmp_path))
    read = logout.logind_files
    monkeypatch.setattr(logout.os.path, "exists", lambda path: path == "/run/systemd/system" or "/etc/" in path)
    monkeypatch.setattr(logout, "logind_files", lambda: read(str(tmp_path)))
    assert logout.logout_ends("alice") is None
    check = _judge.logout(None, "keep them so")
    assert check.state == "warning" and "cannot be read" in str(check.cause) and "keep them so" in str(check.hint)


def test_lingering_keeps_what_is_outside_of_the_scope_of_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logout.os.path, "exists", lambda path: True)  # systemd runs, and everybody lingers
    monkeypatch.setattr(logout, "logind_files", lambda: [YES])
    slice_ = "0::/user.slice/user-1000.slice"
    ends = [f"{slice_}/session-3.scope\n", f"{slice_}/user@1000.service/app.slice/run-r1.scope\n", ""]
    assert [logout.logout_ends("alice", cgroups) for cgroups in ends] == [True, False, False]


IN_LOGIN = "0::/user.slice/user-1000.slice/session-3.scope\n"
KEPT = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope\n"
SERVER = ["/usr/bin/tmux", "-S", "/tmp/ports-1000/ab/tmux.sock", "-f", "/x/tmux.conf", "start-server"]
LAUNCHER = ["/env/bin/python", "-I", "-S", "/env/ports/sessions/launch.py", "/home/a/clusters/main/launch.json"]


@pytest.mark.parametrize(
    ("argv", "cgroups", "ends"),
    [
        (SERVER, IN_LOGIN, True),
        (SERVER, KEPT, False),
        (LAUNCHER, IN_LOGIN, True),
        (LAUNCHER, KEPT, False),
        ([*SERVER[:-1], "attach-session"], IN_LOGIN, False),  # ends with the terminal anyway
        (["tmux", "-S", "/tmp/mine/tmux.sock", "start-server"], IN_LOGIN, False),
        (["ssh", "-S", "/tmp/ports-1000/master", "start-server"], IN_LOGIN, False),
        ([], IN_LOGIN, False),
    ],
)
def test_a_session_that_was_started_in_a_login_ends_with_it(
    argv: list[str], cgroups: str, ends: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    exists = logout.os.path.exists
    monkeypatch.setattr(logout.os.path, "exists", lambda path: not str(path).startswith(str(tmp_path)) or exists(path))
    monkeypatch.setattr(logout, "logind_files", lambda: [YES])  # and everybody lingers
    (tmp_path / "12").mkdir()
    (tmp_path / "self").mkdir()
    (tmp_path / "13").mkdir()  # has ended
    (tmp_path / "12" / "cmdline").write_text("".join(f"{word}\0" for word in argv))
    (tmp_path / "12" / "cgroup").write_text(cgroups)
    assert logout.login_ends("alice", str(tmp_path)) is ends
    check = _judge.logout(False, "keep them so", login_ends=ends)
    assert check.state == ("failed" if ends else "ok") and ("keep them so" in str(check.hint)) is ends


@pytest.mark.skipif(not shutil.which("tmux"), reason="there is no tmux")
def test_the_tmux_server_and_the_launcher_of_a_session_are_recognised() -> None:
    with tempfile.TemporaryDirectory(prefix="ports-", dir="/tmp") as folder:
        tmux = ["tmux", "-S", f"{folder}/tmux.sock"]
        _tmux.start_session(Path(folder, "tmux.sock"), "main", ["sleep", "60"], cwd="/")
        try:
            told = subprocess.run([*tmux, "display", "-p", "#{pid}"], capture_output=True, text=True, check=True)
            server = recognise.argv_of(int(told.stdout))
        finally:
            subprocess.run([*tmux, "kill-server"], check=True)
    assert logout.is_session(server), server
    assert logout.is_session(_start.launcher(Path("/home/a/clusters/main/launch.json")))
