"""Alice at work on two servers, and bob with an account on both.

On server1 she uses `ports`; on server2, where there is none, the same things as they come: a default `LocalCluster`, a
Jupyter started by hand. Bob attacks both in the same way, so that an attack that fails on server1 is known to be one.

============  ===========================================================================================
`control`     server2: a default cluster, JupyterLab with its token in an argument, one kernel
`alice`       server1, once for each of `MODES`: a cluster, a notebook server, one kernel
============  ===========================================================================================
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Running

#: Values of the setting ``ports.cluster.security``, each with what alice sets for it.
MODES = {"sockets": {}, "tls": {"DASK_PORTS__CLUSTER__SECURITY": "tls"}}
#: In alice's environment, and what her kernels print; new each time, as these files may be read by all.
SECRET = f"sesame-{secrets.token_hex(8)}"
TOKEN = "5e5a3e" * 8  # of the Jupyter that she starts by hand
PARTS = ("snooping.py", "job_attacks.py", "attacks.py")
ATTACKS = "".join(Path(__file__).with_name(name).read_text() for name in PARTS)
# The routes that come by default, and the one that takes orders.
ROUTES = """
distributed: {scheduler: {http: {routes: [distributed.http.scheduler.info, distributed.http.scheduler.json,
  distributed.http.scheduler.prometheus, distributed.http.scheduler.api, distributed.http.health,
  distributed.http.proxy, distributed.http.statics]}}}
"""
# Runs until its input ends; what it is told is evaluated with `client` at hand.
CLUSTER = """
import json, sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, **json.loads(sys.argv[1])) as cluster:
        client = cluster.get_client()
        print(json.dumps(cluster.scheduler_address), flush=True)
        for line in sys.stdin:
            print(json.dumps(eval(line)), flush=True)
"""
# A kernel of the Jupyter server at PORT with TOKEN, which runs each line of the input; two lines are no code: "debug"
# switches the debugger on and off, as JupyterLab does, and prints the answers, "restart" starts the kernel anew.
KERNEL = """
import asyncio, json, os, sys, urllib.request, uuid
from tornado.websocket import websocket_connect
port, token = sys.argv[1], os.environ["ITS_TOKEN"]
def post(path):
    url = f"http://127.0.0.1:{port}/api/kernels{path}"
    request = urllib.request.Request(url, b"{}", {"Authorization": "token " + token})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["id"]
kernel = post("")
async def main():
    said = asyncio.Queue()  # emptied at once: a connection that is not read answers no ping, and is closed
    path = f"ws://127.0.0.1:{port}/api/kernels/{kernel}/channels?token={token}"
    connection = await websocket_connect(path, connect_timeout=60, on_message_callback=said.put_nowait)
    async def ask(kind, content, channel):
        number, reply = uuid.uuid4().hex, None
        header = {"msg_id": number, "username": "", "session": number, "msg_type": kind, "version": "5.3"}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": channel}
        await connection.write_message(json.dumps(message))
        idle = False
        while not idle or reply is None:
            one = json.loads(await said.get())
            if one["parent_header"].get("msg_id") == number:
                idle = idle or one["content"].get("execution_state") == "idle"
                reply = one["content"] if one["channel"] == channel else reply
        return reply
    async def debug(command, seq):
        client = {"clientID": "jupyterlab", "adapterID": "python", "pathFormat": "path", "linesStartAt1": True}
        arguments = client if command == "initialize" else {}
        asked = {"type": "request", "seq": seq, "command": command, "arguments": arguments}
        return await ask("debug_request", asked, "control")
    while True:
        print("ready", flush=True)
        line = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            return
        if line == "debug\\n":
            commands = ("debugInfo", "initialize", "attach", "disconnect")
            print(json.dumps([await debug(command, seq) for seq, command in enumerate(commands, 1)]), flush=True)
        elif line == "restart\\n":
            await asyncio.to_thread(post, f"/{kernel}/restart")
        else:
            await ask("execute_request", {"code": line, "silent": False}, "shell")
asyncio.run(main())
"""


@dataclass(frozen=True)
class Scene:
    """One server on which alice works and bob has an account."""

    site: NamespaceSite
    host: str
    python: str
    environ: dict[str, str]
    mode: str

    def alice(self, *argv: str, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command of alice's to its end."""
        return self.site.run(self.host, argv, env=self.environ, timeout=timeout, **options)

    def ports(self, *words: str, code: int = 0, **options: Any) -> Any:
        """Run ``ports <words> --json`` as alice and return its document."""
        done = self.alice(self.python, "-m", "ports", *words, "--json", **options)
        assert done.returncode == code, done.stderr + done.stdout
        return json.loads(done.stdout)

    def runs(self, *argv: str, user: str = "alice") -> Running:
        """Start a command that goes on, with its input open."""
        environ = self.environ if user == "alice" else None
        return self.site.popen(self.host, argv, user=user, env=environ, stdin=subprocess.PIPE)

    def bob(self, attack: str, *words: str, user: str = "bob", input: str | None = None) -> dict[str, Any]:
        """Let bob attack, and return what he got."""
        done = self.site.run(self.host, self.attack(attack, *words), user=user, input=input, timeout=60)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def attack(self, attack: str, *words: str) -> list[str]:
        """Return the command line of an attack."""
        return [self.python, "-c", ATTACKS, attack, *words]

    def path(self, path: str) -> Path:
        """Return where this process finds a file of the server."""
        return self.site.host(self.host).path(path)


