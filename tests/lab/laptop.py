"""Alice's laptop for tests of what goes on between hosts: the fixture `laptop`, and `python`, which runs code on it.

`PRELUDE` stands before that code. It has `say`, which prints the answer, and `tell`, which calls a function and returns
``{"result": …}``, or the fields of the error that it raised.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports.errors import TimedOutError
from ports.state import wait_until
from tests.lab.leaks import LeakCheck
from tests.lab.site import Site

PRELUDE = """
import json, os, signal, socket, subprocess, sys, threading, time
from ports.errors import PortsError
from ports.hosts import _ask as remote, _far_errors as far_errors, openssh
def say(document):
    print(json.dumps(document), flush=True)
def tell(function, *arguments, **options):
    started = time.monotonic()
    try:
        return {"result": function(*arguments, **options)}
    except PortsError as error:
        row = {**far_errors.describe_error(error), "network": getattr(error, "is_network", None)}
        return {**row, "seconds": time.monotonic() - started}
"""


def without_waits(stderr: str) -> str:
    """Return `stderr` without the lines that a slow command prints while it waits, as it does on a busy machine."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not line.startswith("waiting for "))


#: What `ports` keeps on purpose, for later commands.
KEPT = ("file */ssh/*.log", "file */logins/*", "file */jump-methods/*")


@pytest.fixture
def laptop(request: pytest.FixtureRequest, fresh_home: Site, nothing_left: LeakCheck) -> Iterator[Site]:
    """Alice's laptop; the connections that `ports` keeps on purpose end with the test.

    A module may name, in ``MAY_STAY``, more of what stays on purpose.
    """
    for pattern in (*KEPT, *getattr(request.module, "MAY_STAY", ())):
        nothing_left.allow(pattern)
    yield fresh_home
    hang_up(fresh_home)


def python(
    site: Site,
    code: str,
    *arguments: str,
    prelude: str = PRELUDE,
    timeout: float = 60,
    env: dict[str, str] | None = None,
    quiet: bool = False,
) -> Any:
    """Run `code` on the laptop as alice, and return what it prints as JSON; `quiet`: it prints nothing on stderr."""
    script = prelude + textwrap.dedent(code)
    done = site.run("laptop", [site.python, "-c", script, *arguments], timeout=timeout, env=env or {})
    assert done.returncode == 0 and not (quiet and done.stderr), done.stderr
    return json.loads(done.stdout)


def hang_up(site: Site) -> None:
    """End the ssh connections that `ports` keeps on the laptop, of all users.

    A master that has just logged in, as its `ports` was interrupted, has its control socket a moment later.
    """
    laptop = site.host("laptop")
    temporary = laptop.temporary_directory

    def are_gone() -> bool | None:
        for directory in (temporary / "ssh", *temporary.glob("ports-*/ssh")):
            _end_masters(directory)
        masters = [one for one in laptop.processes() if "-M" in one.command and one.state != "Z"]
        return not any("/ssh/" in word for one in masters for word in one.command) or None  # a test's own are elsewhere

    with contextlib.suppress(TimedOutError):  # the check for what is left says what it is
        wait_until(are_gone, timeout=5, what="end of the kept connections", every=0.1)


def _end_masters(directory: Path) -> None:
    """End the masters with a control socket in `directory`, and remove what killed ones left there, but for logs."""
    with contextlib.suppress(FileNotFoundError):
        controls = [path for path in directory.iterdir() if path.suffix[1:].isdigit()]
        ends = [
            subprocess.Popen(
                ["ssh", "-F", "none", "-S", str(control), "-O", "exit", "--", "master"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for control in controls
        ]
        for end in ends:
            try:
                end.wait(5)
            except subprocess.TimeoutExpired:
                end.kill()
                end.wait()
        for path in directory.iterdir():
            if path.suffix in (".old", ".mine") or path in controls:
                path.unlink(missing_ok=True)
