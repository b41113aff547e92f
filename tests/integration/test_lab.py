"""The site of hosts that other tests stand on."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ports.state.waiting import wait_until
from tests.lab import Host, NotPossibleError, Site
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import HostProcess

SITES = pytest.mark.parametrize("kind", ["namespaces", "loopback"])
MakeSite = Callable[..., Site]
# tcsh takes no -c beside -l
SHOW_PATH = {"tcsh": "printenv PATH", "fish": "fish -l -c 'printenv PATH'"}
pytestmark = [pytest.mark.ci, pytest.mark.timeout(60)]


def ssh(site: Site, host: str, command: str, *, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run `command` on `host` from the laptop."""
    return site.run("laptop", [*site.ssh, "-oBatchMode=yes", *options, host, command], timeout=30)


def live(host: Host) -> list[HostProcess]:
    """Return what runs on `host`, without zombies: an orphan may stay one for a while."""
    return [process for process in host.processes() if process.state != "Z"]


@SITES
def test_a_user_reaches_both_servers_from_the_laptop_by_the_login_node(site_of_its_own: MakeSite, kind: str) -> None:
    site = site_of_its_own(kind=kind)
    for alias, host in (("server1", "server1"), ("server1-old", "server1"), ("server2", "server2")):
        result = ssh(site, alias, "echo $HOME $USER")
        home = site.host(host).path("~/")
        expected = f"{home if kind == 'loopback' else '/home/alice'} {site.users[0]}\n"
        assert (result.returncode, result.stdout) == (0, expected), result.stderr


@SITES
def test_the_login_node_forwards_to_the_ssh_of_the_servers_only(site_of_its_own: MakeSite, kind: str) -> None:
    site = site_of_its_own(kind=kind)
    result = site.run("laptop", [*site.ssh, "-oBatchMode=yes", "-W", "server1:6006", "login"])
    assert result.returncode != 0
    assert "administratively prohibited" in result.stderr


@pytest.mark.quick
def test_the_laptop_reaches_no_server_by_itself(root_site: NamespaceSite, fresh_home: Site) -> None:
    result = ssh(root_site, "server1", "true", options=("-oProxyJump=none", "-oConnectTimeout=3"))
    assert result.returncode == 255
    assert "unreachable" in result.stderr
    assert ssh(root_site, "login", "hostname").stdout == "login\n"


@pytest.mark.quick
def test_each_host_is_a_machine_of_its_own(root_site: NamespaceSite, fresh_home: Site) -> None:
    seen = []
    for host in root_site.hosts:
        command = (
            "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; readlink /proc/self/ns/pid; ls /proc/1"
        )
        lines = root_site.run(host, ["sh", "-c", command], check=True).stdout.splitlines()
        assert lines[0] == host
        seen += lines[1:4]
        root_site.host(host).write("/tmp/mine", host)
    assert len(set(seen)) == len(seen)
    assert [root_site.run(host, ["cat", "/tmp/mine"]).stdout for host in root_site.hosts] == list(root_site.hosts)
    assert root_site.run("server1", ["id", "-u"], user="bob").stdout != root_site.run("server1", ["id", "-u"]).stdout


@pytest.mark.quick
def test_nothing_of_ports_is_on_the_login_node_and_the_second_server(
    root_site: NamespaceSite, fresh_home: Site
) -> None:
    for host in ("login", "server2"):
        for python in ("/usr/bin/python3", sys.executable, *([root_site.notebook_python] if host == "server2" else [])):
            result = root_site.run(host, ["sh", "-c", f"cd /; exec {python} -c 'import ports; print(ports.__file__)'"])
            assert result.returncode in (1, 127), result.stdout
    assert not root_site.host("server2").path(str(Path(__file__))).exists()


def test_the_servers_have_an_environment_with_jupyter_but_without_ports(
    root_site: NamespaceSite, fresh_home: Site
) -> None:
    if not any(Path(sys.prefix, "bin").glob("jupyter-lab")):
        pytest.skip("JupyterLab is not installed")
    jupyter = str(Path(root_site.notebook_python).with_name("jupyter-lab"))
    result = root_site.run("server2", [jupyter, "--version"], timeout=50)
    assert result.returncode == 0, result.stderr
    where = "import distributed, sys; print(distributed.__file__, sys.prefix)"
    assert root_site.run("server2", [root_site.notebook_python, "-c", where]).stdout.count("/opt/notebooks") == 2


