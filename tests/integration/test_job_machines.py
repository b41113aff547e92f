"""Jobs where the machine is odd: /tmp is cleaned, an environment is deleted, bob has the GPU, a home has two mounts."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports import clusters
from ports.jobs import _places, _resource
from ports.state import wait_until
from tests.integration.conftest import Home, stop_resource
from tests.integration.test_job_resource import results, submit

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]
REPOSITORY = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="other users and mounts need root")


@pytest.fixture
def site(home: Home) -> Iterator[Home]:
    """A home in which a resource may run; it and its cluster are stopped afterwards."""
    yield home
    stop_resource()


def state_of(home: Home, id: str) -> str:
    return str(home.json("job", "show", id)["state"])


def submit_script(home: Home, *words: str) -> str:
    """Submit a script that books little, and return its id."""
    told = home.json("job", "submit", "--cpus", "0.1", *words)
    return str(told["id"] if isinstance(told, dict) else told)


def test_jobs_go_on_while_their_runtime_directory_is_removed(site: Home, tmp_path: Path) -> None:
    end, effects = tmp_path / "end", tmp_path / "effects"

    def stay(words: str) -> str:
        with effects.open("a") as file:
            file.write(f"{words}\n")
        while not end.exists():
            time.sleep(0.02)
        return words

    line = f"echo script >> {effects}; until [ -e {end} ]; do sleep 0.05; done"
    script = submit_script(site, "--", "sh", "-c", line)
    with _resource.connect() as connection:
        job = submit(connection, stay, ["function"], needs={"cpus": 0.1})
        begun = lambda: True if effects.exists() and effects.read_text().count("\n") == 2 else None  # noqa: E731
        wait_until(begun, timeout=60, what="both jobs")
        shutil.rmtree(_places.here().runtime)
        time.sleep(1.5)  # the resource looks at leases meanwhile
        end.touch()
        assert results(connection, job) == {0: "function"}
    ended = lambda: state_of(site, script) == "finished" or None  # noqa: E731
    wait_until(ended, timeout=60, what="the end of the script")
    assert sorted(effects.read_text().split()) == ["function", "script"]


def test_a_small_script_does_not_wait_for_a_long_function(site: Home, tmp_path: Path) -> None:
    """The worker has one thread, and both together book less than one core."""
    clusters.start("jobs", n_workers=1, threads_per_worker=1)
    end = tmp_path / "end"

    def stay() -> None:
        while not end.exists():
            time.sleep(0.02)

    with _resource.connect() as connection:
        job = submit(connection, lambda _: stay(), [0], needs={"cpus": 0.1})
        wait_until(lambda: connection.ask("status").header["running"] or None, timeout=60, what="the function")
        script = submit_script(site, "--", "true")
        wait_until(lambda: state_of(site, script) == "finished" or None, timeout=60, what="the script", every=0.2)
        end.touch()
        assert results(connection, job) == {0: None}


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment of its own, with the packages of the one in which the tests run."""
    made = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True, timeout=60)
    (packages,) = made.glob("lib/python*/site-packages")
    lines = [f"import site; site.addsitedir({one!r})" for one in sys.path if one.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join([*lines, str(REPOSITORY), ""]))
    return made


