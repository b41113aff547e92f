"""scripts/ports.bash in a real bash: completion without any connection, and the short functions on the site."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.leaks import LeakCheck
from tests.lab.site import Site

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ports.bash"
CONFIG = """\
Include conf.d/*
Host login
    HostName login.example.org
Host server1 server2 *.cluster !other
host=quoted
Include ~/more
"""

pytestmark = [pytest.mark.ci, pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with an ssh configuration; an `ssh` on its PATH that tells when it is called."""
    (tmp_path / ".ssh/conf.d").mkdir(parents=True)
    (tmp_path / ".ssh/config").write_text(CONFIG)
    (tmp_path / ".ssh/conf.d/site").write_text("Host included\n")
    (tmp_path / "more").write_text("Host from-home\nInclude more\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text("#!/bin/sh\ntouch ~/connected\n")
    (tmp_path / "bin/ssh").chmod(0o755)
    tunnels = tmp_path / ".local/state/ports/hosts/m/tunnels"
    tunnels.mkdir(parents=True)
    rows = [
        f'{{\n"host": "server1",\n"kind": "{kind}",\n"name": "{name}"\n}}'
        for kind, name in (("cluster", "deep"), ("notebook", "thesis"), ("tensorboard", "board"))
    ]
    (tunnels / "1-0.json").write_text('{"rows": [\n' + ",\n".join(rows) + "\n]}\n")
    (tmp_path / ".local/state/ports/hosts/m/clusters/big").mkdir(parents=True)
    (tmp_path / ".local/state/ports/hosts/m/notebooks/paper").mkdir(parents=True)
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    path = f"{home}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"HOME": str(home), "PATH": path, "TERM": "dumb", "LANG": "C.UTF-8", "PS1": "$ "}


def complete(home: Path, line: str, *, function: str = "_ports_complete") -> list[str]:
    """Return what bash would offer for `line`."""
    code = f"""
source {shlex.quote(str(SCRIPT))}
COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}
{function}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    shell = ["bash", "--norc", "-u", "-c", code]
    done = subprocess.run(
        shell, env=environment(home), cwd=home, text=True, capture_output=True, timeout=30, check=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (home / "connected").exists(), "completion connected to a host"
    return done.stdout.split()


def test_commands_are_completed(home: Path) -> None:
    assert complete(home, "ports clu") == ["cluster"]
    assert {"cluster", "notebook", "list", "open", "shell"} <= set(complete(home, "ports "))
    assert complete(home, "ports cluster st") == ["start", "stop"]


def test_options_are_completed(home: Path) -> None:
    assert complete(home, "ports open --ba") == ["--background"]
    assert complete(home, "ports open server1 --no-b") == ["--no-browser"]
    assert complete(home, "ports cluster start --n-w") == ["--n-workers"]


def test_hosts_come_from_the_ssh_configuration_and_its_includes(home: Path) -> None:
    hosts = ["from-home", "included", "login", "quoted", "server1", "server2"]
    assert complete(home, "ports list ") == hosts
    assert complete(home, "ports list server1 serv") == ["server1", "server2"]
    assert complete(home, "ports cluster stop -H serv") == ["server1", "server2"]
    assert complete(home, "ports_open log", function="_ports_complete_short") == ["login"]


def test_names_are_completed_behind_a_colon_where_bash_splits_words(home: Path) -> None:
    assert complete(home, "ports open server1:") == ["board", "deep", "lab", "main", "thesis"]
    assert complete(home, "ports open server1:ma") == ["main"]
    assert complete(home, "ports tunnel close server1:d") == ["deep"]


def test_names_of_this_machine_and_of_a_host_are_kept_apart(home: Path) -> None:
    assert complete(home, "ports cluster stop ") == ["big"]
    assert complete(home, "ports cluster stop -H server1 ") == ["deep", "main"]


def test_names_are_of_the_kind_that_is_asked_for(home: Path) -> None:
    assert complete(home, "ports notebook stop ") == ["paper"]
    assert complete(home, "ports notebook logs -H server1 ") == ["lab", "thesis"]
    assert complete(home, "ports shell server1:") == ["main"]
    assert complete(home, "ports_shell server1 ", function="_ports_complete_short") == ["main"]
    assert complete(home, "ports_lab server1 ", function="_ports_complete_short") == ["lab", "thesis"]
    assert complete(home, "ports_lab server1 lab ", function="_ports_complete_short") == []


def test_where_no_name_stands_none_is_offered(home: Path) -> None:
    for line in ("cluster list ", "cluster start ", "cluster scale big ", "cluster logs big ", "shell server1 "):
        assert complete(home, f"ports {line}") == [], line
    for line in ("open server1 --owner ", "cluster logs -n ", "cluster start --env ", "notebook start --root "):
        assert complete(home, f"ports {line}") == [], line
    assert complete(home, "ports cluster logs -n 5 ") == complete(home, "ports cluster logs --json ") == ["big"]
    assert not [word for word in complete(home, "ports cluster ") if word.startswith("=")]


def test_without_an_ssh_configuration_no_host_is_offered_silently(home: Path) -> None:
    shutil.rmtree(home / ".ssh")
    assert complete(home, "ports list ") == []


def test_a_tab_in_an_interactive_bash_completes_the_line(home: Path) -> None:
    (home / ".bashrc").write_text(f"PS1='ready> '\nsource {shlex.quote(str(SCRIPT))}\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(home)
        os.execvpe("bash", ["bash", "-i"], environment(home))
    try:
        read_until(terminal, b"ready> ")
        os.write(terminal, b"ports open server2:la\t")
        read_until(terminal, b"server2:lab")
        os.write(terminal, b"\x15ports cluster stop bi\t")
        read_until(terminal, b"stop big")
    finally:
        os.write(terminal, b"\x15exit\n")
        os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal: int, text: bytes, timeout: float = 20) -> bytes:
    seen, end = b"", time.monotonic() + timeout
    while text not in seen:
        if not select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0]:
            raise AssertionError(f"{text!r} did not come within {timeout:g} s, but {seen!r}")
        seen += os.read(terminal, 4096)
    return seen


@pytest.mark.usefixtures("fresh_home")
def test_ports_lab_starts_a_missing_notebook_server_and_opens_it(site: Site, nothing_left: LeakCheck) -> None:
    nothing_left.allow("file */tokens/notebook-lab")  # the link is the same tomorrow
    nothing_left.allow("file */ssh/*.log")
    brief = {"DASK_PORTS__SSH__PERSIST": "1"}  # seconds that connections stay

    def bash(words: str) -> str:
        code = f"source {shlex.quote(str(SCRIPT))}; {words}"
        done = site.run("laptop", ["bash", "-c", code], timeout=90, env=brief)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    first = bash("ports_lab server1 --background && ports tunnel close --all >&2")
    second = bash("ports_lab server1 --background && ports tunnel close --all >&2")
    assert "http://localhost:" in first and "token=" in first
    assert "serves" in first and "serves" not in second, "the second call started another one"
    assert second.split("token=")[1].split()[0] == first.split("token=")[1].split()[0]
    bash("ports notebook stop lab -H server1")


def test_a_short_function_without_a_host_tells_its_usage(home: Path) -> None:
    for name in ("ports_lab", "ports_shell"):
        done = subprocess.run(
            ["bash", "-c", f"source {shlex.quote(str(SCRIPT))}; {name}"], text=True, capture_output=True, timeout=20
        )
        assert (done.returncode, done.stderr.split()[:2]) == (2, ["usage:", name])