def test_the_environment_is_on_the_path_of_the_first_server_only(site: Site, fresh_home: Site) -> None:
    own = str(Path(sys.prefix, "bin"))
    assert own in ssh(site, "server1", "sh -lc 'echo $PATH'").stdout.strip().split(":")
    assert own not in ssh(site, "server2", "sh -lc 'echo $PATH'").stdout.strip().split(":")


@pytest.mark.parametrize("shell", ["tcsh", "fish"])
def test_a_user_may_have_another_login_shell(root_site: NamespaceSite, fresh_home: Site, shell: str) -> None:
    program = shutil.which(shell, path="/usr/bin:/bin")
    if program is None:
        pytest.skip(f"{shell} is not installed")
    root_site.host("server1").set_login_shell("alice", program)
    assert ssh(root_site, "server1", "echo $version").stdout.startswith({"tcsh": "tcsh", "fish": "3"}[shell])
    own = str(Path(sys.prefix, "bin"))
    assert own in ssh(root_site, "server1", SHOW_PATH[shell]).stdout.split()[0].split(":")
    root_site.reset()
    assert ssh(root_site, "server1", "echo $version").stdout == "\n"


@SITES
def test_a_host_that_lost_power_comes_back_with_its_disk(site_of_its_own: MakeSite, kind: str) -> None:
    site = site_of_its_own(kind=kind)
    server = site.host("server1")
    server.write("~/kept", "still here\n")
    sleeper = site.popen("server1", ["sleep", "1000"])
    wait_until(lambda: server.processes() or None, timeout=5, what="sleep on server1")
    server.power_off()
    assert sleeper.wait(timeout=10) == -signal.SIGKILL
    for stream in (sleeper.stdout, sleeper.stderr):
        if stream is not None:
            stream.close()
    assert not server.processes() and not server.listeners()
    assert ssh(site, "server1", "true", options=("-oConnectTimeout=1",)).returncode == 255
    assert ssh(site, "server2", "true").returncode == 0
    server.power_on()
    assert ssh(site, "server1", "cat $HOME/kept").stdout == "still here\n"


@pytest.mark.quick
def test_a_host_that_is_cut_off_goes_on_by_itself(root_site: NamespaceSite, fresh_home: Site) -> None:
    server = root_site.host("server1")
    server.cut()
    assert ssh(root_site, "server1", "true", options=("-oConnectTimeout=1",)).returncode == 255
    to_itself = "import socket; print(socket.create_connection(('127.0.0.1', 22), 3).recv(3))"
    assert root_site.run("server1", ["python3", "-c", to_itself]).stdout == "b'SSH'\n"
    server.mend()
    assert ssh(root_site, "server1", "true").returncode == 0


@SITES
def test_a_changed_host_key_and_sshd_configuration_last_until_the_reset(site_of_its_own: MakeSite, kind: str) -> None:
    site = site_of_its_own(kind=kind)
    server = site.host("server1")
    server.add_sshd_config("ForceCommand echo forced")
    assert ssh(site, "server1", "echo asked").stdout == "forced\n"
    server.change_host_key()
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in ssh(site, "server1", "true").stderr
    site.reset()
    assert ssh(site, "server1", "echo asked").stdout == "asked\n"


@SITES
@pytest.mark.quick
def test_a_reset_ends_processes_and_empties_homes(site_of_its_own: MakeSite, kind: str) -> None:
    site = site_of_its_own(kind=kind)
    assert ssh(site, "server1", "nohup sleep 1000 >/dev/null 2>&1 & touch $HOME/file").returncode == 0
    server = site.host("server1")
    assert any("sleep" in process.command for process in server.processes())
    site.reset()
    assert not live(server)
    assert not server.path("~/file").exists()
    assert server.path("~/.ssh/authorized_keys").exists()


@SITES
def test_a_leak_is_found(site_of_its_own: MakeSite, kind: str) -> None:
    site = site_of_its_own(kind=kind)
    check = LeakCheck(site)
    check.verify(timeout=0)
    listen = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print('there', flush=True); time.sleep(99)"
    )
    leaker = site.popen("server2", [site.notebook_python, "-c", listen])
    assert leaker.stdout is not None and leaker.stdout.readline() == "there\n"
    site.host("login").write("~/.local/state/ports/hosts/x/clusters/main/record.json", "{}")
    with pytest.raises(AssertionError, match="left behind") as caught:
        check.verify(timeout=0)
    text = str(caught.value)
    for part in ("server2: listener 127.0.0.1:", "server2: process", "login: file", "clusters/main/record.json"):
        assert part in text
    with leaker:
        leaker.terminate()
    site.host("login").path("~/.local/state/ports/hosts/x/clusters/main/record.json").unlink()
    check.verify()


