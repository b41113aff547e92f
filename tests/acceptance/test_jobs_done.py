"""Alice sends jobs to server1 from her laptop, closes it, and finds what became of them; what goes wrong meanwhile."""

from __future__ import annotations

import configparser
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.acceptance.conftest import KEPT, Laptop
from tests.lab.disk import CHECKOUT
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Site
from tests.lab.wheels import from_wheels, other_python_here

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

#: What stays of jobs, on purpose; the fixture removes it.
JOBS = "rm -rf ~/.local/state/ports/hosts/*/jobs ~/project ~/fetched /tmp/ports-$(id -u)/leases"
NIGHT = """
import json, sys
import ports

def load(n):
    return list(range(n))

def scaled(values, factor):
    return [factor * value for value in values]

def add(x, y=1):
    return x + y

with ports.host("server1"):
    one = ports.submit(add, 41)
    many = ports.map(add, range(10_000), name="night")
    clean = ports.submit(load, 10)
    total = ports.submit(sum, ports.submit(scaled, clean, 3))
print(json.dumps([one.id, many.id, total.id]), flush=True)
"""
MORNING = """
import json, sys
import ports
one, many, total = (ports.jobs.get(id) for id in json.loads(sys.argv[1]))
values = ports.gather(many, timeout=200, progress=False)
print(json.dumps([one.result(100), len(values), sum(values), total.result(100), list(sys.version_info[:2])]))
"""
# Counts slowly, until the file `go` is there.
COUNTS = 'i=0; while [ ! -e go ]; do i=$((i+1)); echo $i; sleep 0.1; done; echo "last $i"'


class Night(Laptop):
    """Commands of alice's about jobs on server1."""

    def submit(self, *words: str, **where: Any) -> str:
        """Submit a job, and return its id."""
        where.setdefault("host", "server1")
        done = self.type("job", "submit", *words, **where)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, id: str, host: str = "server1") -> str:
        """Return the state of a job."""
        return str(self.json("job", "show", id, host=host)["state"])

    def until(self, id: str, *states: str, host: str = "server1") -> None:
        """Wait until a job is in one of `states`."""
        wait_until(lambda: self.state(id, host) in states or None, timeout=100, what=f"{states} of job {id}", every=0.2)

    def ends(self, id: str, state: str = "finished") -> str:
        """Wait for the end of a job, check how it ended, and return what it printed."""
        done = self.type("job", "wait", "--within", "100", id, host="server1", timeout=120)
        assert done.returncode == (0 if state == "finished" else 8), done.stderr + done.stdout
        assert self.state(id) == state
        return self.type("job", "logs", "--lines", "0", id, host="server1").stdout

    def end(self) -> None:
        """End what is left of the test's jobs, and their files."""
        for host in ("server1", "server2"):
            if host not in getattr(self.site, "installed", ("server1",)):
                continue
            running = [
                row["id"] for row in self.json("job", "list", host=host) if row["state"] in ("pending", "running")
            ]
            if running:
                self.type("job", "cancel", *running, host=host)
                self.type("job", "wait", "--within", "60", *running, host=host, timeout=90)
            self.type("resource", "stop", "--now", host=host)
            self.site.run(host, ["sh", "-c", JOBS])
        self.site.run("laptop", ["sh", "-c", JOBS])


@contextlib.contextmanager
def night_of(site: Site) -> Iterator[Night]:
    """Yield alice's commands, and check in the end that nothing is left."""
    check = LeakCheck(site)
    for pattern in (*KEPT, "file */logins/*", "file */jump-methods/*"):
        check.allow(pattern)
    made = Night(site)
    try:
        yield made
    finally:
        made.end()
        made.hang_up()
    check.verify()


@pytest.fixture
def night(root_site: NamespaceSite) -> Iterator[Night]:
    """Alice's laptop and server1, as they were at first."""
    root_site.reset()
    with night_of(root_site) as made:
        yield made


# --- another Python at home ---


