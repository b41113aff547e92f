"""What scripts/demo does once everything is installed: types the commands of a day and fetches what they open."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import NoReturn

from tests.lab.loopback import LoopbackSite
from tests.lab.site import LabError, Running

STEP_SECONDS = 90.0
WANTED = ("cluster main", "notebook lab")  # what the demo started; a page of something else proves nothing
SILENT_SECONDS = 3.0


class DemoError(Exception):
    """A step did not do what it should."""


class Told:
    """When something was printed last."""

    last = 0.0


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Say that `what` goes on, whenever nothing was printed for `SILENT_SECONDS`."""
    begun, over = time.monotonic(), threading.Event()

    def remind() -> None:
        while not over.wait(SILENT_SECONDS / 10):
            now = time.monotonic()
            if now - max(begun, Told.last) >= SILENT_SECONDS:
                tell(f"  ... {what}, for {now - begun:.0f} s now")

    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    finally:
        over.set()
        reminder.join()


def main(arguments: Sequence[str]) -> int:
    """Run the demo; return the exit code."""
    wait = "--no-wait" not in arguments and sys.stdin.isatty()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop_by_signal)
    site = LoopbackSite()
    started = time.monotonic()
    try:
        tell("Four sshds on loopback stand in for a laptop, a login node and two servers.")
        with doing("the sshds start"):
            site.up()
        for name in ("login", "server1"):
            address = site.hosts[name].address
            tell(f"  {name}: {address.hostname}:{address.port}")
        # Here all hosts have one hostname; on real ones the short hostname is the guess for the alias.
        site.host("server1").write("~/.config/dask/ports.yaml", "ports:\n  alias: server1\n")
        run(site, wait)
        tell(f"\nAll of that worked, in {time.monotonic() - started:.0f} s.")
        return 0
    except KeyboardInterrupt:
        tell("\ninterrupted")
        return 130
    except (DemoError, LabError) as error:
        tell(f"demo: {error}")
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a second one must not leave half of it
            signal.signal(number, signal.SIG_IGN)
        end(site)


def run(site: LoopbackSite, wait: bool) -> None:
    """Type the commands."""
    tell("\nThe laptop starts a cluster and a notebook server on server1; they run in tmux there and stay:")
    ports(site, "cluster", "start", "main", "-H", "server1", "--n-workers", "2", "--threads-per-worker", "1")
    ports(site, "notebook", "start", "lab", "-H", "server1")
    tell("\nIt finds them, over two SSH hops; for this, server1 needs nothing but python3:")
    ports(site, "list", "server1")
    tell("\nAnd it opens them:")
    opened = typed(site, "open", "server1")
    try:
        with doing("`ports open` connects"):
            links = read_links(opened, WANTED)
        tell("\nBoth pages, as a browser on the laptop gets them:")
        for what, link in links.items():
            with doing("the page loads"):
                tell(f"  {what}: {fetch(link)}  {link.partition('?')[0]}")
        if wait:
            tell("\nOpen the links in a browser on this machine. Enter ends the demo.")
            input()
    finally:
        opened.send_signal(signal.SIGINT)
        opened.wait(timeout=STEP_SECONDS)


def typed(site: LoopbackSite, *words: str) -> Running:
    """Start a `ports` command on the laptop, and show it."""
    tell(f"\nlaptop$ {shlex.join(['ports', *words])}")
    return site.popen("laptop", [sys.executable, "-u", "-m", "ports", *words], stderr=None)


def ports(site: LoopbackSite, *words: str) -> None:
    """Run a `ports` command on the laptop, and show what it prints."""
    line = shlex.join(["ports", *words])
    with typed(site, *words) as running, doing(f"`{line}` runs"):
        try:
            shown = running.communicate(timeout=STEP_SECONDS)[0]
        except subprocess.TimeoutExpired:
            raise DemoError(f"`{line}` did not end within {STEP_SECONDS:.0f} s") from None
    tell(shown.rstrip())
    if running.returncode:
        raise DemoError(f"`{line}` ended with {running.returncode}")


def read_links(opened: Running, wanted: Sequence[str], *, seconds: float = STEP_SECONDS) -> dict[str, str]:
    """Return the link of each of `wanted` that `ports open` prints, having shown its lines.

    Raises DemoError where one of them did not come within `seconds`, or `ports open` ended before.
    """
    assert opened.stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    stdout = opened.stdout

    def read() -> None:
        for line in stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    links: dict[str, str] = {}
    until = time.monotonic() + seconds
    while missing := [what for what in wanted if what not in links]:
        try:
            line = lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise DemoError(f"`ports open` did not open {' and '.join(missing)} within {seconds:.0f} s") from None
        if not line:
            raise DemoError(f"`ports open` ended without opening {' and '.join(missing)}")
        tell(line.rstrip())
        for what in missing:
            if (found := re.search(rf"\b{re.escape(what)}\s+(http://\S+)", line)) is not None:
                links[what] = found[1]
    return links


def fetch(link: str) -> str:
    """Return status and title of the page that `link` leads to."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(link, timeout=30) as answer:
        page = answer.read().decode("utf-8", "replace")
        title = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
        if answer.status != 200 or title is None:
            raise DemoError(f"{link} answered with status {answer.status} and no page")
        return f"{answer.status} {title.group(1).strip()!r}"


def end(site: LoopbackSite) -> None:
    """Stop what was started, then the hosts."""
    if site.hosts:
        tell("\nCleaning up.")
        for noun in ("cluster", "notebook"):
            command = [sys.executable, "-m", "ports", noun]
            listed = site.run("server1", [*command, "list", "--json"], timeout=STEP_SECONDS).stdout
            for row in json.loads(listed or "[]"):
                with doing(f"{noun} {row['name']!r} ends"):
                    site.run("server1", [*command, "stop", row["name"]], timeout=STEP_SECONDS)
    with doing("the sshds end"):
        site.down()


def stop_by_signal(*_: object) -> NoReturn:
    """End as Ctrl-C does."""
    raise KeyboardInterrupt


def tell(text: str) -> None:
    """Print, at once; where the terminal was closed, there is still something to clean up."""
    Told.last = time.monotonic()
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
