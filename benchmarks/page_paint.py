"""The page of `ports` in Chromium, beside the dashboard of a Dask cluster: when it first paints, and what is sent."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.commands import PORTS, home
from benchmarks.measure import Aim, Result, Samples, interleave

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server"]
PAINT = "performance.getEntriesByName('first-contentful-paint').map(one => one.startTime)[0]"
CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        print(cluster.dashboard_link, flush=True)
        sys.stdin.read()
"""


@contextmanager
def answering(argv: list[str], env: dict[str, str]) -> Iterator[str]:
    """Start a program that prints one line about its page, and yield that; end it afterwards."""
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=env) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.terminate()
            process.wait(60)


def load(browser: Any, address: str, cookies: Any = None) -> tuple[float, float]:
    """Return the seconds until a page first paints something, and how many bytes are sent for the whole of it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, storage_state=cookies)
    try:
        tab = context.new_page()
        session, sent = context.new_cdp_session(tab), []
        session.send("Network.enable")
        session.send("Network.setCacheDisabled", {"cacheDisabled": True})
        session.on("Network.loadingFinished", lambda event: sent.append(event["encodedDataLength"]))
        tab.goto(address, wait_until="load")
        for _ in range(200):
            if (painted := tab.evaluate(PAINT)) is not None:
                break
            tab.wait_for_timeout(50)
        else:
            raise RuntimeError(f"{address} painted nothing")
        return painted / 1e3, float(sum(sent))
    finally:
        context.close()


def page_paint(runs: int) -> Iterator[Result]:
    """Compare the first paint, and the bytes of a whole load without a cache."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise RuntimeError("there is no chromium; `apt install chromium`")
    ports = [*PORTS, "page", "--no-browser", "--local-port", "0", "--json"]
    dask = [sys.executable, "-c", CLUSTER]
    with home() as env, answering(ports, env) as said, answering(dask, env) as dashboard, sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=FLAGS)
        row, bytes_ours, bytes_theirs = json.loads(said), [], []
        entered = browser.new_context()
        entered.new_page().goto(row["local_url"])  # its cookie is kept
        cookies = entered.storage_state()

        def ours() -> float:
            paint, sent = load(browser, row["url"], cookies)
            bytes_ours.append(sent)
            return paint

        def theirs() -> float:
            paint, sent = load(browser, dashboard)
            bytes_theirs.append(sent)
            return paint

        samples = interleave(ours, theirs, runs)
        browser.close()
    peer = "Dask's dashboard"
    yield Result("page-paint", "first paint of the page in Chromium", peer, "ms", Aim("ratio", 0.2), samples)
    sent = Samples(tuple(bytes_ours[1:]), tuple(bytes_theirs[1:]))
    yield Result("page-bytes", "bytes of the whole page, compressed", peer, "kB", Aim("alone", 60e3), sent)


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {"page-paint": page_paint}
