"""What goes wrong: each gives one clear line with the way out and the documented exit code, and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports.state.waiting import wait_until
from tests.acceptance.conftest import KEPT, Laptop
from tests.lab.laptop import without_waits
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Host

pytestmark = [pytest.mark.ci, pytest.mark.timeout(90)]

START = ("cluster", "start", "-H", "server1", "--n-workers", "1")


def refused(laptop: Laptop, *words: str, code: int, lines: int = 1, **where: object) -> str:
    """Return the one line that ``ports <words>`` prints; with ``--json`` the same error comes as a document."""
    done = laptop.type(*words, **where)
    said = (without_waits(done.stderr) + done.stdout).splitlines()
    assert done.stdout == "", "an error is no result"
    assert (done.returncode, len(said)) == (code, lines), done.stderr + done.stdout
    document = laptop.json(*words, code=code, **where)
    error = document[0] if isinstance(document, list) else document["error"]
    message = str(error["message"] if "message" in error else error["error"])
    assert error["exit_code"] == code
    assert message.splitlines()[0].partition(": ")[2] in said[0] or message.splitlines()[0] in said[0]
    return said[0]


def record_of(host: Host, name: str = "main") -> Path:
    """Return where this process finds the directory of a cluster of alice's on `host`."""
    return next(host.path("~/.local/state/ports/hosts").glob("*")) / "clusters" / name


@pytest.fixture
def cluster(root_site: NamespaceSite, laptop: Laptop) -> Iterator[Path]:
    """A cluster ``main`` without workers on server1; return the directory of its records."""
    assert laptop.type("cluster", "start", "-H", "server1", "--n-workers", "0").returncode == 0
    directory = record_of(root_site.host("server1"))
    kept = {file: file.read_bytes() for file in directory.iterdir() if file.is_file()}
    yield directory
    for file, text in kept.items():
        file.write_bytes(text)
    assert laptop.type("cluster", "stop", "-H", "server1").returncode == 0


