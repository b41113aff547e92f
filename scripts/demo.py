"""What scripts/demo does once everything is installed: types the commands of a day and fetches what they open."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import queue
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import NoReturn

from tests.lab.loopback import LoopbackSite
from tests.lab.site import LabError, Running

STEP_SECONDS = 90.0
ANSWER = ("python3", "-c", "print(6 * 7)")
WANTED = ("cluster main", "notebook lab")  # what the demo started; a page of something else proves nothing
SILENT_SECONDS = 3.0


class DemoError(Exception):
    """A step did not do what it should."""


class Told:
    """When something was printed last."""

    last = 0.0


@contextlib.contextmanager
def doing(what: str, silent: float | None = None) -> Iterator[None]:
    """Say that `what` goes on, whenever nothing was printed for `silent` seconds, by default `SILENT_SECONDS`."""
    begun, over, silent = time.monotonic(), threading.Event(), silent or SILENT_SECONDS

    def remind() -> None:
        while not over.wait(SILENT_SECONDS / 10):
            now = time.monotonic()
            if now - max(begun, Told.last) >= silent:
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
        waited = run(site, wait)
        tell(f"\nAll of that worked, in {time.monotonic() - started - waited:.0f} s.")
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


def run(site: LoopbackSite, wait: bool) -> float:
    """Type the commands; return the seconds that a person took to press Enter."""
    tell("\nThe laptop starts a cluster and a notebook server on server1.")
    tell("They run in tmux there and stay:")
    ports(site, "cluster", "start", "main", "-H", "server1", "--n-workers", "2", "--threads-per-worker", "1")
    ports(site, "notebook", "start", "lab", "-H", "server1")
    tell("\nIt finds them, over two SSH hops; for this, server1 needs nothing but python3.")
    tell("Here, server1 is this machine, so the list has all that is yours on it:")
    ports(site, "list", "server1")
    tell("\nA script goes there, too, and its output comes back.")
    tell("Without --follow you could close the laptop now:")
    ports(site, "job", "submit", "-H", "server1", "--cpus", "1", "--follow", "--", *ANSWER)
    tell("\nAnd it opens them:")
    opened = typed(site, "open", "server1")
    try:
        with doing("`ports open` connects"):
            links = read_links(opened, WANTED)
        tell("\nBoth pages, as a browser on the laptop gets them:")
        for what, link in links.items():
            with doing("the page loads"):
                tell(f"  {what}: {fetch(link)}  {link.partition('?')[0]}")
        begun = time.monotonic()
        if wait:
            tell("\nOpen the links in a browser on this machine. Enter ends the demo.")
            with contextlib.suppress(EOFError):  # Ctrl-D, or the terminal was closed
                input()
        return time.monotonic() - begun
    finally:
        opened.send_signal(signal.SIGINT)
        opened.wait(timeout=STEP_SECONDS)


def typed(site: LoopbackSite, *words: str) -> Running:
    """Start a `ports` command on the laptop, and show it; in a terminal it writes for one of that width."""
    tell(f"\nlaptop$ {shlex.join(['ports', *words])}")
    argv = [sys.executable, "-u", "-m", "ports", *words]
    if not sys.stdout.isatty():
        return site.popen("laptop", argv, stderr=subprocess.STDOUT)
    shown, terminal = pty.openpty()
    size = os.get_terminal_size()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.lines, size.columns, 0, 0))
    environ = {"TERM": os.environ.get("TERM", "dumb")}
    running = site.popen("laptop", argv, env=environ, stdout=terminal, stderr=terminal)
    os.close(terminal)
    running.stdout = os.fdopen(shown, encoding="utf-8", errors="replace")
    return running


def ports(site: LoopbackSite, *words: str) -> None:
    """Run a `ports` command on the laptop, and show what it prints."""
    line = shlex.join(["ports", *words])
    with (
        typed(site, *words) as running,
        doing(f"`{textwrap.shorten(line, 50, placeholder=' …')}` runs", 2 * SILENT_SECONDS),
    ):  # it says itself what it waits for
        try:
            for _ in lines_of(running, STEP_SECONDS):
                pass
        except TimeoutError:
            raise DemoError(f"`{line}` did not end within {STEP_SECONDS:.0f} s") from None
    if running.returncode:
        raise DemoError(f"`{line}` ended with {running.returncode}")


def lines_of(running: Running, seconds: float) -> Iterator[str]:
    """Yield the lines that a command prints, each shown as it comes; TimeoutError once `seconds` have passed."""
    assert running.stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    stdout = running.stdout

    def read() -> None:
        with contextlib.suppress(OSError):  # of a terminal whose other end is closed
            for line in stdout:
                lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    until = time.monotonic() + seconds
    while True:
        try:
            line = lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None
        if not line:
            return
        tell(line.rstrip())
        yield line


def read_links(opened: Running, wanted: Sequence[str], *, seconds: float = STEP_SECONDS) -> dict[str, str]:
    """Return the link of each of `wanted` that `ports open` prints, once it has said that all are open.

    Raises DemoError where one of them did not come within `seconds`, or `ports open` ended before.
    """
    links: dict[str, str] = {}
    missing, printed = list(wanted), ""
    try:
        for line in lines_of(opened, seconds):
            printed += line  # a long link stands below its line
            for what in missing:
                if (found := re.search(rf"\b{re.escape(what)}\s+(http://\S+)", printed)) is not None:
                    links[what] = found[1]
            missing = [what for what in wanted if what not in links]
            if not missing and line.startswith("open; "):
                return links
    except TimeoutError:
        raise DemoError(f"`ports open` did not open {' and '.join(missing or wanted)} within {seconds:.0f} s") from None
    raise DemoError(f"`ports open` ended without opening {' and '.join(missing or wanted)}")


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
        with doing("the compute resource ends"):
            site.run("server1", [sys.executable, "-m", "ports", "resource", "stop", "--now"], timeout=STEP_SECONDS)
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