@SITES
def test_ctrl_c_reaches_a_command_and_its_children(site_of_its_own: MakeSite, kind: str) -> None:
    site = site_of_its_own(kind=kind)
    program = (
        "import signal, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(10 - child.wait()))\n"
        "print('ready', flush=True)\n"
        "signal.pause()"
    )
    with site.popen("laptop", ["python3", "-c", program]) as running:
        assert running.stdout is not None and running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=10) == 10 + signal.SIGINT


@SITES
def test_a_command_that_takes_too_long_is_killed(site_of_its_own: MakeSite, kind: str) -> None:
    site = site_of_its_own(kind=kind)
    with pytest.raises(subprocess.TimeoutExpired):
        site.run("server1", ["sleep", "1000"], timeout=0.3)
    wait_until(lambda: not live(site.host("server1")) or None, timeout=5, what="end of sleep")
    assert site.run("server1", ["cat"], input="text").stdout == "text"
    assert site.run("server1", ["sh", "-c", "kill -TERM $$"]).returncode == -signal.SIGTERM
    assert site.run("server1", ["/no/such/program"]).returncode == 127


def test_servers_may_share_a_home(site_of_its_own: MakeSite) -> None:
    site = site_of_its_own(shared_home=True)
    site.run("server1", ["sh", "-c", "echo hello > ~/note"], check=True)
    assert site.run("server2", ["sh", "-c", "cat ~/note"]).stdout == "hello\n"
    assert site.run("login", ["sh", "-c", "cat ~/note"]).returncode == 1


@SITES
def test_three_servers_may_reach_each_other_by_ssh(site_of_its_own: MakeSite, kind: str) -> None:
    site = site_of_its_own(kind=kind, n_servers=3, between_servers=True)
    assert list(site.hosts) == ["laptop", "login", "server1", "server2", "server3"]
    for first, second in (("server1", "server2"), ("server2", "server3"), ("server3", "server1")):
        config = site.environment(first).get("DASK_PORTS__SSH__CONFIG")
        command = ["ssh", *(["-F", config] if config else []), "-oBatchMode=yes", second, "echo $HOME"]
        result = site.run(first, command)
        home = site.host(second).path("~/") if kind == "loopback" else "/home/alice"
        assert (result.returncode, result.stdout) == (0, f"{home}\n"), result.stderr
    assert ssh(site, "server3", "echo there").stdout == "there\n"


@SITES
def test_servers_do_not_reach_each_other_by_themselves(site_of_its_own: MakeSite, kind: str) -> None:
    site = site_of_its_own(kind=kind)
    assert not site.host("server1").path("~/.ssh/id_ed25519").exists()
    assert site.run("server1", ["ssh", "-oBatchMode=yes", "-oConnectTimeout=3", "server2", "true"]).returncode == 255


@pytest.mark.quick
def test_a_reset_leaves_alone_who_was_not_used(root_site: NamespaceSite, fresh_home: Site) -> None:
    assert ssh(root_site, "server1", "nohup sleep 1000 >/dev/null 2>&1 & touch ~/file").returncode == 0
    assert [name for name, host in root_site.hosts.items() if host.was_used()] == ["laptop", "login", "server1"]
    root_site.reset()
    assert not [name for name, host in root_site.hosts.items() if host.was_used()]
    assert not live(root_site.host("server1")) and not root_site.host("server1").find("~/file").exists()


def test_a_command_that_is_killed_stays_no_zombie(root_site: NamespaceSite, fresh_home: Site) -> None:
    laptop = root_site.host("laptop")
    running = root_site.popen("laptop", ["sleep", "1000"], user="bob")
    wait_until(lambda: any("sleep" in one.command for one in live(laptop)) or None, timeout=20, what="sleep")
    running.kill()
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    assert not laptop.processes()


def test_loopback_says_what_it_cannot_do(site_of_its_own: MakeSite) -> None:
    site = site_of_its_own(kind="loopback")
    for ask in (site.host("server1").cut, lambda: site.run("server1", ["true"], user="bob")):
        with pytest.raises(NotPossibleError, match="root"):
            ask()
    with pytest.raises(NotPossibleError, match="one machine"):
        site_of_its_own(kind="loopback", shared_home=True)