def test_an_unknown_host_is_told_with_the_names_that_are_near(laptop: Laptop) -> None:
    for words in (["list", "sever1"], ["open", "sever1"], ["cluster", "list", "-H", "sever1"], ["login", "sever1"]):
        line = refused(laptop, *words, code=5)
        assert "the name 'sever1' is unknown" in line
        assert "did you mean server1 or " in line


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["cluster", "start", "Main"], 2, "'Main' is not a name; use a letter a-z, then up to 30"),
        (["cluster", "start", "Main", "-H", "server1"], 2, "server1: 'Main' is not a name"),
        (["notebook", "start", "a" * 32], 2, "is not a name"),
        (["open", "server1:"], 2, "the name after ':' is empty"),
        (["open", "server1:70000"], 2, "70000 is not a port (1 to 65535)"),
        (["open", "-x"], 2, "no option '-x'"),
        (["lits"], 2, "no command 'lits'; did you mean `ports list`?"),
        (["cluster", "start", "--n-workers", "-1"], 2, "--n-workers"),
        (["cluster", "start", "--n-workers", "many"], 2, "many"),
        (["cluster", "start", "--memory-limit", "much"], 2, "memory_limit is 'much'; it must be bytes, 4GB"),
        (["cluster", "start", "--local-directory", "/none"], 2, "local_directory /none is missing or not writable"),
        (["cluster", "start", "--environ", "A"], 2, "'A' is not NAME=VALUE"),
        (["cluster", "start", "--env", "none"], 3, "no environment 'none'; looked for"),
        (["notebook", "start", "--root", "/none"], 2, "'/none' does not exist; pass the directory"),
        (["cluster", "stop", "none"], 3, "no cluster 'none'; `ports cluster start` starts one"),
        (["cluster", "stop", "none", "-H", "server1"], 3, "no cluster 'none'; `ports cluster start -H server1` st"),
        (["notebook", "show", "none", "-H", "server1"], 3, "`ports notebook start -H server1` starts one"),
        (["notebook", "show", "none"], 3, "no notebook 'none'"),
        (["tunnel", "close", "server1"], 3, "no tunnel 'server1'; `ports tunnel list` shows"),
        (["open"], 2, "no target: name HOST"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(site_laptop: Laptop, words: list[str], code: int, told: str) -> None:
    assert told in refused(site_laptop, *words, code=code)


@pytest.fixture(scope="module")
def site_laptop(site: NamespaceSite) -> Iterator[Laptop]:
    """Alice's laptop for commands that do nothing but fail; nothing is left of all of them."""
    site.reset()
    check = LeakCheck(site)
    # the check is made when the last test of this file has ended, whichever that is: what those may keep, stays
    for pattern in (*KEPT, "file */ssh/*.log", "file */logins/*.json", "file */tmux.sock"):
        check.allow(pattern)
    made = Laptop(site)
    yield made
    made.hang_up()
    check.verify()


@pytest.mark.long
def test_a_broken_or_newer_record_is_exit_code_7_on_a_host_too(laptop: Laptop, cluster: Path) -> None:
    record = cluster / "record.json"
    good = record.read_text()
    newer = json.dumps({**json.loads(good), "format": 99})
    for text, hint in ((good[:100], "`ports prune -H server1` moves it aside"), ("", "prune"), (newer, "upgrade")):
        record.write_text(text)
        for words in (["cluster", "start"], ["cluster", "stop"]):
            line = refused(laptop, *words, "-H", "server1", code=7)
            assert hint in line
            assert str(cluster).partition("/home/")[2] in line
            assert line.startswith("ports: server1: record /home/alice/")
        assert hint in refused(laptop, "open", "server1:main", code=7)
        assert hint in refused(laptop, "open", "server1", code=7)
        rows = laptop.json("list", "server1")
        assert [(row["state"], hint in row["reason"]) for row in rows if row["name"] == "main"] == [("unknown", True)]
        there = laptop.site.run("server1", laptop.command("cluster", "start"))
        assert (there.returncode, without_waits(there.stderr).count("\n")) == (7, 1)


def test_a_full_disk_and_a_read_only_home_are_told(laptop: Laptop, root_site: NamespaceSite) -> None:
    place = "/home/alice/.local/state"
    for options, reason in (("size=4k", "No space left on device"), ("ro", "Read-only file system")):
        fill = f"mkdir -p {place} && mount -t tmpfs -o {options},uid=4201 none {place}; head -c 8k /dev/zero >{place}/x"
        root_site.run("server1", ["sh", "-c", fill], user="root")
        for words in (["cluster", "start"], ["notebook", "start"]):
            line = refused(laptop, *words, "-H", "server1", code=5)
            assert reason in line
            assert "set PORTS_HOME to a directory of yours" in line
        assert laptop.json("list", "server1") == []
        root_site.run("server1", ["umount", place], user="root", check=True)
    root_site.run("laptop", ["sh", "-c", f"mkdir -p {place} && mount -t tmpfs -o ro none {place}"], user="root")
    assert laptop.json("list", "server2") == []
    root_site.run("laptop", ["umount", place], user="root", check=True)


def test_without_tmux_a_cluster_runs_detached_and_attach_says_so(laptop: Laptop, root_site: NamespaceSite) -> None:
    root_site.run("server1", ["mv", "/usr/bin/tmux", "/usr/bin/tmux.away"], user="root", check=True)
    try:
        assert laptop.type(*START).returncode == 0
        assert laptop.json("cluster", "show", "-H", "server1")["state"] == "running"
        for words, told in (
            (["cluster", "attach", "-H", "server1"], "runs without tmux; `ports cluster logs main -H server1`"),
            (["shell", "server1"], "tmux is not installed; install it"),
        ):
            done = laptop.type(*words)
            assert (done.returncode, told in done.stderr) == (5, True), done.stderr
        assert laptop.type("cluster", "stop", "-H", "server1").returncode == 0
    finally:
        root_site.run("server1", ["mv", "/usr/bin/tmux.away", "/usr/bin/tmux"], user="root", check=True)


def test_without_ssh_paramiko_is_used_or_the_error_names_what_to_install(
    laptop: Laptop, root_site: NamespaceSite
) -> None:
    bare = {"PATH": str(Path(root_site.python).parent)}
    assert laptop.json("list", "server1", env=bare) == []
    bare["DASK_PORTS__SSH__TRANSPORT"] = "ssh"
    for words in (["list", "server1"], ["open", "server1"], ["cluster", "list", "-H", "server1"], ["login", "server1"]):
        line = refused(laptop, *words, code=5, env=bare)
        assert "ssh is not installed; install the OpenSSH client (`apt install openssh-client`)" in line


def test_without_python3_on_the_far_side_the_line_names_the_setting(laptop: Laptop, root_site: NamespaceSite) -> None:
    root_site.run("server2", ["mv", "/usr/bin/python3", "/usr/bin/python3.away"], user="root", check=True)
    try:
        for words in (["list", "server2"], ["open", "server2"], ["cluster", "list", "-H", "server2"]):
            line = refused(laptop, *words, code=5)
            assert "there is no python3" in line
            assert "ports.hosts.server2.env" in line
    finally:
        root_site.run("server2", ["mv", "/usr/bin/python3.away", "/usr/bin/python3"], user="root", check=True)


def test_where_ports_is_not_installed_a_command_there_names_the_setting(
    laptop: Laptop, root_site: NamespaceSite
) -> None:
    assert root_site.host("server2") is not None
    line = refused(laptop, "cluster", "list", "-H", "server2", code=5)
    assert line.startswith("ports: server2: ports is not installed there")
    assert "ports.hosts.server2.env" in line


@pytest.mark.parametrize("shell", ["noisy bash", "tcsh", "fish"])
def test_start_files_that_print_and_other_login_shells_change_nothing(
    laptop: Laptop, root_site: NamespaceSite, shell: str
) -> None:
    server = root_site.host("server1")
    if shell == "noisy bash":
        noise = 'echo "welcome to $HOSTNAME"; echo \'{"error": 1}\'; echo trouble >&2\n'
        for name in ("~/.bashrc", "~/.profile"):
            file = server.path(name)
            file.write_text(noise + file.read_text() + noise)
    else:
        server.set_login_shell("alice", f"/usr/bin/{shell}")
    value = 'it\'s $HOME "quoted"; !x \\ `id`'
    done = laptop.type(*START, "--environ", f"ODD={value}")
    said = without_waits(done.stderr)
    assert done.returncode == 0 and said.startswith("1 worker × ") and said.count("\n") == 1, done.stderr
    code = "import os, ports; print(ports.client(reuse='any').submit(os.getenv, 'ODD').result())"
    assert laptop.python("server1", code).strip() == value
    opened = laptop.json("open", "server1", "--background")
    assert [(row["name"], row["state"]) for row in opened] == [("main", "open")]
    assert laptop.fetch(opened[0]["local_url"])[0][0] == 200
    laptop.json("tunnel", "close", "--all")
    assert laptop.json("cluster", "stop", "-H", "server1")["state"] == "stopped"


def test_what_the_configuration_adds_to_a_login_is_not_done(laptop: Laptop, root_site: NamespaceSite) -> None:
    config = root_site.host("laptop").path("~/.ssh/config")
    added = ["RemoteCommand tmux new -A", "RequestTTY force", "LocalForward 9999 localhost:9999", "ForwardAgent yes"]
    config.write_text(config.read_text() + "Host *\n" + "".join(f"    {line}\n" for line in added))
    assert {row["state"] for row in laptop.json("list", "server1", "server2")} == {"nothing"}
    assert laptop.json("cluster", "list", "-H", "server1") == []
    assert laptop.listening({9999}) == set()


def test_a_host_key_that_changed_or_is_unknown_is_never_accepted(laptop: Laptop, root_site: NamespaceSite) -> None:
    new = root_site.host("server2").change_host_key()
    for words in (["list", "server2"], ["open", "server2"], ["cluster", "list", "-H", "server2"], ["login", "server2"]):
        line = refused(laptop, *words, code=5)
        assert "its host key has CHANGED to SHA256:" in line
        assert 'forget the old key with `ssh-keygen -f "/home/alice/.ssh/known_hosts" -R "server2"`' in line
    known = root_site.host("laptop").path("~/.ssh/known_hosts")
    known.write_text("".join(line for line in known.read_text().splitlines(True) if not line.startswith("server2 ")))
    before = known.read_text()
    line = refused(laptop, "list", "server2", code=5)
    assert "unknown host key (ED25519 SHA256:" in line
    assert "then accept it by running `ssh server2` once" in line
    known.write_text(before.replace("login ", "elsewhere "))
    laptop.hang_up()
    assert "the jump host login: unknown host key" in refused(laptop, "list", "server1", code=5)
    assert new.split()[1] not in known.read_text()


def test_a_password_that_nobody_can_type_is_an_error_that_names_a_login(
    laptop: Laptop, root_site: NamespaceSite, nothing_left: LeakCheck
) -> None:
    nothing_left.allow("file */logins/*.json")  # no second try until somebody has logged in
    server = root_site.host("server2")
    server.add_sshd_config("PubkeyAuthentication no")
    done = laptop.type("list", "server2")
    assert (done.returncode, without_waits(done.stderr).count("\n")) == (5, 1)
    assert "server2: needs a login (password); run `ports login server2` in a terminal" in done.stderr
    tries = server.log().count("alice")
    for words in (["list", "server2"], ["open", "server2"], ["login", "server2"], ["cluster", "list", "-H", "server2"]):
        assert "run `ports login server2` in a terminal" in refused(laptop, *words, code=5)
    assert laptop.json("list", "server2", code=5)["error"]["type"] == "LoginNeededError"
    assert server.log().count("alice") == tries, "one refusal is enough: more would lock the account"
    assert laptop.json("list", "server1") == []


def test_a_local_port_of_another_user_is_named_and_the_next_one_is_used(
    laptop: Laptop, root_site: NamespaceSite, cluster: Path
) -> None:
    assert cluster.exists()
    usual = laptop.json("open", "server1:main", "--background")[0]["local_port"]
    laptop.json("tunnel", "close", "--all")
    hold = (
        f"import socket, time; s = socket.create_server(('127.0.0.1', {usual})); print(1, flush=True); time.sleep(99)"
    )
    holder = root_site.popen("laptop", ["/usr/bin/python3", "-c", hold], user="bob")
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        line = refused(laptop, "open", "server1:main", "--share", "--local-port", str(usual), code=4)
        assert f"port {usual} is in use by bob; pass " in line
        row = laptop.json("open", "server1:main", "--share", "--background")[0]
        assert (row["state"], row["local_port"]) == ("open", usual + 1)
        assert row["note"] == f"port {usual} is used by bob; using {usual + 1} until {usual} is free"
    finally:
        holder.kill()
        holder.communicate()
    laptop.json("tunnel", "close", "--all")


def test_a_cluster_that_dies_while_it_starts_tells_why_and_frees_its_name(laptop: Laptop) -> None:
    refused = laptop.type(*START, "--option", "nonsense=1")
    assert refused.returncode == 2 and "no option nonsense=1 of ports, or of Dask's" in refused.stderr, refused.stderr
    dies = ("--option", 'scheduler_kwargs={"idle_timeout": "soon"}')
    done = laptop.type(*START, *dies)
    first, log, *lines = without_waits(done.stderr).splitlines()
    assert (done.returncode, first) == (5, "ports: server1: cluster 'main' did not start: exit status 1")
    assert log.startswith("log: /")
    assert 0 < len(lines) <= 20
    assert "Invalid time unit: soon" in "\n".join(lines)
    error = laptop.json(*START, *dies, code=5)["error"]
    assert (error["type"], error["exit_code"]) == ("StartError", 5)
    slow = laptop.type(*START, "--timeout", "0.3")
    said = without_waits(slow.stderr)
    assert said.startswith("ports: server1: cluster 'main' did not start: it did not answer within 0.3 s\nlog: ")
    assert laptop.json("cluster", "list", "-H", "server1") == []


MOMENTS = [
    pytest.param((0.2, 0.9, 1.2), id="3 moments"),
    pytest.param(tuple(0.25 * i for i in range(12)), id="12 moments", marks=pytest.mark.long),
]


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("words", [["open", "server1"], list(START)], ids=["open", "cluster start"])
def test_ctrl_c_leaves_nothing_half_started_at_any_moment(
    laptop: Laptop, nothing_left: LeakCheck, words: list[str], moments: tuple[float, ...]
) -> None:
    nothing_left.allow("file */tmux.sock")  # of a server that ended as it came; nobody listens, the next start takes it
    codes = []
    for seconds in moments:
        running = interrupted(laptop, words, seconds)
        stdout, stderr = running.communicate(timeout=20)
        assert "Traceback" not in stderr
        codes.append(running.returncode)
        if "cluster 'main'" in stdout + stderr:  # it was answered
            assert laptop.type("cluster", "stop", "-H", "server1").returncode == 0
        elif words[:2] == ["cluster", "start"] and running.returncode == 130:
            assert "`ports cluster list -H server1` shows whether it was" in stderr, stderr
        undone = lambda: laptop.json("cluster", "list", "-H", "server1") == [] or None  # noqa: E731
        wait_until(undone, timeout=15, what=f"the undoing after {seconds} s ({stdout}{stderr})", every=0.2)
    assert codes[0] == 130, codes
    # the signal itself: it came while Python shut down; 3: nothing to open
    assert set(codes) <= {130, -signal.SIGINT, 3, 0}


def interrupted(laptop: Laptop, words: list[str], seconds: float) -> subprocess.Popen[str]:
    """Return the command, which got Ctrl-C so long after it began its first ssh."""
    before = connecting(laptop)
    running = laptop.site.popen("laptop", laptop.command(*words))
    wait_until(lambda: connecting(laptop) - before or None, timeout=10, what="the first ssh", every=0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(seconds)
    running.send_signal(signal.SIGINT)
    return running


def connecting(laptop: Laptop) -> set[int]:
    """Return the ssh processes on the laptop."""
    return {one.pid for one in laptop.site.host("laptop").processes() if one.command[0] == "ssh"}
