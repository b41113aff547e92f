"""What the page adds to a JupyterLab in which nobody looks at it, and once somebody has looked."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

from benchmarks.commands import home
from benchmarks.measure import Aim, Result, Samples

TOKEN = "of-a-benchmark"
# what else is installed beside it is in neither
_OTHERS = "'dask_labextension': False, 'jupyter_server_proxy': False"


def memory(pid: int) -> float:
    """Return the proportional memory of a process, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024.0


def measured(enabled: bool) -> tuple[float, float]:
    """Return the memory of a JupyterLab that was loaded once, before and after somebody looked at ``/ports/``."""
    with home() as env:
        top = Path(env["PORTS_HOME"]).parent
        own = {f"JUPYTER_{name}": str(top / name) for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
        command += [f"--ServerApp.jpserver_extensions={{'ports.web': {enabled}, {_OTHERS}}}"]
        quiet = subprocess.DEVNULL
        environ = {**env, **own, "JUPYTER_TOKEN": TOKEN}
        with subprocess.Popen(command, cwd=top, env=environ, stdout=quiet, stderr=quiet) as process:
            try:
                address = _address(top / "RUNTIME_DIR" / f"jpserver-{process.pid}.json")
                _load(f"{address}lab", f"{address}api/contents")
                before = memory(process.pid)
                if enabled:
                    _load(*[f"{address}ports/"] * 10)
                return before, memory(process.pid)
            finally:
                process.terminate()


def _address(record: Path) -> str:
    for _ in range(600):
        try:
            address = f"http://127.0.0.1:{json.loads(record.read_text())['port']}/"
            urlopen(f"{address}api?token={TOKEN}").close()
            return address
        except (OSError, ValueError):
            time.sleep(0.1)
    raise RuntimeError("JupyterLab did not start")


def _load(*addresses: str) -> None:
    for address in addresses:
        urlopen(f"{address}?token={TOKEN}").read()
        time.sleep(0.5)


def page_jupyter(runs: int) -> Iterator[Result]:
    """Compare the memory of a JupyterLab with and without the extension of its server."""
    pairs = [(measured(True), measured(False)) for _ in range(min(runs, 5))]
    without = tuple(off[0] for _, off in pairs)
    for name, place, what in (("page-jupyter", 0, "nobody looked"), ("page-jupyter-look", 1, "somebody looked")):
        samples = Samples(tuple(on[place] for on, _ in pairs), without)
        told = f"memory of a JupyterLab with the page, at which {what}"
        yield Result(name, told, "without ports.web", "MB", Aim("difference", 4e6), samples)


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {"page-jupyter": page_jupyter}