def tell(running: Running, line: str = "", *, count: int = 1) -> list[str]:
    """Send a line to a program, if there is one, and return the next `count` that it prints."""
    assert running.stdin is not None and running.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        running.stdin.write(f"{line}\n" if line else "")
        running.stdin.flush()
    said = [running.stdout.readline().strip() for _ in range(count)]
    if not all(said):
        running.kill()
        raise AssertionError(f"it ended: {running.communicate()[1]}")
    return said


def end(running: Running) -> None:
    """End a program by the end of its input."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.communicate(timeout=15)
    running.kill()
    running.wait(10)


@dataclass(frozen=True)
class AtWork(Scene):
    """A server on which a kernel of alice's runs: `tell` it a line of code."""

    kernel: Running


def a_kernel(scene: Scene, port: int, token: str) -> Running:
    """Start a kernel, which is ready then."""
    kernel = replace(scene, environ={**scene.environ, "ITS_TOKEN": token}).runs(scene.python, "-c", KERNEL, str(port))
    assert tell(kernel) == ["ready"]
    return kernel


@pytest.fixture(scope="module", params=[0, pytest.param(2, marks=pytest.mark.long)], ids=["shown", "hidden"])
def work_site(root_site: NamespaceSite, request: pytest.FixtureRequest) -> Iterator[NamespaceSite]:
    """The site as it was at first, and nothing of `ports` left afterwards; in the long run also with hidepid=2.

    Processes are hidden on server1 only: on the other one an attack is to fall.
    """
    root_site.reset()
    hide(root_site, request.param)
    check = LeakCheck(root_site)
    for pattern in ("file */tokens/*", "file */jupyter/*", "file */ssh/*.log"):
        check.allow(pattern)
    for host in ("server1", "server2"):
        root_site.host(host).write("~/.config/dask/http.yaml", ROUTES)
    yield root_site
    hide(root_site, 0)
    check.verify()
    root_site.reset()


def hide(site: NamespaceSite, hidepid: int, *hosts: str) -> None:
    """Let /proc hide others' processes on `hosts`, by default on server1; 0 shows them."""
    for host in hosts or ("server1",):
        site.run(host, ["mount", "-o", f"remount,hidepid={hidepid}", "/proc"], user="root", check=True)


def unprotected(site: NamespaceSite) -> Scene:
    """Return the server on which alice does without `ports`."""
    return Scene(site, "server2", site.notebook_python, {"A_SECRET": SECRET}, "control")


def protected(site: NamespaceSite, mode: str) -> Scene:
    """Return the server on which alice uses `ports`."""
    return Scene(site, "server1", site.python, {"A_SECRET": SECRET, **MODES[mode]}, mode)


@pytest.fixture(scope="module")
def control(work_site: NamespaceSite) -> Iterator[AtWork]:
    """What alice would run without `ports`."""
    scene = unprotected(work_site)
    cluster = scene.runs(scene.python, "-c", CLUSTER, "{}")
    options = [f"--IdentityProvider.token={TOKEN}", "--ServerApp.port=18888", "--no-browser"]
    with scene.path("/tmp/jupyter.log").open("w") as log:
        jupyter = work_site.popen(
            "server2", [scene.python, "-m", "jupyter", "lab", *options], stdout=log, stderr=log, env=scene.environ
        )
    wait_until(lambda: "18888" in listening(scene) or None, timeout=60, what="Jupyter, started by hand", every=0.1)
    kernel = a_kernel(scene, 18888, TOKEN)
    tell(cluster)
    yield AtWork(**vars(scene), kernel=kernel)
    end(kernel)
    jupyter.terminate()
    jupyter.wait(20)
    end(cluster)
    scene.path("/tmp/jupyter.log").unlink()


@pytest.fixture(scope="module", params=["sockets", pytest.param("tls", marks=pytest.mark.ci)])
def alice(work_site: NamespaceSite, request: pytest.FixtureRequest) -> Iterator[AtWork]:
    """What alice runs with `ports`."""
    scene = protected(work_site, request.param)
    scene.ports("cluster", "start", "main", "--n-workers", "1")
    server = scene.ports("notebook", "start", "lab", "--root", "/home/alice")
    kernel = a_kernel(scene, server["port"], token_of(scene))
    yield AtWork(**vars(scene), kernel=kernel)
    end(kernel)
    scene.ports("notebook", "stop", "lab")
    scene.ports("cluster", "stop", "main")


def token_of(scene: Scene) -> str:
    """Return the token of alice's notebook server."""
    [found] = files(scene, "tokens/notebook-lab")
    return found.read_text().strip()


def files(scene: Scene, pattern: str) -> Sequence[Path]:
    """Return files of alice's records on this machine."""
    own = scene.path("/etc/machine-id").read_text().strip()
    from ports.probe import sha256

    machine = sha256(b"ports:" + own.encode())[:32]
    return sorted(scene.path(f"~/.local/state/ports/hosts/{machine}").glob(pattern))


def listening(scene: Scene) -> set[str]:
    """Return the TCP ports on which alice listens."""
    uid = scene.site.account("alice").uid
    found = scene.site.host(scene.host).listeners()
    return {one.where.rpartition(":")[2] for one in found if one.uid == uid}
