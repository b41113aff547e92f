"""Which tunnels a logout concerns: hosts are compared by the hops that lead to them."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from ports import hosts, tunnels
from ports.cli import login
from ports.errors import SSHError, TimedOutError
from ports.hosts import Hop, Route, _logins, _prompts
from ports.hosts.openssh import liveness, processes
from ports.state import said_when_slow, wait_until

GATEWAY, SERVER = Hop("gateway", "gw.example", "alice", 22, key="g"), Hop("s", "10.0.0.5", "alice", 22, key="g s")
ROUTES = {
    "gateway": (GATEWAY,),
    "gw.example": (GATEWAY,),
    "server1": (GATEWAY, SERVER),
    "10.0.0.5": (GATEWAY, SERVER),
    "other": (Hop("other", "other", "alice", 22, key="o"),),
}
HELD = ["gateway", "localhost", "other", "server1", "server1/node2", "unread"]


@pytest.fixture(autouse=True)
def routes(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(alias: str) -> Route:
        if alias not in ROUTES:
            raise SSHError(alias, "cannot be read")
        return Route(alias, ROUTES[alias], "ssh")

    monkeypatch.setattr(_logins, "resolve", resolve)


@pytest.mark.parametrize(
    ("ended", "concerned"),
    [
        (["10.0.0.5"], ["server1"]),
        (["server1"], ["server1", "server1/node2"]),
        (["gw.example"], ["gateway", "server1"]),
        (["other"], ["other"]),
        ([None], ["gateway", "other", "server1", "server1/node2", "unread"]),
        ([], []),
    ],
)
def test_a_logout_concerns_tunnels_by_the_hops_of_their_routes(ended: list[str | None], concerned: list[str]) -> None:
    assert _logins.reached_through(HELD, ended) == concerned


@pytest.mark.parametrize("words", [["10.0.0.5"], ["gw.example"], ["--all"]])
def test_a_logout_by_another_name_tells_which_tunnels_stay(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    named = [word for word in words if word != "--all"] or ["10.0.0.5", "gw.example"]
    monkeypatch.setattr(hosts, "logout", lambda *_: [{"host": one, "state": "disconnected"} for one in named])
    monkeypatch.setattr(tunnels, "list", lambda: [{"host": "server1", "state": "open"}, {"host": None, "state": "?"}])
    told = CliRunner().invoke(login.logout, words)
    assert "tunnels to server1 are still open and will reconnect; `ports tunnel close server1`" in told.output


def test_a_notice_of_slowness_waits_while_a_person_is_asked() -> None:
    said: list[str] = []
    looked = []
    hop = Hop("server1", "server1", "alice", 22)

    def is_asking() -> bool:
        looked.append(_prompts.is_asking())
        return looked[-1]

    with said_when_slow(said.append, "waiting for server1", after=0.01, unless=is_asking):
        with _prompts.asking_at_terminal(hop):
            wait_until(lambda: len(looked) > 2 or None, timeout=10, what="three looks")
            assert said == []
        wait_until(lambda: said or None, timeout=10, what="the notice")
    assert said == ["waiting for server1"] and looked[:3] == [True] * 3


def test_after_ctrl_c_no_other_host_begins_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_prompts, "_is_over", False)
    hop = Hop("server1", "server1", "alice", 22)
    with _prompts.asking_at_terminal(hop, program=True):
        assert _prompts.ask_no_more() is True, "ssh ends its own line"
    with pytest.raises(KeyboardInterrupt), _prompts.asking_at_terminal(hop):
        pass
    assert _prompts.ask_no_more() is False


HOLDS = "import socket, sys; a, b = socket.socketpair(); print('ready', flush=True); sys.stdin.read()"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the sockets of a process")
def test_an_ssh_without_an_answer_waits_for_no_person() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        command = ["ssh", "-F", "none", "-p", port, "-o", "BatchMode=yes", "127.0.0.1", "true"]
        with subprocess.Popen(command, stdin=-3, stdout=-3, stderr=-3) as ssh, silent.accept()[0] as connection:
            connection.recv(3)  # its greeting: it stands, and nothing comes back
            assert liveness.is_logging_in(ssh.pid) is False
            ssh.kill()
        assert liveness.is_logging_in(ssh.pid) is None
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdin=-1, stdout=-1, text=True) as agent:
        assert agent.stdout is not None and agent.stdout.readline() == "ready\n"
        assert liveness.is_logging_in(agent.pid) is True, "it holds the connection to an agent"
        agent.kill()
    assert liveness.is_logging_in(agent.pid) is None


@pytest.mark.parametrize(("answers", "looks"), [([True, True, False], 3), ([False], 1)])
def test_a_silent_login_is_looked_at_again_until_it_is_explained(answers: list[bool], looks: int) -> None:
    seen: list[int] = []

    def doubt(pid: int) -> bool:
        seen.append(pid)
        return answers[len(seen) - 1]

    with pytest.raises(TimedOutError):
        processes.run_to_end(["sleep", "60"], stderr=None, limit=0.5, doubt=(0.05, doubt))
    assert len(seen) == looks