@pytest.fixture(scope="module")
def other_python() -> Iterator[str]:
    """An interpreter of another minor version that has what `ports` requires, where each host of the site sees it."""
    found = other_python_here()
    if found is None:
        pytest.skip("there is no Python of another minor version here; `uv python install 3.12` brings one")
    top = Path(tempfile.mkdtemp(prefix="ports-python-", dir="/opt"))
    try:
        top.chmod(0o755)
        if found.is_relative_to(Path.home()):  # hosts have homes of their own
            shutil.copytree(found.parents[1], top / "base", symlinks=True)
            found = top / "base" / "bin" / found.name
        subprocess.run([found, "-m", "venv", top / "venv"], check=True, timeout=100, capture_output=True)
        python = top / "venv/bin/python"
        wanted = [sys.executable, "-c", "import sysconfig; print(sysconfig.get_python_version())"]
        version = subprocess.run([python, *wanted[1:]], capture_output=True, text=True, check=True).stdout.strip()
        setup = configparser.ConfigParser()
        setup.read(CHECKOUT / "setup.cfg")
        required = setup["options"]["install_requires"].split("\n")[1:]
        command = [python, "-m", "pip", "install", "-q", *from_wheels(), *required]
        done = subprocess.run(command, capture_output=True, timeout=600, check=False)
        if done.returncode:
            pytest.skip("pip cannot install what ports requires for another Python here")
        (top / f"venv/lib/python{version}/site-packages/checkout.pth").write_text(f"{CHECKOUT}\n")
        own = f"LD_LIBRARY_PATH={found.parents[1]}/lib\nexport LD_LIBRARY_PATH\n" if top in found.parents else ""
        (top / "python").write_text(f'#!/bin/sh\n{own}exec {python} "$@"\n')  # pyenv's names its library by its path
        (top / "python").chmod(0o755)
        yield str(top / "python")
    finally:
        shutil.rmtree(top)


TRAIN = """
import pathlib, time
print("data:", pathlib.Path("data.txt").read_text().strip(), flush=True)
pathlib.Path("results").mkdir()
while not pathlib.Path.home().joinpath("go").exists():
    time.sleep(0.1)
pathlib.Path("results/model.txt").write_text("a model")
print("trained")
"""


@pytest.mark.timeout(900)
def test_alice_of_another_python_is_cut_off_and_gets_everything(night: Night, other_python: str) -> None:
    site = night.site
    site.host("laptop").write("~/night.py", NIGHT)
    done = site.run("laptop", [other_python, "night.py"], timeout=200)
    assert done.returncode == 0, done.stderr
    ids = done.stdout.splitlines()[-1]
    assert [id.partition(":")[0] for id in json.loads(ids)] == ["server1"] * 3
    site.host("laptop").write("~/project/train.py", TRAIN)
    site.host("laptop").write("~/project/data.txt", "of the laptop")
    ports = [other_python, "-m", "ports", "job"]
    words = [
        *ports,
        "submit",
        "-H",
        "server1",
        "--copy",
        "--out",
        "results",
        "--cpus",
        "0.5",
        "--",
        "python3",
        "train.py",
    ]
    done = site.run("laptop", words, cwd="/home/alice/project", timeout=100)
    assert done.returncode == 0, done.stderr
    script = done.stdout.strip()
    site.host("login").cut()
    try:
        refused = site.run("laptop", [other_python, "-m", "ports", "job", "list", "server1"], timeout=100)
        assert refused.returncode != 0 and "Traceback" not in refused.stderr
        site.host("server1").write("~/go", "")
    finally:
        site.host("login").mend()
    done = site.run("laptop", [*ports, "wait", "--within", "100", script], timeout=150)
    assert done.returncode == 0, done.stderr
    assert site.run("laptop", [*ports, "logs", script]).stdout == "data: of the laptop\ntrained\n"
    done = site.run("laptop", [*ports, "fetch", script, "--to", "fetched"], timeout=100)
    assert done.returncode == 0, done.stderr
    assert site.host("laptop").path("~/fetched/results/model.txt").read_text() == "a model"
    site.run("server1", ["rm", "go"])
    done = site.run("laptop", [other_python, "-c", MORNING, ids], timeout=300)
    assert done.returncode == 0, done.stderr
    *values, version = json.loads(done.stdout.splitlines()[-1])
    assert values == [42, 10_000, sum(range(1, 10_001)), 3 * sum(range(10))]
    assert version != list(sys.version_info[:2])


