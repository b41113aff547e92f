"""`ports doctor` in the lab: every check finds the fault that it is there for, and nothing is left or hangs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ports import probe
from ports._version import VERSION
from ports.doctor._forwarding import FORWARD_CHECKS
from ports.doctor._route import HOP_CHECKS, JUMP_CHECKS
from ports.doctor._there import OWN_CHECKS, SERVER_CHECKS
from ports.state.waiting import wait_until
from tests.lab import Site
from tests.lab.namespaces import NamespaceSite

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]
MAY_STAY = ("file */.ssh/authorized_keys",)  # of a host that was off, under its new pid

SOON = {"DASK_PORTS__SSH__CONNECT_TIMEOUT": "3"}
Rows = dict[str, dict[str, Any]]
# what depends on how full and how busy the machine of the tests is
OF_THIS_MACHINE = {"memory", "state-directory", "latency", "tmux"}


def examine(site: Site, *hosts: str, env: dict[str, str] | None = None, code: int | None = None) -> Rows:
    """Run ``ports doctor --json`` and return its rows by host, hop and name, ``server1 login connect``."""
    command = [site.python, "-m", "ports", "doctor", *hosts, "--json"]
    done = site.run("laptop", command, env=env or {}, timeout=100)
    rows = json.loads(done.stdout)
    failed = [row for row in rows if row["state"] == "failed"]
    assert done.returncode == (5 if failed else 0) and (code is None or done.returncode == code), failed
    return {" ".join(str(row[key]) for key in ("host", "hop", "name") if row[key]): row for row in rows}


def states(rows: Rows, state: str) -> set[str]:
    return {key for key, row in rows.items() if row["state"] == state}


def the_rest_is_skipped(rows: Rows, host: str, failed: str) -> None:
    """Assert that one check failed, all before it are well, and all after it were skipped for its sake."""
    own = {key: row for key, row in rows.items() if row["host"] == host}
    before, after = list(own)[: list(own).index(failed)], list(own)[list(own).index(failed) + 1 :]
    assert own[failed]["state"] == "failed" and own[failed]["cause"] and own[failed]["way_out"]
    assert {own[key]["state"] for key in before} == {"ok"} and {own[key]["state"] for key in after} == {"skipped"}
    assert all(own[key]["cause"].startswith("needs ") for key in after)


@pytest.mark.parametrize("alias", ["server1", "server1-old"])
@pytest.mark.quick
def test_a_way_that_is_well_is_well_in_every_line(laptop: Site, alias: str) -> None:
    rows = examine(laptop, alias, code=0)
    jump = "login"
    expected = [
        "configuration",
        *(f"{jump} {name}" for name in JUMP_CHECKS),
        *(f"{alias} {name}" for name in HOP_CHECKS),
    ]
    expected += [*SERVER_CHECKS, *FORWARD_CHECKS]
    assert [key.removeprefix(f"{alias} ") for key in rows if key.startswith(f"{alias} ")] == expected
    wrong = {key for key, row in rows.items() if row["state"] != "ok" and row["name"] not in OF_THIS_MACHINE}
    assert not wrong and not states(rows, "failed")
    assert rows[f"{alias} ports"]["found"].startswith(f"{VERSION}, as here")
    assert ".ssh/config line" in rows[f"{alias} configuration"]["found"] or laptop.kind == "loopback"


@pytest.mark.quick
def test_a_person_reads_a_line_for_each_check_and_how_it_stands(laptop: Site) -> None:
    done = laptop.run("laptop", [laptop.python, "-m", "ports", "doctor", "server2", "nope"], timeout=100)
    blocks = done.stdout.split("\n\n")
    assert done.returncode == 5 and len(blocks) == 3
    assert {block.splitlines()[0] for block in blocks[1:]} == {"server2", "nope"}
    lines = [line.split(None, 2) for block in blocks for line in block.splitlines()[1:]]
    assert {words[0] for words in lines} <= {"ok", "warning", "failed", "skipped", "->"}
    assert "1 failed" in done.stderr


def test_nothing_is_needed_and_nothing_is_written_on_a_server(root_site: NamespaceSite, laptop: Site) -> None:
    def files() -> str:
        return laptop.run("server2", ["find", "/home/alice", "/tmp", "-newer", "/etc/hostname"], check=True).stdout

    before = files()
    rows = examine(laptop, "server2", code=0)
    assert rows["server2 ports"]["state"] == "warning" and "-H server2" in rows["server2 ports"]["cause"]
    assert files() == before


def test_a_kept_connection_is_used_and_named_and_a_dead_one_is_replaced(root_site: NamespaceSite, laptop: Site) -> None:
    examine(laptop, "server2", code=0)
    rows = examine(laptop, "server2", code=0)
    assert "kept from before" in rows["server2 server2 authentication"]["found"]
    laptop.host("server2").power_off()
    laptop.host("server2").power_on()
    rows = examine(laptop, "server2", env=SOON, code=0)
    assert rows["server2 python"]["state"] == "ok"


@pytest.mark.quick
def test_an_alias_that_is_not_there_is_told_with_those_that_resemble_it(laptop: Site) -> None:
    rows = examine(laptop, "servr1", "two words", code=5)
    found = rows["servr1 configuration"]
    assert found["state"] == "failed" and "did you mean server1" in found["way_out"] + found["cause"]
    assert rows["two words configuration"]["state"] == "failed"
    assert {row["state"] for row in rows.values() if row["host"] == "servr1"} == {"failed", "skipped"}


def test_a_configuration_that_ssh_refuses_is_told_with_its_line(laptop: Site) -> None:
    config = laptop.host("laptop").path("~/.ssh/config")
    config.write_text("Hots server1\n" + config.read_text())
    rows = examine(laptop, "server1", code=5)
    assert "line 1" in rows["server1 configuration"]["cause"]


def test_a_name_that_only_its_jump_host_could_know_is_looked_up_there(laptop: Site) -> None:
    config = laptop.host("laptop").path("~/.ssh/config")
    config.write_text("Host lost\n    HostName lost.invalid\n    ProxyJump login\n" + config.read_text())
    laptop.host("login").add_sshd_config("PermitOpen any")
    rows = examine(laptop, "lost", code=5)
    the_rest_is_skipped(rows, "lost", "lost lost resolve")
    assert "getent hosts lost.invalid" in rows["lost lost resolve"]["way_out"]


def test_a_server_that_is_down_is_told_apart_from_its_jump_host(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("server2").cut()
    rows = examine(laptop, "server1", "server2", env=SOON, code=5)
    the_rest_is_skipped(rows, "server2", "server2 server2 connect")
    assert not {key for key in states(rows, "failed") if key.startswith("server1")}


@pytest.mark.quick
def test_a_jump_host_that_is_down_is_the_one_that_is_named(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("login").cut()
    rows = examine(laptop, "server1", env=SOON, code=5)
    the_rest_is_skipped(rows, "server1", "server1 login connect")
    assert "does not answer within 3 s" in rows["server1 login connect"]["cause"]


def test_a_port_where_no_ssh_server_listens_and_one_where_nothing_does(root_site: NamespaceSite, laptop: Site) -> None:
    served = laptop.popen("login", ["/usr/bin/python3", "-c", SILENT_SERVER])
    assert served.stdout is not None
    port = served.stdout.readline().strip()
    config = laptop.host("laptop").path("~/.ssh/config")
    added = f"Host web\n HostName login\n Port {port}\nHost shut\n HostName login\n Port 9\n"
    config.write_text(added + config.read_text())
    rows = examine(laptop, "web", "shut", env=SOON, code=5)
    assert "is not an ssh server" in rows["web web connect"]["cause"]
    assert "refused" in rows["shut shut connect"]["cause"]
    served.kill()


SILENT_SERVER = """
import socket
server = socket.create_server(("0.0.0.0", 0))
print(server.getsockname()[1], flush=True)
while True:
    server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\\r\\n")
