"""What a process that we start gets of the place where somebody typed the command."""

from __future__ import annotations

import os

import pytest

from ports.sessions import surroundings


@pytest.mark.parametrize(
    "name",
    [
        "TERM", "TERM_PROGRAM", "COLORTERM", "COLUMNS", "LINES", "KITTY_WINDOW_ID", "TMUX", "TMUX_PANE", "STY",
        "WINDOWID", "VTE_VERSION", "SSH_TTY", "GPG_TTY", "VSCODE_IPC_HOOK_CLI", "ELECTRON_RUN_AS_NODE", "_",
        "SHLVL", "OLDPWD", "SSH_CONNECTION", "SSH_CLIENT", "XDG_SESSION_ID", "JPY_PARENT_PID", "PMI_RANK",
        "PMIX_NAMESPACE", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "SLURM_STEP_ID", "SLURM_SRUN_COMM_HOST",
    ],
)  # fmt: skip
def test_no_command_inherits_a_terminal_a_connection_or_a_rank(name: str) -> None:
    for person in (False, True):
        assert surroundings.of_a_session(person=person, environ={name: "1", "HOME": "/home/alice"}) == {
            "HOME": "/home/alice"
        }


@pytest.mark.parametrize(
    "name",
    [
        "PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES", "TMPDIR",
        "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS", "CONDA_PREFIX", "VIRTUAL_ENV", "SSH_AUTH_SOCK",
        "BASH_FUNC_module%%", "AWS_PROFILE", "http_proxy", "MY_TERM", "TERMINAL_FILES",
    ],
)  # fmt: skip
def test_what_code_of_the_user_reads_reaches_it(name: str) -> None:
    assert surroundings.of_a_session(environ={name: "1"}) == {name: "1"}


@pytest.mark.parametrize("name", ["DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "GIT_ASKPASS"])
def test_only_a_shell_of_a_person_has_a_display(name: str) -> None:
    assert surroundings.of_a_session(environ={name: ":0"}) == {}
    assert surroundings.of_a_session(person=True, environ={name: ":0"}) == {name: ":0"}


def test_a_kernel_keeps_its_way_to_draw_for_itself() -> None:
    own, chosen = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, {"MPLBACKEND": "agg"}
    assert surroundings.of_a_session(environ=own) == {} and surroundings.of_a_session(environ=chosen) == chosen


def test_a_tool_gets_only_who_the_user_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "DISPLAY", "TERM", "TMUX", "SECRET", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "/x")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    names = set(surroundings.of_a_tool())
    assert names <= {"HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TMUX_TMPDIR"}
    assert {"PATH", "LANG"} <= names
    assert set(surroundings.of_a_tool(libraries=True)) - names == {"LD_LIBRARY_PATH"}


def test_a_python_of_a_module_is_started_with_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert surroundings.for_this_interpreter(["python", "launch.py"]) == ["python", "launch.py"]
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib dir")
    words = ["/usr/bin/env", "LD_LIBRARY_PATH=/opt/lib dir", "python", "launch.py"]
    assert surroundings.for_this_interpreter(["python", "launch.py"]) == words


def test_asking_for_the_umask_does_not_change_it() -> None:
    before = os.umask(0o027)
    try:
        assert surroundings.umask() == 0o027 and os.umask(0o027) == 0o027
    finally:
        os.umask(before)