# --- while all around it is killed ---


def running(site: Site, *words: str) -> list[int] | None:
    """Return the processes on server1 whose command line has all of `words`; None if there are none."""
    found = [one for one in site.host("server1").processes() if one.state != "Z"]
    return [one.pid for one in found if all(word in " ".join(one.command) for word in words)] or None


KILLED = {
    "resource": ("jobs.resource", "loop.main"),
    "worker": ("multiprocessing.spawn", "spawn_main"),
    "scheduler": ("ports_owner", "clusters/jobs"),
    "tmux server": ("tmux", "-S"),
}


def test_a_script_ends_finished_while_all_around_it_is_killed_once(night: Night) -> None:
    id = night.submit("--cpus", "0.5", "--", "sh", "-c", COUNTS)
    night.until(id, "running")
    function = "import ports, time; print(ports.submit(sum, [40, 2]).result(100))"
    assert night.python("server1", function, timeout=120) == "42\n"  # cluster and worker run
    for what, words in KILLED.items():
        for pid in wait_until(functools.partial(running, night.site, *words), timeout=60, what=what):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        assert night.state(id) == "running", what
        assert night.python("server1", function, timeout=120) == "42\n", what
    night.site.host("server1").write("~/go", "")
    try:
        counted = night.ends(id).split()
    finally:
        night.site.run("server1", ["rm", "go"])
    last = counted.pop()
    assert counted.pop() == "last" and counted == [str(number + 1) for number in range(int(last))]
    shown = night.json("job", "show", id, host="server1")
    assert shown["attempt"] == 1 and shown["note"]["status"] == 0


@pytest.mark.ci
def test_a_job_has_the_environment_of_its_shell_not_of_the_resource_s(night: Night) -> None:
    resource = {"WHERE": "resource", "ONLY_THERE": "1", "CUDA_VISIBLE_DEVICES": "0"}
    assert night.type("resource", "start", host="server1", env=resource).returncode == 0
    night.site.run("server1", ["mkdir", "-p", "project/deep"], check=True)
    line = "echo $WHERE [$ONLY_THERE] [$CUDA_VISIBLE_DEVICES] $PWD; umask; touch made; command -v tool"
    night.site.host("server1").write("~/project/bin/tool", "#!/bin/sh\n", mode=0o755)
    path = f"/home/alice/project/bin:{night.site.environment('server1')['PATH']}"
    shell = {"WHERE": "shell", "CUDA_VISIBLE_DEVICES": "", "PATH": path}
    words = [*night.command("job", "submit", "--cpus", "0.5", "--"), "sh", "-c", line]
    script = f"umask 027; cd deep; exec {subprocess.list2cmdline(words[:-1])} '{line}'"
    done = night.site.run("server1", ["sh", "-c", script], env=shell, cwd="/home/alice/project")
    assert done.returncode == 0, done.stderr
    printed = night.ends(done.stdout.strip()).split("\n")
    assert printed[:3] == ["shell [] [] /home/alice/project/deep", "0027", "/home/alice/project/bin/tool"]
    assert night.site.host("server1").path("~/project/deep/made").stat().st_mode & 0o777 == 0o640


# --- what the machine has ---

NVML = """
import collections, os
class NVMLError(Exception):
    pass
Memory, Use, Process = (collections.namedtuple("X", words) for words in ("total used", "gpu", "pid usedGpuMemory"))
def nvmlInit(): pass
nvmlShutdown = nvmlInit
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetUUID(index): return f"GPU-{index}"
def nvmlDeviceGetName(index): return "stand-in"
def nvmlDeviceGetMemoryInfo(index): return Memory(8 * 2**30, 0)
def nvmlDeviceGetUtilizationRates(index): return Use(50)
def nvmlDeviceGetGraphicsRunningProcesses(index): return []
def nvmlDeviceGetComputeRunningProcesses(index):
    try:
        with open(f"/tmp/computes-on-{index}") as file:
            return [Process(int(file.read()), 2**30)]
    except OSError:
        return []
"""


