"""What the program prints to be typed is typed: it does what was promised."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports.state.waiting import wait_until
from tests.acceptance.conftest import Laptop
from tests.integration.test_remote import at_a_terminal
from tests.lab.namespaces import NamespaceSite

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


def said(laptop: Laptop, *words: str, **where: object) -> str:
    """Type a command that fails, and return what it says on stderr."""
    done = laptop.type(*words, **where)
    assert done.returncode, done.stdout
    return done.stderr


def named(text: str, begin: str) -> list[str]:
    """Return the words of the command in `text` that begins so."""
    found = [one for one in re.findall(r"`([^`]*)`", text) if one.startswith(begin)]
    assert found, text
    return shlex.split(found[0])


def do(laptop: Laptop, text: str, begin: str, **where: object) -> str:
    """Type the command of `ports` in `text` that begins so; it succeeds."""
    done = laptop.type(*named(text, begin)[1:], **where)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_host_key_that_changed_is_forgotten_and_accepted_as_is_said(laptop: Laptop, root_site: NamespaceSite) -> None:
    root_site.host("server2").change_host_key()
    forget = named(said(laptop, "list", "server2"), "ssh-keygen")
    root_site.run("laptop", forget, check=True)
    accept = shlex.join(named(said(laptop, "list", "server2"), "ssh "))
    assert accept == "ssh server2"
    shown = at_a_terminal(root_site, f"exec {accept} echo accepted", {"(yes/no": "yes\n"})
    assert "accepted" in shown
    assert laptop.json("list", "server2") == []
    root_site.host("laptop").path("~/.ssh/known_hosts.old").unlink()  # of ssh-keygen


def test_known_hosts_that_keep_nothing_are_mended_by_the_named_line(laptop: Laptop, root_site: NamespaceSite) -> None:
    config = root_site.host("laptop").path("~/.ssh/config")
    before, line = config.read_text(), "UserKnownHostsFile /dev/null"
    config.write_text(before.replace("Host server2\n", f"Host server2\n    {line}\n"))
    assert f"`{line}`" in said(laptop, "list", "server2")
    config.write_text(before)
    assert laptop.json("list", "server2") == []


def test_a_key_that_others_can_read_is_closed_as_is_said(laptop: Laptop, root_site: NamespaceSite) -> None:
    root_site.host("laptop").path("~/.ssh/id_ed25519").chmod(0o644)
    root_site.run("laptop", named(said(laptop, "list", "server2"), "chmod"), check=True)
    assert laptop.json("list", "server2") == []


def test_a_key_that_is_loaded_into_the_agent_logs_in_as_is_said(laptop: Laptop, root_site: NamespaceSite) -> None:
    moved = "~/.ssh/id_ed25519", "~/.ssh/elsewhere"
    old, new = (root_site.host("laptop").path(one) for one in moved)
    old.rename(new)
    begun = root_site.run("laptop", ["ssh-agent", "-s"], check=True).stdout
    agent = dict(one.split(";")[0].split("=") for one in begun.splitlines() if "=" in one)
    try:
        text = said(laptop, "list", "server2", env=agent)
        assert "`ssh-add`" in text
        assert "waits for a login" in said(laptop, "list", "server2", env=agent)
        loaded = root_site.run("laptop", ["ssh-add", "/home/alice/.ssh/elsewhere"], env=agent)
        assert laptop.json("list", "server2", env=agent) == [], loaded.stderr
    finally:
        root_site.run("laptop", ["ssh-agent", "-k"], env=agent)
        new.unlink()


def test_a_host_without_python_is_used_by_the_setting_that_is_named(laptop: Laptop, root_site: NamespaceSite) -> None:
    env = str(Path(root_site.notebook_python).parents[1])
    setting = {"DASK_PORTS__HOSTS": json.dumps({"server2": {"env": env}})}
    root_site.run("server2", ["mv", "/usr/bin/python3", "/usr/bin/python3.away"], user="root", check=True)
    try:
        assert "ports.hosts.server2.env" in said(laptop, "list", "server2")
        assert laptop.json("list", "server2", env=setting) == []
    finally:
        root_site.run("server2", ["mv", "/usr/bin/python3.away", "/usr/bin/python3"], user="root", check=True)


def test_a_host_where_ports_is_not_found_runs_it_by_the_setting(laptop: Laptop, root_site: NamespaceSite) -> None:
    profile = root_site.host("server1").path("~/.profile")
    profile.write_text(profile.read_text().replace("PATH=", "NOT="))
    assert "ports.hosts.server1.env" in said(laptop, "cluster", "list", "-H", "server1")
    setting = {"DASK_PORTS__HOSTS": json.dumps({"server1": {"env": str(Path(root_site.python).parents[1])}})}
    assert laptop.json("cluster", "list", "-H", "server1", env=setting) == []


def test_a_cluster_that_was_killed_starts_as_its_link_says(laptop: Laptop, root_site: NamespaceSite) -> None:
    laptop.type("cluster", "start", "-H", "server1", "--n-workers", "0")
    pid = laptop.json("cluster", "show", "-H", "server1")["pid"]
    root_site.run("server1", ["kill", "-9", str(pid)], check=True)
    stopped = lambda: laptop.json("cluster", "list", "-H", "server1")[0]["state"] == "stopped" or None  # noqa: E731
    wait_until(stopped, timeout=15, what="its end", every=0.2)
    text = said(laptop, "open", "server1:main")
    do(laptop, text, "ports cluster start main")
    assert laptop.json("cluster", "show", "-H", "server1")["n_workers"] == 0, "with what was asked for at first"
    opened_at_home(laptop, "ports open server1:main")
    assert laptop.type("cluster", "stop", "-H", "server1").returncode == 0
    (row,) = laptop.json("open", "server1", code=3)
    assert named(row["note"], "ports cluster start")[1:] == ["cluster", "start", "-H", "server1"]