def test_a_worker_of_root_has_a_network_and_a_tmp_of_its_own(request: pytest.FixtureRequest) -> None:
    if not hasattr(request.config, "workerinput") or os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("tests run one after another, or without root, where nobody can have that")
    interfaces = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    assert interfaces == ["lo"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    if not sys.prefix.startswith("/tmp/"):
        assert Path("/tmp").stat().st_dev != Path(f"/proc/{os.getppid()}/root/tmp").stat().st_dev


def traces() -> dict[str, object]:
    """Return what a site could leave on this machine, beside its processes."""
    return {
        "mounts": Path("/proc/self/mounts").read_text(),
        "interfaces": sorted(line.split(":")[0] for line in Path("/proc/net/dev").read_text().splitlines()),
        "namespaces": sorted(path.name for path in Path("/run/netns").glob("*")),
        "lock": Path("/run/xtables.lock").exists(),
        "children": sorted(child.pid for child in psutil.Process().children(recursive=True)),
    }


def is_gone(pid: int) -> bool | None:
    """Return True when process `pid` has ended, as a zombie has; else None."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE or None
    except psutil.NoSuchProcess:
        return True


@SITES
def test_a_site_comes_up_and_goes_twice_and_leaves_nothing(site_of_its_own: MakeSite, kind: str) -> None:
    if kind == "namespaces":
        site_of_its_own(kind=kind).down()  # skips without root, before anything is looked at
    before = traces()
    for _ in range(2):
        site = site_of_its_own(kind=kind)
        if kind == "namespaces":
            site.host("server1").cut()
        started = site.popen("server1", ["sh", "-c", "setsid sleep 1000 & echo; sleep 1000"])
        assert started.stdout is not None and started.stdout.readline() == "\n"
        ran = [process.pid for host in site.hosts.values() for process in host.processes()]
        directory = getattr(site, "top")  # noqa: B009  each kind's own
        assert len(ran) >= 2 and directory.exists() and traces() != before
        site.down()
        with started:
            assert started.wait(timeout=10) == -signal.SIGKILL
        for pid in ran:
            wait_until(functools.partial(is_gone, pid), timeout=5, what=f"end of process {pid}")
        assert traces() == before and not directory.exists()


def test_a_site_ends_with_the_process_that_keeps_it(root_site: NamespaceSite, fresh_home: Site) -> None:
    program = (
        "import sys, signal\n"
        "from tests.lab.namespaces import NamespaceSite\n"
        "site = NamespaceSite(); site.up()\n"
        "print(site.host('server1').pid, flush=True)\n"
        "signal.pause()"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        first = Path("/proc", keeper.stdout.readline().strip())
        assert first.exists()
        keeper.kill()
    wait_until(lambda: not first.exists() or None, timeout=10, what="end of server1")


def test_the_site_is_there_by_hand(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHON": sys.executable}

    def lab(*arguments: str, input: str = "") -> str:
        command = [str(root / "scripts/lab"), *arguments]
        done = subprocess.run(command, env=environment, input=input, capture_output=True, text=True, timeout=40)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "down" in lab("status")
    try:
        assert "scripts/lab shell laptop" in lab("up")
        assert "is up" in lab("status")
        config = "${DASK_PORTS__SSH__CONFIG:+-F $DASK_PORTS__SSH__CONFIG}"
        command = f"ssh -o BatchMode=yes {config} server2 echo from the server; exit\n"
        assert "from the server" in lab("shell", "laptop", input=command)
    finally:
        lab("down")
    assert "down" in lab("status")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["run", "communicate", "block"])
@pytest.mark.quick
def test_what_a_command_started_ends_with_its_time(site: Site, fresh_home: Site, how: str) -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '61.5'], start_new_session=True).wait()"
    command = ["/usr/bin/python3", "-c", code]
    if how == "run":
        with pytest.raises(subprocess.TimeoutExpired):
            site.run("server1", command, timeout=1)
    elif how == "communicate":
        with site.popen("server1", command) as running, pytest.raises(subprocess.TimeoutExpired):
            running.communicate(timeout=1)
    else:
        with pytest.raises(AssertionError, match="failed"), site.popen("server1", command):
            found = site.host("server1").processes
            wait_until(lambda: any("61.5" in one.command for one in found()) or None, timeout=20, what="sleep")
            raise AssertionError("failed")

    def gone() -> bool | None:
        return not any("61.5" in one.command for one in site.host("server1").processes() if one.state != "Z") or None

    wait_until(gone, timeout=5, what="end of what the command started")
