"""What the program prints to be typed is typed: it does what was promised."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import Laptop

pytestmark = [pytest.mark.ci, pytest.mark.timeout(90)]

AT_HOME = "server1-from-home"
SHOW = "import ports; ports.show(ports.clusters.get('main'))"
START = ("cluster", "start", "--n-workers", "0")


@pytest.fixture
def renamed(laptop: Laptop) -> Iterator[Laptop]:
    """Alice's laptop, whose alias of server1 is not its hostname."""
    config = laptop.site.host("laptop").path("~/.ssh/config")
    config.write_text(config.read_text().replace("Host server1\n", f"Host {AT_HOME}\n"))
    yield laptop
    for host in ("server1", "login"):
        laptop.type("cluster", "stop", host=host)


def opened_at_home(laptop: Laptop, command: str) -> None:
    """Type a command that the server printed; a link opens."""
    program, verb, *words = shlex.split(command)
    assert (program, verb) == ("ports", "open")
    rows = laptop.json("open", *words, "--background")
    assert [row["state"] for row in rows] == ["open"]
    laptop.json("tunnel", "close", "--all")


def test_a_server_prints_the_alias_by_which_home_started_something(renamed: Laptop) -> None:
    started = renamed.json(*START, "-H", AT_HOME)
    shown = renamed.json("cluster", "show", host="server1")
    command = f"ports open {AT_HOME}:main"
    assert [(row["command"], row["command_note"]) for row in (started, shown)] == [(command, None)] * 2
    lines = renamed.python("server1", SHOW).splitlines()
    assert lines[0].split()[-3:] == command.split() and lines[2].endswith(f" {AT_HOME}")
    opened_at_home(renamed, shown["command"])


def test_a_guess_is_called_a_guess_until_home_has_opened_something(renamed: Laptop) -> None:
    renamed.json("list", AT_HOME)
    assert not renamed.site.host("server1").path("~/.local/state/ports").exists(), "what only looks leaves nothing"
    said = renamed.type(*START, host="server1").stdout
    guess = "(replace server1 by your own alias for this machine)"
    assert f"at home:  ports open server1:main  {guess}\n" in said
    assert renamed.python("server1", SHOW).splitlines()[1].strip() == guess
    opened_at_home(renamed, f"ports open {AT_HOME}:main")
    assert renamed.python("server1", SHOW).splitlines()[0].endswith(f" {AT_HOME}:main")


def test_the_hostname_leads_to_the_alias_in_every_command(renamed: Laptop) -> None:
    for words in ("open server1:main", "list server1", "cluster list -H server1", "login server1", "shell server1",
                  "notebook attach -H server1", "who server1", "doctor server1"):  # fmt: skip
        done = renamed.type(*words.split())
        assert done.returncode and f"did you mean {AT_HOME}" in done.stdout + done.stderr, words