@contextlib.contextmanager
def bob_computes(site: Site, gpu: int) -> Iterator[None]:
    """Let a process of bob's be one that computes on a GPU, as the stand-in for NVML reports it."""
    line = f"echo $$ > /tmp/computes-on-{gpu}.new; mv /tmp/computes-on-{gpu}.new /tmp/computes-on-{gpu}; exec sleep 600"
    running = site.popen("server1", ["sh", "-c", line], user="bob")
    path = site.host("server1").path(f"/tmp/computes-on-{gpu}")
    wait_until(lambda: path.exists() or None, timeout=20, what="bob's process")
    try:
        yield
    finally:
        running.kill()
        running.communicate()
        path.unlink()


def test_a_gpu_on_which_bob_computes_is_given_to_nobody(night: Night) -> None:
    site = night.site
    site.host("server1").write("~/project/stubs/pynvml.py", NVML)
    stubs = {"PYTHONPATH": "/home/alice/project/stubs"}
    ask = ("--gpus", "1", "--cpus", "0.2", "--")
    with bob_computes(site, 0):
        assert night.type("resource", "start", host="server1", env=stubs).returncode == 0
        first = night.submit(*ask, "sh", "-c", "echo $CUDA_VISIBLE_DEVICES; " + COUNTS, env=stubs)
        night.until(first, "running")
        second = night.submit(*ask, "sh", "-c", "echo $CUDA_VISIBLE_DEVICES", env=stubs)
        told = night.json("job", "why", second, host="server1")
        assert night.state(second) == "pending" and "bob" in json.dumps(told) and "GPU" in json.dumps(told), told
        too_many = night.type("job", "submit", "--gpus", "3", "--", "true", host="server1", env=stubs)
        assert too_many.returncode == 2 and "2" in too_many.stderr, too_many.stderr
    second_gpu = night.ends(second).strip()
    site.host("server1").write("~/go", "")
    try:
        first_gpu = night.ends(first).split()[0]
    finally:
        site.run("server1", ["rm", "go"])
    assert ("1" in first_gpu, "0" in second_gpu) == (True, True), (first_gpu, second_gpu)


@contextlib.contextmanager
def small_disk(site: NamespaceSite, host: str, path: str, size: str) -> Iterator[None]:
    """Let a directory of alice's be a disk with `size` bytes, as a home with a quota is."""
    account = site.account("alice")
    site.run(host, ["mkdir", "-p", path], check=True)
    options = f"size={size},uid={account.uid},gid={account.gid},mode=700"
    site.run(host, ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], user="root", check=True)
    try:
        yield
    finally:
        site.run(host, ["umount", "-l", path], user="root", check=True)


def test_a_home_with_a_quota_refuses_what_it_cannot_hold(night: Night, root_site: NamespaceSite) -> None:
    """Nothing is half written, and jobs go on."""
    with small_disk(root_site, "server1", "/home/alice/.local/state/ports", "1g"):
        try:
            assert night.ends(night.submit("--cpus", "1", "--", "echo", "first")) == "first\n"
            big = ["sh", "-c", "mkdir -p project && cd project && head -c 990000000 /dev/zero > big.dat"]
            root_site.run("server1", big, check=True, timeout=100)
            words = ("--cpus", "1", "--copy", "--", "wc", "-c", "big.dat")
            twice = [
                "sh",
                "-c",
                "cp --reflink=never project/big.dat .local/state/ports/taken; truncate -s 300m project/big.dat",
            ]
            root_site.run("server1", twice, check=True, timeout=100)
            refused = night.type("job", "submit", *words, host="server1", cwd="/home/alice/project", timeout=100)
            assert refused.returncode == 5, refused.stderr + refused.stdout
            assert "free" in refused.stderr and "Traceback" not in refused.stderr
            assert "`ports job prune --older 7d`" in refused.stderr, refused.stderr
            assert [row["id"] for row in night.json("job", "list", host="server1")] == ["1"]
            root_site.run("server1", ["rm", ".local/state/ports/taken"], check=True)
            second = night.submit(*words, cwd="/home/alice/project", timeout=100)
            assert night.ends(second) == "314572800 big.dat\n"
        finally:
            night.end()