def test_a_resource_without_its_environment_keeps_jobs_and_says_so(site: Home, environment: Path) -> None:
    started = subprocess.run(
        [environment / "bin" / "python", "-m", "ports", "resource", "start"],
        capture_output=True, text=True, timeout=60, check=False, cwd=site.work,
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    shutil.rmtree(environment)
    with _resource.connect() as connection:
        job = submit(connection, abs, [-1])

        def trouble() -> str | None:
            return connection.ask("status").header["cluster"]["reason"]

        reason = wait_until(trouble, timeout=60, what="a word about the cluster")
        assert str(environment) in reason and "ports resource stop" in reason, reason
        assert connection.ask("show", id=f"{job}.0").header["row"]["state"] == "pending"
    shown = site.ports("job", "show", f"{job}.0").stdout
    assert str(environment) in "".join(shown.split())
    assert site.ports("resource", "stop").returncode == 0
    with _resource.connect() as connection:
        assert results(connection, job) == {0: 1}


def test_a_script_waits_until_the_environment_is_there_again(site: Home, environment: Path) -> None:
    """Also where a slot waits for it already: that one looked at the queue before the environment went."""
    python, away = environment / "bin" / "python", environment / "bin" / "away"
    subprocess.run([python, "-m", "ports", "resource", "start"], check=True, timeout=60, cwd=site.work)
    before = submit_script(site, "--", "echo", "hello")
    assert site.json("job", "wait", before)[0]["state"] == "finished"
    python.rename(away)
    job = submit_script(site, "--", "echo", "hello")

    def reason() -> str | None:
        row = site.json("job", "show", job)
        assert row["state"] == "pending", row
        return row["why"] if "is gone" in str(row.get("why")) else None

    assert str(python) in wait_until(reason, timeout=60, what="the reason")
    away.rename(python)
    (row,) = site.json("job", "wait", job, timeout=100)
    assert (row["state"], row["attempt"]) == ("finished", 1)


FAKE_NVML = """
import json, os, types
class NVMLError(Exception): pass
nvmlInit = nvmlShutdown = lambda: None
nvmlDeviceGetCount = lambda: 1
nvmlDeviceGetHandleByIndex = lambda index: index
nvmlDeviceGetUUID = lambda handle: "GPU-aaaaaaaa"
nvmlDeviceGetName = lambda handle: "A stand-in"
nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(total=16 * 2**30, used=0)
nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=0)
def nvmlDeviceGetComputeRunningProcesses(handle):
    with open(os.path.join(os.path.dirname(__file__), "pids.json")) as file:
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=2**30) for pid in json.load(file)]
nvmlDeviceGetGraphicsRunningProcesses = lambda handle: []
"""


@needs_root
def test_a_job_waits_for_a_gpu_on_which_bob_computes(
    site: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML cannot be had here: a binding stands in. bob's process is real."""
    binding = tmp_path / "binding"
    binding.mkdir()
    (binding / "pynvml.py").write_text(FAKE_NVML)
    monkeypatch.setenv("PYTHONPATH", str(binding))
    with subprocess.Popen(["sleep", "600"], user=65534, group=65534, extra_groups=[]) as bob:
        try:
            (binding / "pids.json").write_text(json.dumps([bob.pid]))
            print_gpu = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]
            id = submit_script(site, "--gpus", "1", "--", *print_gpu)
            why = lambda: str(site.json("job", "show", id).get("why"))  # noqa: E731
            said = "waits for a GPU: 0 nobody"
            wait_until(lambda: True if said in why() else None, timeout=60, what=said, every=0.2)
        finally:
            bob.kill()
    (binding / "pids.json").write_text("[]")
    wait_until(lambda: state_of(site, id) == "finished" or None, timeout=60, what="the job", every=0.2)
    assert "GPU-aaaaaaaa" in site.ports("job", "logs", id).stdout
    with subprocess.Popen(["sleep", "600"], user=65534, group=65534, extra_groups=[]) as bob:
        (binding / "pids.json").write_text(json.dumps([bob.pid]))
        free = lambda: None if _resource.get_resource().status()["free"]["gpus"] else True  # noqa: E731
        try:  # nothing runs or waits: who asks gets what is so now
            wait_until(free, timeout=30, what="a status that knows of bob", every=0.5)
        finally:
            bob.kill()


@pytest.fixture
def mounted(site: Home, tmp_path: Path) -> Iterator[Path]:
    """The state directory, mounted once more with a cache of its own, as NFS does on another machine."""
    if shutil.which("bindfs") is None:
        pytest.skip("bindfs is not here")
    target = tmp_path / "mounted"
    target.mkdir()
    site.state.mkdir(exist_ok=True)
    done = subprocess.run(["bindfs", site.state, target], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        pytest.skip(f"bindfs cannot mount here: {done.stderr}")
    yield target
    subprocess.run(["umount", "-l", target], check=True)


AS_ANOTHER = 'hostname other && mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'
OPEN = """
import sys; from pathlib import Path
from ports.errors import ConflictError
from ports.jobs._places import Places
from ports.jobs._store import Store
from ports.state import runtime_directory
try:
    Store.open(Places(Path(sys.argv[1]), runtime_directory()))
except ConflictError as error:
    print(error)
"""


def on_another(tmp_path: Path, home: Path, *words: str | Path) -> str:
    """Run a command on a machine with this machine's id: another name, another boot."""
    boot = tmp_path / "boot_id"
    boot.write_text("11111111-2222-3333-4444-555555555555\n")
    command = ["unshare", "-m", "-u", "--propagation", "private", "sh", "-c", AS_ANOTHER, "sh", boot, *words]
    environ = {**os.environ, "PORTS_HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_root
def test_a_second_machine_with_one_id_and_home_gets_no_queue_of_ours(site: Home, mounted: Path, tmp_path: Path) -> None:
    with _resource.connect() as connection:
        assert results(connection, submit(connection, abs, [-1])) == {0: 1}
        root = _places.here().root
        there = mounted / root.relative_to(site.state)
        said = on_another(tmp_path, mounted, sys.executable, "-c", OPEN, there)
        assert said.startswith(f"the queue {there} belongs to {os.uname().nodename};"), said
        rows = on_another(tmp_path, mounted, sys.executable, "-m", "ports", "job", "list", "--json")
        assert json.loads(rows) == []
        assert results(connection, submit(connection, abs, [-2])) == {0: 2}
    with contextlib.suppress(FileNotFoundError):
        assert json.loads((root / "owner.json").read_text())["name"] == os.uname().nodename
