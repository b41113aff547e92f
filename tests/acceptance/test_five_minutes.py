"""docs/jobs-five-minutes.md, followed word by word: from a machine that has only ssh and python3 to the result 42."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import KEPT
from tests.lab.disk import CHECKOUT
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Running
from tests.lab.wheels import from_wheels

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

PAGE = CHECKOUT / "docs/jobs-five-minutes.md"
#: The machine of the page: in the lab, server2 has nothing but python3. Hosts see /opt of this machine: the wheels.
MACHINE = "server2"
BUILD = ("setuptools", "wheel", "pip", "numpy")


def blocks() -> Iterator[tuple[str, str]]:
    """Yield language and text of each block of the page, with the lab's name of the machine."""
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        yield language, text.replace("server1", MACHINE)


@pytest.fixture(scope="module")
def wheels() -> Iterator[Path]:
    """A directory with the wheels of all that `ports` requires, which each host of the site sees."""
    top = Path(tempfile.mkdtemp(prefix="ports-wheels-", dir="/opt"))
    try:
        top.chmod(0o755)
        source = copy_of_checkout(top / "source")
        pip = [sys.executable, "-m", "pip", "wheel", "-q", *from_wheels()]
        command = [*pip, "--wheel-dir", str(top), str(source), *BUILD]
        if subprocess.run(command, capture_output=True, timeout=600, check=False).returncode:
            pytest.skip("pip finds no index with what ports requires here")
        for one in top.glob("ports-*.whl"):
            one.unlink()  # the page makes it
        yield top
    finally:
        shutil.rmtree(top)


def copy_of_checkout(top: Path) -> Path:
    """Copy what an installation needs, and nothing that was built."""
    top.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        if (CHECKOUT / name).exists():
            shutil.copy(CHECKOUT / name, top)
    for name in ("ports", "etc"):
        shutil.copytree(CHECKOUT / name, top / name, ignore=shutil.ignore_patterns("__pycache__"))
    return top


class Shell:
    """A login shell of alice's on the laptop: what is typed there, and what it prints until the next prompt."""

    def __init__(self, site: NamespaceSite, wheels: Path) -> None:
        self.environ = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        # Its PATH has no `ports` yet: the page installs it.
        environ = {**site.environment("laptop"), **self.environ, "PATH": "/usr/bin:/bin"}
        self.running: Running = site.popen(
            "laptop", ["bash"], env=environ, stdin=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def type(self, line: str) -> tuple[int, str]:
        """Run a line, and return its exit code and what it printed."""
        assert self.running.stdin is not None and self.running.stdout is not None
        self.running.stdin.write(f"{{ {line}\n}} </dev/null; code=$?; echo; echo typed $code\n")
        self.running.stdin.flush()
        printed: list[str] = []
        while (said := self.running.stdout.readline()) and not said.startswith("typed "):
            printed.append(said)
        assert said, "".join(printed)
        return int(said.split()[1]), "".join(printed).strip()

    def end(self) -> None:
        """End it."""
        self.running.communicate("exit\n", timeout=30)


@pytest.fixture
def shell(root_site: NamespaceSite, wheels: Path) -> Iterator[Shell]:
    """Alice's shell, with a checkout and an alias for the machine, as the page has it."""
    root_site.reset()
    check = LeakCheck(root_site)
    for pattern in (*KEPT, "file */logins/*", "file */jump-methods/*", "file */leases/*"):
        check.allow(pattern)
    source = copy_of_checkout(root_site.host("laptop").path("~/ports"))
    account = root_site.account("alice")
    subprocess.run(["chown", "-R", f"{account.uid}:{account.gid}", str(source)], check=True)
    made = Shell(root_site, wheels)
    yield made
    made.end()
    close = [root_site.python, "-c", "from ports.hosts import openssh; openssh.close_all()"]
    root_site.run("laptop", close, check=True)
    check.verify()
    root_site.reset()


def typed_lines(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield host, command and the lines that it prints, for each command of a block."""
    for host, command, printed in re.findall(r"^([a-z]\w+)\$ (.*)\n((?:(?![a-z]\w+\$ ).*\n)*)", text, re.MULTILINE):
        yield host, command, printed.splitlines()


def test_the_page_leads_from_an_empty_machine_to_the_result(root_site: NamespaceSite, shell: Shell) -> None:
    there: list[str] = []
    n_typed = 0
    for language, text in blocks():
        if language == "python":
            root_site.host("laptop").write("~/answer.py", text)
        for host, command, wanted in typed_lines(text) if language == "console" else ():
            n_typed += 1
            if host == MACHINE:  # after `ssh server1`
                there.append(command)
            if command == f"ssh {MACHINE}" or (host == MACHINE and command != "exit"):
                continue
            if there:
                exports = [f"export {name}={value}" for name, value in shell.environ.items()]
                command = shlex.join(["ssh", MACHINE, "\n".join([*exports, "set -e", *there])])
                there = []
            code, printed = shell.type(command)
            assert code == 0, f"{command}: {printed}"
            assert set(wanted) <= set(printed.splitlines()), f"{command} printed {printed!r}, and not {wanted}"
    assert n_typed >= 18
