"""Messages that name a command, a setting or an option: each is made to appear, and what it says is done, and helps."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports import probe
from tests.integration.conftest import Home, new_home

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120), pytest.mark.xdist_group("machine")]

SMALL = "ports: {cluster: {n_workers: 1, threads_per_worker: 1, memory_limit: 300MB, force: true}}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home whose clusters are small, so that a command can be typed as a message names it."""
    with new_home(tmp_path_factory.mktemp("ways-out") / "home") as home:
        settings = home.work.parent / "dask" / "ports.yaml"
        settings.parent.mkdir()
        settings.write_text(SMALL)
        yield home


def said(home: Home, *words: str, code: int | None = None) -> str:
    """Type a command that fails, or with `code` 0 warns, and return what it says on stderr."""
    done = home.ports(*words)
    assert done.returncode == code if code is not None else done.returncode, done.stdout
    return done.stderr


def named(text: str, begin: str) -> str:
    """Return the command in `text` that begins so."""
    found = [one for one in re.findall(r"`(ports [^`]*)`", text) if one.startswith(begin)]
    assert found, text
    return found[0]


def do(home: Home, command: str) -> str:
    """Type a command as it was named; it succeeds. Return what it prints."""
    done = home.ports(*shlex.split(command)[1:])
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def main(place: Home) -> Iterator[str]:
    """The cluster that the message of a missing one says how to start."""
    do(place, named(said(place, "cluster", "show", code=3), "ports cluster start"))
    assert place.json("cluster", "show")["state"] == "running"
    yield "main"
    do(place, named(said(place, "cluster", "start", code=4), "ports cluster stop"))
    assert "no clusters; `ports cluster start` starts one" in do(place, "ports cluster list")


def test_a_name_in_use_names_what_shows_and_changes_its_cluster(place: Home, main: str) -> None:
    text = said(place, "cluster", "start", main, code=4)
    assert "running" in do(place, named(text, "ports cluster show"))
    do(place, named(text, "ports cluster scale").replace(" N", " 0"))
    assert place.json("cluster", "show")["n_workers"] == 0
    do(place, "ports cluster scale main 1")
    do(place, named(text, "ports cluster restart"))


def test_other_options_than_asked_for_are_used_as_they_are(place: Home, main: str) -> None:
    code = "import ports; print(ports.cluster('main', n_workers=2{}).name)"
    warned, refused = (place.python(code.format(how)) for how in ("", ", reuse='exact'"))
    assert "or pass reuse='any'" in warned.stderr and not warned.returncode
    assert "or use it as it is with reuse='any'" in refused.stderr and refused.returncode
    used = place.python(code.format(", reuse='any'"))
    assert (used.stdout, used.stderr) == ("main\n", "")


def test_what_is_only_disconnected_is_ended_as_the_message_says(place: Home, main: str) -> None:
    do(place, "ports cluster start other --n-workers 0")
    code = "import ports; c = ports.clusters.get('other'); c.get_client().shutdown()"
    text = place.python(code).stderr
    assert "only disconnected: cluster 'other' keeps running" in text
    assert place.json("cluster", "show", "other")["state"] == "running"
    do(place, named(text, "ports cluster stop"))
    assert [row["name"] for row in place.json("cluster", "list")] == ["main"]


@pytest.mark.parametrize("file", ["host.json", "runtime.json", "clients.json", "logins/a.json", "tunnels/links.json"])
def test_prune_moves_any_record_aside_that_cannot_be_read(place: Home, file: str) -> None:
    path = Path(probe.host_directory()) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    do(place, "ports prune")
    assert not path.exists() or path.read_text() != "{"
    assert list(path.parent.glob(f"{path.name}.broken-*"))
    for aside in path.parent.glob(f"{path.name}.broken-*"):
        aside.unlink()


def test_a_runtime_record_that_cannot_be_read_says_prune_which_helps(place: Home) -> None:
    path = Path(probe.host_directory()) / "runtime.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    text = said(place, "cluster", "start", "x", "--n-workers", "0", code=7)
    do(place, named(text, "ports prune"))
    do(place, "ports cluster list")


@pytest.mark.parametrize(
    ("words", "message", "instead"),
    [
        ("cluster logs -f --json", "--follow has no end", None),
        ("who --watch --json", "--watch has no end", "ports who --json"),
        ("tunnel close", "or pass --all", "ports tunnel close --all"),
        ("logout", "or pass --all", "ports logout --all"),
        ("tunnel close server1:main", "`ports tunnel list` shows", "ports tunnel list"),
        ("lits", "did you mean `ports list`", "ports list"),
        ("status", "`ports list` or `ports who`", "ports who"),
        ("cluster sho", "`ports cluster show`", "ports cluster --help"),
        ("cluster list --jsno", "did you mean `--json`", "ports cluster list --json"),
        ("cluster list x:1", "`ports open x:1`", "ports open --help"),
    ],
)
def test_a_command_that_is_refused_names_the_one_that_works(
    place: Home, words: str, message: str, instead: str | None
) -> None:
    assert message in said(place, *words.split(), code=2 if "server1" not in words else 3)
    if instead:
        do(place, instead)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[int]:
    """A page of this user on a port of this machine."""
    code = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler)\n"
    code += "print(s.server_port, flush=True); s.serve_forever()"
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path
    )
    with server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.kill()


