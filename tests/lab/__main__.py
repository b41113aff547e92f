"""The site by hand: ``scripts/lab up|down|shell HOST [USER]|status``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ports.state.waiting import wait_until
from tests.lab.site import LabError, Site, open_site

CHECKOUT = Path(__file__).resolve().parents[2]


def state_file() -> Path:
    """Return where a running site is described."""
    return Path(tempfile.gettempdir()) / f"lab-site-{os.getuid()}.json"


def running() -> dict[str, Any] | None:
    """Return the description of the running site, or None."""
    path = state_file()
    try:
        if path.lstat().st_uid != os.getuid():
            raise SystemExit(f"{path} is somebody else's; set TMPDIR to another directory")
        described: dict[str, Any] = json.loads(path.read_text())
        os.kill(described["pid"], 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return described


def describe(site: Site, reason: str | None) -> dict[str, Any]:
    """Return what the other commands need to know of `site`."""
    shells = {f"{host} {user}": site.shell_command(host, user) for host in site.layout.hosts for user in site.users}
    return {"pid": os.getpid(), "kind": site.kind, "reason": reason, "users": site.users, "shells": shells}


def serve(*, servers: int, shared_home: bool, between_servers: bool) -> None:
    """Bring a site up, keep it until a signal comes, and take it down."""
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: end.set())
    site, reason = open_site(n_servers=servers, shared_home=shared_home, between_servers=between_servers)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{state_file().name}.")
        with os.fdopen(descriptor, "w") as file:
            json.dump(describe(site, reason), file)
        Path(temporary).replace(state_file())
        end.wait()
    finally:
        state_file().unlink(missing_ok=True)
        site.down()


def up(*, servers: int, shared_home: bool, between_servers: bool) -> None:
    """Start `serve` in the background."""
    if (found := running()) is not None:
        print("it was up already, and is as it was", file=sys.stderr)
    else:
        options = {"--shared-home": shared_home, "--between-servers": between_servers}
        words = [f"--servers={servers}", *(option for option, wanted in options.items() if wanted)]
        command = [sys.executable, "-m", "tests.lab", "serve", *words]
        # cannot be a pipe: nobody would read it once this command has ended
        with tempfile.TemporaryFile("w+") as said:
            server = subprocess.Popen(
                command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )

            def poll() -> dict[str, Any] | None:
                if server.poll() is not None:
                    said.seek(0)
                    raise SystemExit(said.read())
                return running()

            found = wait_until(poll, timeout=30, what="the site")
    if found["reason"]:
        print(f"sshds on loopback, because {found['reason']}", file=sys.stderr)
    print(f"the site is up; for a shell: scripts/lab shell laptop {found['users'][0]}; to end it: scripts/lab down")


def down() -> None:
    """End the running site."""
    if (found := running()) is None:
        print("the site is down")
        return
    os.kill(found["pid"], signal.SIGTERM)
    wait_until(lambda: running() is None or None, timeout=30, what="end of the site")
    print("the site is down")


def shell(host: str, user: str | None) -> None:
    """Become a login shell on `host`."""
    if (found := running()) is None:
        raise SystemExit("the site is down; start it with scripts/lab up")
    key = f"{host} {user or found['users'][0]}"
    if key not in found["shells"]:
        raise SystemExit(f"no {key!r}; there are {', '.join(found['shells'])}")
    command, environment = found["shells"][key]
    terminal = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
    os.execvpe(command[0], command, {**environment, **terminal})


def status() -> None:
    """Say whether a site runs, and which."""
    found = running()
    print("the site is down" if found is None else f"the site is up: {found['kind']}, kept by process {found['pid']}")


def main() -> None:
    """Parse and act."""
    parser = argparse.ArgumentParser(prog="scripts/lab", description="A laptop, a login node and servers.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "serve"):
        one = commands.add_parser(name, help="start the site" if name == "up" else "start it and stay")
        one.add_argument("--servers", type=int, default=2, metavar="N", help="how many servers (default 2)")
        one.add_argument("--shared-home", action="store_true", help="one home for all servers, as with NFS")
        one.add_argument("--between-servers", action="store_true", help="the servers reach each other by ssh")
    commands.add_parser("down", help="end the site")
    commands.add_parser("status", help="say whether it runs")
    for_shell = commands.add_parser("shell", help="a login shell on a host")
    for_shell.add_argument("host")
    for_shell.add_argument("user", nargs="?")
    arguments = vars(parser.parse_args())
    actions: dict[str, Callable[..., None]] = {"up": up, "serve": serve, "down": down, "status": status, "shell": shell}
    try:
        actions[arguments.pop("command")](**arguments)
    except LabError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