@pytest.mark.ci
def test_two_gigabytes_of_untracked_files_are_refused_by_name(night: Night) -> None:
    """On the machine itself and from the laptop; what stays behind is said."""
    site = night.site
    lines = "mkdir -p project && cd project && git init -q && echo 'print(42)' > answer.py && git add answer.py"
    site.run("laptop", ["sh", "-c", f"{lines} && truncate -s 2G forgotten.dat"], check=True)
    site.run("server1", ["sh", "-c", f"{lines} && truncate -s 2G forgotten.dat"], check=True)
    for host, there in (("server1", ()), ("laptop", ("-H", "server1"))):
        words = ("job", "submit", *there, "--cpus", "1", "--copy", "--", "python3", "answer.py")
        refused = night.type(*words, host=host, cwd="/home/alice/project")
        assert refused.returncode == 2, refused.stderr
        assert "forgotten.dat" in refused.stderr and "--send-all" in refused.stderr
        site.host(host).write("~/project/.portsignore", "*.dat\n")
        done = night.type(*words, host=host, cwd="/home/alice/project")
        assert done.returncode == 0 and "forgotten.dat" in done.stderr, done.stderr
        assert night.ends(done.stdout.strip().rpartition(":")[2]) == "42\n"


@pytest.mark.ci
def test_a_package_that_is_missing_there_is_said_at_submission(night: Night) -> None:
    site = night.site
    site.host("laptop").write("~/project/train.py", "import json, of_the_laptop_only\n")
    site.host("laptop").write("~/packages/of_the_laptop_only.py", "")
    words = ("job", "submit", "-H", "server1", "--cpus", "1", "--", "python3", "train.py")
    done = night.type(*words, env={"PYTHONPATH": "/home/alice/packages"}, cwd="/home/alice/project")
    assert done.returncode == 0, done.stderr
    assert "of_the_laptop_only" in done.stderr and "json" not in done.stderr, done.stderr
    told = night.type("job", "wait", "--within", "60", done.stdout.strip(), timeout=90)
    assert told.returncode == 8
    logs = night.type("job", "logs", done.stdout.strip())
    assert "No module named 'of_the_laptop_only'" in logs.stderr


class TwoServers(NamespaceSite):
    """A site where both servers have `ports`."""

    installed = ("laptop", "server1", "server2")


@pytest.mark.usefixtures("root_site")
def test_of_two_servers_the_free_one_gets_the_job() -> None:
    with TwoServers() as site, night_of(site) as night:
        first = night.submit("-H", "server1", "--cpus", "2", "--", "sleep", "600", host="laptop")
        night.until(first, "running", host="laptop")
        done = night.type("job", "submit", "-H", "server1,server2", "--cpus", "2", "--", "hostname")
        assert done.returncode == 0, done.stderr
        id = done.stdout.strip()
        assert id == "server2:1" and "server2" in done.stderr, done.stderr
        assert night.type("job", "wait", "--within", "60", id, timeout=90).returncode == 0
        assert night.type("job", "logs", id).stdout == "server2\n"
        night.type("job", "cancel", first)


@pytest.mark.usefixtures("root_site")
def test_of_two_servers_the_one_with_a_free_gpu_gets_the_job() -> None:
    stubs = {"PYTHONPATH": "/home/alice/project/stubs"}
    with TwoServers() as site, night_of(site) as night, contextlib.ExitStack() as stack:
        for gpu in (0, 1):
            stack.enter_context(bob_computes(site, gpu))
        for host in ("server1", "server2"):
            site.host(host).write("~/project/stubs/pynvml.py", NVML)
            assert night.type("resource", "start", host=host, env=stubs).returncode == 0
        words = ("-H", "server1,server2", "--gpus", "1", "--cpus", "0.5", "--", "sh", "-c", "hostname; exec sleep 600")
        for id in ("server2:1", "server2:2"):
            assert night.submit(*words, host="laptop") == id
            night.until(id, "running", host="laptop")