"""


def test_a_changed_or_unknown_host_key_comes_with_fingerprint_and_command(laptop: Site) -> None:
    laptop.host("server1").change_host_key()
    rows = examine(laptop, "server1", code=5)
    the_rest_is_skipped(rows, "server1", "server1 server1 host-key")
    found = rows["server1 server1 host-key"]
    assert "CHANGED to SHA256:" in found["cause"] and "ssh-keygen -f" in found["way_out"]
    laptop.host("laptop").path("~/.ssh/known_hosts").write_text("")
    found = examine(laptop, "server2", code=5)["server2 server2 host-key"]
    assert "SHA256:" in found["cause"] and "`ssh server2`" in found["way_out"]


def test_a_login_that_is_needed_is_told_with_the_keys_that_there_are(laptop: Site) -> None:
    def tried() -> int:
        return laptop.host("server2").log().count("Connection closed by authenticating") - logged

    laptop.host("server2").path("~/.ssh/authorized_keys").unlink()
    logged = laptop.host("server2").log().count("Connection closed by authenticating")
    rows = examine(laptop, "server2", code=5)
    the_rest_is_skipped(rows, "server2", "server2 server2 authentication")
    found = rows["server2 server2 authentication"]
    assert "there is no agent" in found["cause"] and "id_ed25519" in found["cause"]
    assert "ports login server2" in found["way_out"]
    wait_until(lambda: tried() or None, timeout=10, what="the line in the log of sshd")
    examine(laptop, "server2", code=5)
    assert tried() == 1  # it waits for a login


def test_a_jump_host_that_prohibits_forwarding_is_reported_in_any_case(laptop: Site) -> None:
    laptop.host("login").add_sshd_config("AllowTcpForwarding no")
    rows = examine(laptop, "server1")
    found = rows["server1 login forward"]
    assert found["state"] in ("warning", "failed") and "prohibits forwarding" in found["cause"]
    assert "AllowTcpForwarding yes" in found["way_out"]
    assert (rows["server1 python"]["state"] == "ok") == (found["state"] == "warning")


def test_paramiko_goes_the_same_way_and_finds_the_same_faults(laptop: Site) -> None:
    carried = {"DASK_PORTS__SSH__TRANSPORT": "paramiko"}
    rows = examine(laptop, "server2", env=carried, code=0)
    assert {rows[f"server2 {name}"]["state"] for name in FORWARD_CHECKS[:2]} == {"ok"}
    assert rows["server2 login forward"]["state"] == "ok" and "paramiko" in rows[f"{here(rows)} ssh"]["found"]
    laptop.host("login").add_sshd_config("AllowTcpForwarding no")
    laptop.host("server2").add_sshd_config("AllowTcpForwarding no")
    rows = examine(laptop, "server2", env=carried, code=0)
    assert states(rows, "warning") >= {"server2 login forward", "server2 forward-port"}
    laptop.host("server2").change_host_key()
    rows = examine(laptop, "server2", env=carried, code=5)
    assert "CHANGED" in rows["server2 server2 host-key"]["cause"]
    assert rows["server2 python"]["cause"] == "needs host-key of server2"


def test_without_an_ssh_program_paramiko_goes_the_way(root_site: NamespaceSite, laptop: Site) -> None:
    rows = examine(laptop, "server2", env={"DASK_PORTS__SSH__PROGRAM": "/nowhere/ssh"}, code=0)
    assert rows[f"{here(rows)} ssh"]["state"] == "warning"
    assert rows["server2 forward-port"]["state"] == "ok"


def here(rows: Rows) -> str:
    """Return the name of the laptop."""
    return str(next(iter(rows.values()))["host"])


def test_a_jump_host_without_sessions_is_told_and_the_stall_is_measured(laptop: Site) -> None:
    laptop.host("login").add_sshd_config("MaxSessions 0")
    rows = examine(laptop, "server2", code=0)
    assert rows["server2 login session"]["state"] == "warning"
    assert rows["server2 latency"]["state"] in ("ok", "warning")  # the kernel may be kind


@pytest.mark.parametrize(("option", "name"), [("Tcp", "forward-port"), ("StreamLocal", "forward-socket")])
def test_what_a_server_does_not_forward_is_tried_and_told(laptop: Site, option: str, name: str) -> None:
    laptop.host("server2").add_sshd_config(f"Allow{option}Forwarding no")
    rows = examine(laptop, "server2", code=0)
    assert rows[f"server2 {name}"]["state"] == "warning"  # `ports open` goes round it
    assert f"Allow{option}Forwarding" in rows[f"server2 {name}"]["cause"]


def test_a_host_without_python3_is_told_and_what_needs_it_is_skipped(laptop: Site) -> None:
    laptop.host("server2").set_login_shell(laptop.users[0], "/bin/bash")
    laptop.host("server2").write("~/.bashrc", "PATH=/nowhere\n")
    rows = examine(laptop, "server2", code=5)
    assert "there is no python3" in rows["server2 python"]["cause"]
    assert {rows[f"server2 {name}"]["state"] for name in (*SERVER_CHECKS[1:], *FORWARD_CHECKS)} == {"skipped"}


@pytest.mark.parametrize("shell", ["/bin/bash", "/usr/bin/fish", "/usr/bin/tcsh"])
def test_start_files_that_print_are_told_in_any_shell(laptop: Site, shell: str) -> None:
    if not Path(shell).exists():
        pytest.skip(f"there is no {shell}")
    laptop.host("server2").set_login_shell(laptop.users[0], shell)
    for file in ("~/.bashrc", "~/.tcshrc", "~/.config/fish/config.fish"):
        laptop.host("server2").write(file, "echo welcome\n")
    rows = examine(laptop, "server2", code=0)
    assert rows["server2 shell"]["state"] == "warning" and "'welcome'" in rows["server2 shell"]["cause"]


@pytest.mark.ci
@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ("exit 0", "ended the shell"),
        ("exec cat", "ended the shell"),
        ("exec sh -c 'exit 3'", "ended the shell (exit or exec), with status 3"),
        ("cat > /dev/null", "read the input"),
        ("while read -r line; do :; done", "read the input"),
    ],
)
def test_start_files_of_each_command_that_end_or_read_are_told(laptop: Site, lines: str, cause: str) -> None:
    laptop.host("server2").set_login_shell(laptop.users[0], "/bin/bash")
    laptop.host("server2").write("~/.bashrc", f"{lines}\n")
    row = examine(laptop, "server2", code=5)["server2 python"]
    assert f"your start files there {cause}" in row["cause"] and "[ -t 0 ]" in row["way_out"]


@pytest.mark.ci
@pytest.mark.parametrize("lines", ["exit 0", "exec cat", "exec true"])
def test_start_files_of_a_login_that_end_the_shell_are_told(laptop: Site, lines: str) -> None:
    server = laptop.host("server2")
    server.set_login_shell(laptop.users[0], "/bin/bash")
    server.write("~/.bash_profile", f"{lines}\n")
    row = examine(laptop, "server2", code=0)["server2 shell"]
    assert "your start files there ended the shell" in row["cause"] and row["state"] == "warning"


def test_a_host_without_tmux_is_told(laptop: Site) -> None:
    server = laptop.host("server2")
    server.set_login_shell(laptop.users[0], "/bin/bash")
    server.write("~/only/python3", '#!/bin/sh\nexec /usr/bin/python3 "$@"\n', mode=0o700)
    for file in ("~/.bashrc", "~/.bash_profile"):
        server.write(file, "PATH=$HOME/only\n")
    rows = examine(laptop, "server2", code=0)
    assert rows["server2 tmux"]["state"] == "warning" and "no tmux" in rows["server2 tmux"]["cause"]


def test_a_clock_that_is_wrong_is_told(laptop: Site) -> None:
    server = laptop.host("server2")
    server.set_login_shell(laptop.users[0], "/bin/bash")
    late = "import sys, time; real = time.time; time.time = lambda: real() - 7200; exec(sys.stdin.read())"
    server.write("~/late/python3", f"#!/bin/sh\nexec /usr/bin/python3 -c '{late}'\n", mode=0o700)
    server.write("~/.bashrc", "PATH=$HOME/late:$PATH\n")
    rows = examine(laptop, "server2", code=0)
    assert rows["server2 clock"]["state"] == "warning" and "2 h behind" in rows["server2 clock"]["cause"]


def test_another_version_of_ports_there_is_told(laptop: Site) -> None:
    laptop.host("server2").write("~/other/bin/python", "#!/bin/sh\necho ports, version 9.9.9\n", mode=0o700)
    rows = examine(laptop, "server2", env={"DASK_PORTS__HOSTS__SERVER2__ENV": "~/other"}, code=0)
    assert rows["server2 ports"]["state"] == "warning" and "9.9.9 there" in rows["server2 ports"]["cause"]


def test_logout_that_would_end_a_cluster_is_told_unless_the_user_lingers(
    root_site: NamespaceSite, laptop: Site
) -> None:
    server = root_site.host("server2")
    file = "/etc/systemd/logind.conf.d/x.conf"
    script = f"mkdir -p /run/systemd/system {Path(file).parent}; echo KillUserProcesses=yes > {file}"
    root_site.run("server2", ["sh", "-c", script], user="root", check=True)
    try:
        found = examine(laptop, "server2", code=5)["server2 logout"]
        assert found["state"] == "failed" and "loginctl enable-linger" in found["way_out"]
        linger = "mkdir -p /var/lib/systemd/linger; touch /var/lib/systemd/linger/alice"
        root_site.run("server2", ["sh", "-c", linger], user="root", check=True)
        assert examine(laptop, "server2", code=0)["server2 logout"]["state"] == "ok"
    finally:
        undo = f"rm -r /run/systemd/system {file} /var/lib/systemd/linger/alice"
        root_site.run(server.name, ["sh", "-c", undo], user="root")


@pytest.mark.parametrize("options", ["size=64k", "nr_inodes=8", "ro"])
def test_a_disk_that_is_full_or_read_only_is_told(root_site: NamespaceSite, laptop: Site, options: str) -> None:
    place = "/home/alice/.local/state"
    mount = f"mkdir -p {place} && mount -t tmpfs -o {options},uid=4201 none {place}"
    root_site.run("server2", ["sh", "-c", mount], user="root", check=True)
    try:
        found = examine(laptop, "server2", code=5)["server2 state-directory"]
    finally:
        root_site.run("server2", ["umount", place], user="root", check=True)
    assert found["state"] == "failed" and ("full" in found["cause"]) == (options != "ro")


def test_a_server_that_accepts_and_says_nothing_is_given_up(root_site: NamespaceSite, laptop: Site) -> None:
    frozen = root_site.host("login").pid  # type: ignore[attr-defined]
    os.kill(frozen, signal.SIGSTOP)
    try:
        started = time.monotonic()
        rows = examine(laptop, "server1", env=SOON, code=5)
        assert time.monotonic() - started < 20
    finally:
        os.kill(frozen, signal.SIGCONT)
    the_rest_is_skipped(rows, "server1", "server1 login connect")


def test_ctrl_c_ends_it_at_once(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("server2").cut()
    running = laptop.popen("laptop", [laptop.python, "-m", "ports", "doctor", "server2", "server1"])
    shown = running.stdout
    assert shown is not None
    wait_until(lambda: "server1" in shown.readline() or None, timeout=30, what="the lines of server1")
    started = time.monotonic()
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert running.returncode == 130 and time.monotonic() - started < 5


def test_the_echo_answers_only_with_the_secret_and_ends_with_its_reader() -> None:
    import socket

    text = probe.script({"do": "echo", "marker": "here:", "secret": "s" * 32, "seconds": 60}).encode()
    command = [sys.executable, "-I", "-S", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None and running.stdout is not None
        running.stdin.write(text)
        running.stdin.close()
        running.stdout.readline()
        where = json.loads(running.stdout.readline().partition(b"here:")[2])
        with socket.create_connection(("127.0.0.1", where["port"]), timeout=10) as stranger:
            stranger.sendall(b"x" * 32)
            assert stranger.recv(100) == b""
        with socket.socket(socket.AF_UNIX) as friend:
            friend.settimeout(10)
            friend.connect(where["path"])
            friend.sendall(b"s" * 32)
            assert friend.recv(100) == b"s" * 32
        assert Path(where["path"]).parent.stat().st_mode & 0o777 == 0o700
        running.stdout.close()
        assert running.wait(timeout=10) == 0
    assert not Path(where["path"]).parent.exists()


def test_the_users_own_connection_serves_is_told_and_goes_on(root_site: NamespaceSite, laptop: Site) -> None:
    config = laptop.host("laptop").path("~/.ssh/config")
    mine = "Host server2\n    ControlMaster auto\n    ControlPath ~/.ssh/mine-%h\n    ControlPersist 100\n"
    config.write_text(mine + config.read_text())
    laptop.host("server2").add_sshd_config("AllowTcpForwarding no")
    laptop.run("laptop", ["sh", "-c", "ssh server2 true 2>/dev/null >&2"], check=True)
    rows = examine(laptop, "server2")
    assert "your own connection" in rows["server2 server2 authentication"]["found"]
    assert {rows[f"server2 login {name}"]["state"] for name in JUMP_CHECKS[2:]} == {"skipped"}
    assert rows["server2 forward-port"]["state"] == "warning"  # `ports open` goes round
    assert "a session of its own" in rows["server2 forward-port"]["cause"]
    assert laptop.run("laptop", ["ssh", "-O", "exit", "server2"]).returncode == 0


def test_what_ails_a_server_itself_is_found_and_its_way_out_helps(laptop: Site) -> None:
    server = laptop.host("server1")
    laptop.run("laptop", [laptop.python, "-m", "ports", "cluster", "stop", "no", "-H", "server1"], timeout=60)
    find = 'from ports import sessions; print(sessions.files("cluster", "half").directory)'
    directory = laptop.run("server1", [laptop.python, "-c", find], check=True).stdout.strip()
    server.write(f"{directory}/record.json", "{half a record", user="alice", mode=0o600)
    server.write("~/.config/dask/ports.yaml", "ports: {cluster: {local_directory: /nowhere}}\n", user="alice")
    try:
        rows = examine(laptop, "server1", code=5)
        found = {name: rows[f"server1 {name}"] for name in OWN_CHECKS}
        assert found["scratch"]["state"] == "failed" and "/nowhere is missing" in found["scratch"]["cause"]
        assert found["environment"]["state"] == "ok" and "distributed" in found["environment"]["found"]
        assert found["records"]["state"] == "warning" and f"{directory}/record.json" in found["records"]["cause"]
        assert found["records"]["way_out"] == "`ports prune -H server1` moves it aside"
        server.path("~/.config/dask/ports.yaml", user="alice").unlink()
        laptop.run("laptop", [laptop.python, "-m", "ports", "prune", "-H", "server1"], check=True, timeout=60)
        rows = examine(laptop, "server1", code=0)
        assert {rows[f"server1 {name}"]["state"] for name in OWN_CHECKS} == {"ok"}
    finally:
        server.path("~/.config/dask/ports.yaml", user="alice").unlink(missing_ok=True)
        for aside in server.path(directory).parent.glob("half*"):
            shutil.rmtree(aside)