def opened(home: Home, *words: str) -> str:
    """Open a link in the background, and close it again; return how it ended."""
    done = home.ports("open", *words, "--background")
    home.ports("tunnel", "close", "--all")
    return done.stderr if done.returncode else "open"


def test_a_local_port_in_use_is_left_by_the_option_that_is_named(place: Home, page: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = opened(place, f"localhost:{page}", "--local-port", str(port))
        assert f"port {port} is in use by " in refused and "--local-port 0 " in refused
        assert opened(place, f"localhost:{page}", "--local-port", "0") == "open"


def test_options_of_a_local_address_name_those_that_are_missing(place: Home, page: int, tmp_path: Path) -> None:
    target = f"localhost:{page}"
    assert "pass --public" in opened(place, target, "--bind", "127.0.0.2")
    assert "pass --bind ADDRESS" in opened(place, target, "--public")
    assert opened(place, target, "--public", "--bind", "127.0.0.2") == "open"
    (tmp_path / "s").write_text("")
    assert "name another path" in opened(place, target, "--local-socket", str(tmp_path / "s"))
    assert opened(place, target, "--local-socket", str(tmp_path / "t")) == "open"
    assert "works with HOST:PORT only" in opened(place, "localhost:main", "--owner", "root")


def test_a_port_of_this_machine_with_nothing_there_is_looked_for_here(place: Home) -> None:
    text = said(place, "open", "localhost:9", code=3)
    command = named(text, "ports list")
    assert command == "ports list --all"
    do(place, command)


def test_without_a_target_the_hosts_of_the_setting_that_is_named_are_taken(place: Home, main: str) -> None:
    assert "list your hosts in the setting ports.hosts" in said(place, "open", code=2)
    environ = {**os.environ, "DASK_PORTS__HOSTS": '["localhost"]'}
    done = place.ports("open", "--background", env=environ)
    assert done.returncode == 0 and f"cluster {main}" in done.stdout, done.stderr
    do(place, "ports tunnel close --all")


def test_a_thing_on_a_host_is_opened_where_only_a_host_is_taken(place: Home, page: int) -> None:
    text = said(place, "cluster", "attach", "-H", f"localhost:{page}", code=2)
    assert opened(place, *shlex.split(named(text, "ports open"))[2:]) == "open"


def test_what_is_open_at_another_address_is_closed_first(place: Home, page: int, tmp_path: Path) -> None:
    words = ("open", f"localhost:{page}", "--background")
    do(place, "ports " + " ".join(words))
    text = said(place, *words, "--local-socket", str(tmp_path / "s"))
    do(place, named(text, "ports tunnel close"))
    assert opened(place, f"localhost:{page}", "--local-socket", str(tmp_path / "s")) == "open"


def test_a_notebook_server_is_started_and_stopped_as_is_said(place: Home, tmp_path: Path) -> None:
    refused = said(place, "notebook", "start", "--root", str(tmp_path / "none"), code=2)
    assert "pass the directory to serve" in refused
    start = named(said(place, "notebook", "show", code=3), "ports notebook start")
    do(place, f"{start} --root {tmp_path}")
    text = said(place, "notebook", "start", code=4)
    assert named(text, "ports open").endswith(":lab")
    assert opened(place, "localhost:lab") == "open"
    do(place, named(text, "ports notebook stop"))


def test_an_environment_without_python_takes_the_path_that_is_asked_for(place: Home, tmp_path: Path) -> None:
    (tmp_path / "conda-meta").mkdir()
    words = ("cluster", "start", "there", "--n-workers", "0", "--env")
    assert "pass the path of a conda environment or venv" in said(place, *words, "no-such-environment", code=3)
    assert "pass the directory that contains bin/python" in said(place, *words, str(tmp_path.parent), code=3)
    assert f"`conda install -p {tmp_path} python` adds it" in said(place, *words, str(tmp_path), code=3)
    done = place.ports(*words, sys.prefix)
    assert done.returncode == 0, done.stderr
    do(place, "ports cluster stop there")


def test_a_directory_that_cannot_be_used_is_left_by_the_way_that_is_named(place: Home, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = place.ports("cluster", "list", env={**os.environ, "PORTS_HOME": str(tmp_path / "file")})
    made = place.ports("cluster", "start", "x", env={**os.environ, "PORTS_HOME": str(tmp_path / "file")})
    assert "set PORTS_HOME to a directory of yours" in made.stderr, (done, made)
    missing = said(place, "cluster", "start", "x", "--local-directory", str(place.disk / "none"), code=2)
    assert "name a directory of yours" in missing and "PORTS_HOME" not in missing
