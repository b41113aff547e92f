"""What ssh says and what the configuration says, read without a connection."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dask.config
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports import errors, hosts
from ports.hosts import Hop, Route, _resolve, _this_machine, resolve
from ports.hosts._resolve import Destination, parse_destination, parse_hop, read_hop, recognise_proxy_command
from ports.hosts.openssh import control_sockets, ssh_config
from ports.hosts.openssh import errors as ssh_errors
from ports.hosts.openssh.errors import takes_more_than_keys


@pytest.fixture
def set_here() -> Iterator[Callable[[str, object], None]]:
    """Return a function that changes a setting of ports for this test."""
    with contextlib.ExitStack() as stack:
        yield lambda key, value: stack.enter_context(dask.config.set({f"ports.{key}": value}))


CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
The fingerprint for the ED25519 key sent by the remote host is
SHA256:OcJIyl+Q9In5VqosLU/G5ip1GnkvVC8D55K5V7UorqI.
Add correct host key in /home/alice/.ssh/known_hosts to get rid of this message.
Offending ED25519 key in /home/alice/.ssh/known_hosts:3
  remove with:
  ssh-keygen -f "/home/alice/.ssh/known_hosts" -R "server1"
Host key for server1 has changed and you have requested strict checking.
Host key verification failed.
"""
UNKNOWN = """\
debug1: Server host key: ssh-ed25519 SHA256:OcJIyl+Q9In5VqosLU/G5ip1GnkvVC8D55K5V7UorqI
No ED25519 host key is known for server1 and you have requested strict checking.
Host key verification failed.
"""
OPEN_KEY = """\
Permissions 0644 for '/home/alice/.ssh/id' are too open.
This private key will be ignored.
Load key "/home/alice/.ssh/id": bad permissions
alice@server1: Permission denied (publickey,password).
"""

# Texts of OpenSSH 9.2, each provoked once on a real sshd.
SAID = [
    (
        "ssh: Could not resolve hostname server9: Name or service not known",
        errors.UnknownHostError,
        "'server9' is unknown",
    ),
    (
        "ssh: Could not resolve hostname server1: Temporary failure in name resolution",
        errors.NetworkError,
        "cannot be resolved now",
    ),
    ("hostname contains invalid characters", errors.UnknownHostError, "not the name of a host"),
    (CHANGED, errors.HostKeyError, "CHANGED to SHA256:OcJIyl"),
    (CHANGED, errors.HostKeyError, 'ssh-keygen -f "/home/alice/.ssh/known_hosts" -R "server1"'),
    (UNKNOWN, errors.HostKeyError, "(ED25519 SHA256:OcJIyl+Q9In5VqosLU/G5ip1GnkvVC8D55K5V7UorqI)"),
    (UNKNOWN, errors.HostKeyError, "then accept it by running `ssh server1` once"),
    ("alice@server1: Permission denied (publickey,password).", errors.LoginNeededError, "`ports login server1`"),
    (OPEN_KEY, errors.LoginNeededError, "chmod 600 /home/alice/.ssh/id"),
    (
        "Received disconnect from 10.0.0.3 port 22:2: Too many authentication failures",
        errors.LoginNeededError,
        "IdentitiesOnly yes",
    ),
    ("channel 0: open failed: administratively prohibited: open failed\r", errors.ProhibitedError, "PermitOpen"),
    ("channel 0: open failed: unknown channel type: no\r", errors.ProhibitedError, "unknown channel type"),
    ("channel 0: open failed: resource shortage: no memory\r", errors.ProhibitedError, "resource shortage"),
    (
        "channel 2: open failed: connect failed: Connection refused\r",
        errors.NetworkError,
        "jump host cannot connect to it: Connection refused",
    ),
    (
        "channel 2: open failed: connect failed: Name or service not known",
        errors.UnknownHostError,
        "jump host does not know",
    ),
    ("ssh: connect to host 127.0.0.1 port 9: Connection refused", errors.NetworkError, "refuses connections"),
    ("ssh: connect to host 10.0.0.3 port 22: Connection timed out", errors.NetworkError, "does not answer"),
    (
        "Connection timed out during banner exchange\nConnection to 10.0.0.3 port 22 timed out",
        errors.NetworkError,
        "does not answer",
    ),
    (
        "ssh: connect to host 10.0.0.3 port 22: No route to host",
        errors.NetworkError,
        "cannot be reached: No route to host",
    ),
    (
        "Unable to negotiate with 10.0.0.3 port 22: no matching key exchange method found. Their offer: x",
        errors.SSHError,
        "this ssh and this server share no key exchange method;",
    ),
    (
        "mux_client_request_session: session request failed: Session open refused by peer",
        errors.SSHError,
        "MaxSessions",
    ),
    (
        "kex_exchange_identification: Connection closed by remote host\nConnection closed by 10.0.0.3 port 22",
        errors.SSHError,
        "too many connections at once",
    ),
    ("Timeout, server server1 not responding.", errors.ConnectionLostError, "the connection was lost"),
    ("Can't open user config file /none/x: No such file or directory", errors.SSHError, "configuration /none/x"),
    ("/home/alice/.ssh/config: line 1: Bad configuration option: bogus", errors.SSHError, "Bad configuration option"),
    ("This account is currently not available.", errors.SSHError, "ask the administrator"),
    (
        "kex_exchange_identification: read: Connection reset by peer\nConnection reset by 10.0.0.3 port 22",
        errors.NetworkError,
        "was reset before the login",
    ),
    (
        "kex_exchange_identification: banner line 0: Exceeded MaxStartups\n"
        "kex_exchange_identification: Connection closed by remote host",
        errors.SSHError,
        "is refusing new connections (Exceeded MaxStartups)",
    ),
    (
        "kex_exchange_identification: banner line 0: Not allowed at this time\n"
        "kex_exchange_identification: read: Connection reset by peer",
        errors.SSHError,
        "is refusing new connections (Not allowed at this time)",
    ),
    (
        "ssh_dispatch_run_fatal: Connection to 10.0.0.3 port 22: Connection refused",
        errors.NetworkError,
        "refuses connections",
    ),
    ("ssh: connect to host 10.0.0.3 port 22: Network is unreachable", errors.NetworkError, "Network is unreachable"),
    ("client_loop: send disconnect: Broken pipe", errors.ConnectionLostError, "was lost"),
    ("relay: connect failed: by nc to server1 port 22", errors.NetworkError, "jump host cannot connect to it: by nc"),
    ("relay: no nc, python3 or bash there", errors.SSHError, "sshd on the jump host prohibits forwarding"),
    ("something new", errors.SSHError, "ssh failed: something new; `ssh -v server1` shows more"),
    ("", errors.SSHError, "it said nothing"),
]


@pytest.mark.parametrize(("said", "kind", "part"), SAID)
def test_what_ssh_says_becomes_an_error_with_reason_and_way_out(
    said: str, kind: type[errors.SSHError], part: str
) -> None:
    error = ssh_errors.explain("server1", said)
    assert (type(error), part in str(error)) == (kind, True), str(error)
    assert "\n" not in str(error) and "\r" not in str(error)


# What may be tried again at once, and what would lock an account or lengthen a ban.
NOT_THE_NETWORK = (errors.LoginNeededError, errors.HostKeyError, errors.ProhibitedError)


BANNER = "@ REMOTE HOST IDENTIFICATION HAS CHANGED @\nHost key verification failed.\nConnection refused\n"


@pytest.mark.parametrize(
    ("log", "stderr", "kind", "parts"),
    [
        (
            "alice@login: Permission denied (password).",
            BANNER,
            errors.LoginNeededError,
            ["ports login server1", "HAS CH"],
        ),
        (
            "Connection closed by 10.0.0.3 port 22",
            "Access denied for alice: you have no active jobs on this node\n",
            errors.SSHError,
            ["the host says: 'Access denied for alice: you have no active jobs on this node'"],
        ),
        (
            "Received disconnect from 10.0.0.3 port 22:2: Host key verification failed.\n"
            "Disconnected from 10.0.0.3 port 22",
            "",
            errors.SSHError,
            ["the host says: 'Host key verification failed.'"],
        ),
        (
            "kex_exchange_identification: Connection closed by remote host",
            "ssh: connect to host login port 22: Connection refused\n",  # a ProxyCommand's
            errors.NetworkError,
            ["refuses connections"],
        ),
        ("alice@login: Permission denied (publickey).", "\x1b[2J\r\n", errors.LoginNeededError, ["ports login"]),
    ],
)
def test_a_host_s_own_words_are_quoted_and_mean_nothing(
    log: str, stderr: str, kind: type[errors.SSHError], parts: list[str]
) -> None:
    error = ssh_errors.explain("server1", log, stderr)
    assert type(error) is kind
    assert all(part in str(error) for part in parts), str(error)
    assert "\x1b" not in str(error)


def test_a_far_command_that_speaks_like_ssh_is_not_ssh() -> None:
    said = "bash: Session open refused by peer\nmy mux_client_hello\n"
    assert not ssh_errors.is_session_refused(said) and not ssh_errors.is_multiplexing_failure(said)
    said += "mux_client_request_session: session request failed: Session open refused by peer\n"
    assert ssh_errors.is_session_refused(said)


@pytest.mark.parametrize(("said", "kind"), [row[:2] for row in SAID])
def test_what_the_network_did_is_told_from_what_the_server_refused(said: str, kind: type[errors.SSHError]) -> None:
    by_network = issubclass(kind, (errors.NetworkError, errors.UnknownHostError))
    assert ssh_errors.explain("server1", said).is_network == by_network
    assert not (by_network and issubclass(kind, NOT_THE_NETWORK))


def test_a_denial_after_a_person_was_asked_is_no_call_for_a_login() -> None:
    error = ssh_errors.explain("server1", "alice@server1: Permission denied (password).", asked=True)
    assert type(error) is errors.SSHError and "was refused" in str(error)


@given(st.text())
def test_no_text_of_ssh_breaks_the_explanation(said: str) -> None:
    assert isinstance(ssh_errors.explain("server1", said), errors.SSHError)


REFUSED = "channel 3: open failed: connect failed: Connection refused\r\n"
PROHIBITED = "channel 3: open failed: administratively prohibited: open failed"
UNIX = "channel 3: open failed: connect failed: open failed\r\n"  # both where it prohibits, and where none listens
SHORT = "channel 3: open failed: resource shortage: Connection refused\r\n"
SILENT = "Timeout, server server1 not responding.\r\n"


@pytest.mark.parametrize(
    ("text", "remote", "kind", "part"),
    [
        (REFUSED, "127.0.0.1:80", errors.RefusedError, "nothing answers"),
        (PROHIBITED, "127.0.0.1:80", errors.ProhibitedError, "AllowTcpForwarding"),
        (PROHIBITED, "/tmp/x", errors.ProhibitedError, "AllowStreamLocalForwarding"),
        (UNIX, "/tmp/x", errors.ProhibitedError, "nothing answers at /tmp/x there, or its sshd prohibits"),
        (SHORT, "127.0.0.1:80", errors.ProhibitedError, "resource shortage"),
        (
            "channel 3: open failed: unknown channel type: no\r\n",
            "/tmp/x",
            errors.ProhibitedError,
            "forwards nothing to",
        ),
        ("channel 3: open failed: connect failed: disabled\r\n", "127.0.0.1:80", errors.ProhibitedError, "(connect"),
        (REFUSED + SILENT, "127.0.0.1:80", errors.ConnectionLostError, "Timeout, server server1"),
        (SILENT + REFUSED, "127.0.0.1:80", errors.RefusedError, "nothing answers"),
    ],
)
def test_a_refused_forward_is_explained(text: str, remote: str, kind: type[errors.SSHError], part: str) -> None:
    error = ssh_errors.explain_forward("server1", remote, text)
    assert (type(error), part in str(error)) == (kind, True)


def test_a_master_that_complains_of_nothing_refused_nothing() -> None:
    assert ssh_errors.explain_forward("server1", "127.0.0.1:80", "Warning: banner\n") is None


@pytest.mark.parametrize(
    ("command", "jump"),
    [
        ("ssh -W %h:%p login", Destination("login")),
        ("ssh -q -W %h:%p login", Destination("login")),
        ("exec /usr/bin/ssh -q -W [%h]:%p alice@login", Destination("login", "alice")),
        ("ssh -qW %h:%p -l alice -p 2222 login", Destination("login", "alice", 2222)),
        ("ssh -F /home/alice/cfg -q -W %h:%p login", Destination("login")),
    ],
)
def test_the_older_form_of_a_jump_host_is_recognised(command: str, jump: Destination) -> None:
    assert recognise_proxy_command(command, ["-F", "/home/alice/cfg"]) == (jump,)


@pytest.mark.parametrize(
    "command",
    [
        "nc -X connect -x proxy:3128 %h %p",
        "ssh login nc %h %p",
        "ssh -W %h:22 login",
        "ssh -F /other/cfg -W %h:%p login",
        "ssh -o User=bob -W %h:%p login",
        "ssh -W %h:%p login extra",
        "ssh -W",
        "ssh -W 'unclosed",
        "",
        None,
    ],
)
def test_another_proxy_command_is_left_to_ssh(command: str | None) -> None:
    assert recognise_proxy_command(command, ["-F", "/home/alice/cfg"]) == ()


@given(st.text())
def test_no_proxy_command_breaks_the_reading(command: str) -> None:
    try:
        recognise_proxy_command(command, [])
    except errors.UnknownHostError:
        pass


@pytest.mark.parametrize(
    ("lines", "jumps"),
    [
        ("ProxyCommand ssh -q -W %h:%p %r@login", [Destination("login", "alice")]),
        ("ProxyCommand ssh -q -l %r -W [%h]:%p login", [Destination("login", "alice")]),
        ("ProxyCommand ssh -W %h:%p gate-%n", [Destination("gate-s1")]),
        ("ProxyCommand ssh -W %h:%p -p %p login", [Destination("login", None, 2222)]),
        ("ProxyJump %r@login", [Destination("login", "alice")]),
        ("ProxyJump %r@login,%h-gate", [Destination("login", "alice"), Destination("server1-gate")]),
    ],
)
def test_tokens_of_ssh_are_expanded_in_a_jump(
    lines: str, jumps: list[Destination], tmp_path: Path, set_here: Callable[[str, object], None]
) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host s1\n  HostName server1\n  User alice\n  Port 2222\n  {lines}\n")
    set_here("ssh.config", str(config))
    assert list(read_hop(Destination("s1"))[1]) == jumps


@pytest.mark.parametrize(
    "command",
    [
        "ssh -W %h:%p $GATE",
        "ssh -W %h:%p `gate`",
        "ssh -W %h:%p %r@login",  # of the user LAB\\alice a shell makes LABalice
        "ssh -W %h:%p login | tee log",
        "ssh -W %h:%p login; true",
        "ssh -W %h:%p login 2>/dev/null",
        "ssh -W %h:%p 'lo*gin'",
        "ssh -W %h:%p ~/gate",
        "ssh -W %h:%p login # the old one",
        "ssh -W %h:%p lo/gin/x",
        "ssh -W %h:%p %k",
        "ssh -W %n:%p login",
    ],
)
def test_what_a_shell_would_change_is_left_to_ssh_whole(
    command: str, tmp_path: Path, set_here: Callable[[str, object], None]
) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host s1\n  HostName server1\n  User LAB\\\\alice\n  ProxyCommand {command}\n")
    set_here("ssh.config", str(config))
    hop, jumps = read_hop(Destination("s1"))
    assert (jumps, hop.proxy_command) == ((), command)


def test_what_ssh_resolves_is_read() -> None:
    text = "user alice\nhostname 10.0.0.3\nport 2222\nproxyjump bob@login:22,gate\nstricthostkeychecking ask\n"
    hop, jump = parse_hop(text, alias="server1")
    assert (hop.alias, hop.user, hop.hostname, hop.port) == ("server1", "alice", "10.0.0.3", 2222)
    assert jump == "bob@login:22,gate"
    plain, none = parse_hop("proxyjump none\nproxycommand none\n", alias="x")
    assert (plain.proxy_command, none) == (None, None)


def test_jump_hosts_are_read_with_user_and_port(tmp_path: Path, set_here: Callable[[str, object], None]) -> None:
    (tmp_path / "config").write_text("Host server1\n  ProxyJump bob@login:22,gate\n")
    set_here("ssh.config", str(tmp_path / "config"))
    assert read_hop(Destination("server1"))[1] == (Destination("login", "bob", 22), Destination("gate"))


USERS = st.none() | st.from_regex(r"[a-z_][a-z0-9_-]{0,30}", fullmatch=True)
HOSTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,40}", fullmatch=True)
PORTS = st.none() | st.integers(1, 65535)


@given(user=USERS, host=HOSTS, port=PORTS)
def test_a_destination_is_read_as_it_was_written(user: str | None, host: str, port: int | None) -> None:
    text = (f"{user}@" if user else "") + host + (f":{port}" if port else "")
    assert parse_destination(text) == Destination(host, user, port)


def test_an_ipv6_address_is_a_destination() -> None:
    assert parse_destination("alice@[fe80::1]:2222") == Destination("fe80::1", "alice", 2222)
    assert parse_destination("::1") == Destination("::1")
    assert parse_destination("fe80::1%eth0") == Destination("fe80::1%eth0")


def test_a_user_of_a_windows_domain_is_part_of_a_destination() -> None:
    assert parse_destination("CORP\\alice@login:2222") == Destination("login", "CORP\\alice", 2222)


@pytest.mark.parametrize(
    "text", ["", "-oProxyCommand=x", "a b", "a;b", "a\nb", "$(x)", "alice@", "`x`", "'a'", "a:", "a:lab"]
)
def test_what_could_be_an_option_or_a_command_is_no_destination(text: str) -> None:
    with pytest.raises(errors.UnknownHostError):
        parse_destination(text)


def test_aliases_are_those_of_the_configuration_and_what_it_includes(
    tmp_path: Path, set_here: Callable[[str, object], None]
) -> None:
    (tmp_path / "more").write_text("Host gpu1 gpu2\n")
    (tmp_path / "config").write_text(
        f'Include {tmp_path}/mor*\nHost server1 "server 2" *.site !x\nHost=login\nHost *\n'
    )
    set_here("ssh.config", str(tmp_path / "config"))
    assert ssh_config.aliases() == ["gpu1", "gpu2", "server1", "server 2", "login"]
    assert ssh_config.suggest("sever1").startswith("; did you mean server1")
    assert ssh_config.suggest("completely-else") == ""


def test_front_ends_offer_hosts_that_can_have_a_shell(tmp_path: Path, set_here: Callable[[str, object], None]) -> None:
    forges = (
        "Host github.com gitlab.example.org\nHost code\n HostName git.sr.ht\nHost azure\n HostName ssh.dev.azure.com\n"
    )
    (tmp_path / "config").write_text(f"Host server1 server2 *.site\n{forges}Host githubber\n")
    set_here("ssh.config", str(tmp_path / "config"))
    assert hosts.aliases() == ["server1", "server2", "githubber"]
    set_here("hosts", ["server2:lab", "10.0.0.7"])
    assert hosts.aliases() == ["server2", "10.0.0.7", "server1", "githubber"]


def test_jump_hosts_are_followed_as_ssh_does(tmp_path: Path, set_here: Callable[[str, object], None]) -> None:
    config = """
        Host server1
            ProxyJump gate,login
        Host login
            ProxyJump never
        Host gate
            ProxyCommand ssh -q -W %h:%p outer
        Host loop1
            ProxyJump loop2
        Host loop2
            ProxyJump loop1
    """
    (tmp_path / "config").write_text(config)
    set_here("ssh.config", str(tmp_path / "config"))
    assert [hop.alias for hop in resolve("server1").hops] == ["outer", "gate", "login", "server1"]
    with pytest.raises(errors.SSHError, match="in a circle"):
        resolve("loop1")


def test_a_missing_ssh_program_is_told(set_here: Callable[[str, object], None]) -> None:
    set_here("ssh.program", "no-such-ssh")
    set_here("ssh.transport", "ssh")
    with pytest.raises(errors.ToolMissingError, match="no-such-ssh is not installed; install"):
        resolve("server1")


def test_a_login_to_a_host_answers_what_its_jump_host_asks() -> None:
    login, end = Hop("login", "login", "alice", 22), Hop("server1", "server1", "alice", 22)
    route = Route("server1", (login, end), "ssh")
    asks = errors.LoginNeededError("login", "needs a login; run `ports login login` in a terminal")
    told = route.at_hop(asks, login)
    assert str(told) == "server1: the jump host login: needs a login; run `ports login server1` in a terminal"
    assert str(Route("login", (login,), "ssh").at_hop(asks, login)) == str(asks)
    assert "`ports login me@login`" in str(Route("me@login", (login,), "ssh").at_hop(asks, login))


HOST_ALIASES = ["server1", "alice@server1", "ssh://alice@server1:2222", "ssh://alice@[fe80::1]:2222", "fe80::1"]


@pytest.mark.parametrize("alias", [*HOST_ALIASES, "server1/node7", "alice@server1/10.0.0.9"])
def test_an_alias_is_resolved_once_with_all_that_a_connection_needs(
    alias: str, tmp_path: Path, set_here: Callable[[str, object], None]
) -> None:
    (tmp_path / "config").write_text("Host server1\n  HostName 10.0.0.3\n  HostKeyAlias key1\n")
    set_here("ssh.config", str(tmp_path / "config"))
    route = resolve(alias)
    assert (route.alias, route.transport) == (alias, "ssh")
    assert len({hop.key for hop in route.hops}) == len(route.hops) == 1 + (alias not in HOST_ALIASES)
    if alias not in HOST_ALIASES:
        node, name = route.end, alias.partition("/")[2]
        assert (node.hostname, node.values("hostname")[0], node.values("hostkeyalias")[0]) == (name, name, "key1")
        assert node.arguments[:4] == ("-o", f"HostName={name}", "-o", "HostKeyAlias=key1")
        assert (node.alias, node.user) == (f"server1/{name}", route.hops[0].user)


@pytest.mark.parametrize("alias", ["", "-oProxyCommand=x", "a b", "$(x)", "http://x/", "a/-x", "a/b/c"])
def test_an_alias_that_is_invalid_is_an_error_before_ssh_sees_it(alias: str) -> None:
    with pytest.raises(errors.UnknownHostError, match="not the name of a host"):
        resolve(alias)


@pytest.mark.parametrize("alias", ["login:22", "[::1]:22", "bob@login:lab"])
def test_a_command_that_takes_a_host_refuses_a_thing_on_it(alias: str) -> None:
    with pytest.raises(errors.UsageError) as told:
        resolve(alias)
    host = alias.rpartition(":")[0]
    assert f"pass {host}" in str(told.value) and f"ssh://{host}:22" in str(told.value)


@pytest.mark.parametrize(
    ("alias", "said", "parts"),
    [
        ("bob@login", "alice@login: Permission denied (publickey).", ["`ports login bob@login`"]),
        ("ssh://bob@login:2222", "Host key verification failed.", ["`ssh -p 2222 bob@login`"]),
        ("bob@login", "ssh failed for a reason", ["`ssh -v bob@login`"]),
        (r"LAB\alice@login", "alice@login: Permission denied (publickey).", [r"`ports login 'LAB\alice@login'`"]),
    ],
)
def test_a_hint_names_the_user_and_the_port_that_were_given(alias: str, said: str, parts: list[str]) -> None:
    route = resolve(alias)
    error = route.at_hop(ssh_errors.explain(route.end.alias, said), route.end)
    assert all(part in str(error) for part in parts), str(error)


@pytest.mark.parametrize("asked", ["server1", "server1.example.org", "server1-from-hom", "serverl"])
def test_an_alias_is_suggested_by_its_host_name_too(
    asked: str, tmp_path: Path, set_here: Callable[[str, object], None]
) -> None:
    config = tmp_path / "config"
    config.write_text("Host server1-from-home\n  HostName server1\nHost other\n  HostName %h.example.org\n")
    set_here("ssh.config", str(config))
    assert ssh_config.suggest(asked) == "; did you mean server1-from-home?"
    assert "did you mean other" in ssh_config.suggest("other.example.com")


@pytest.mark.parametrize(
    ("asked", "said"), [("server1", "did you mean home?"), ("server1.site", "did you mean home?"), ("home", "is down?")]
)
def test_a_host_that_is_silent_has_another_entry_that_leads_there(
    asked: str, said: str, tmp_path: Path, set_here: Callable[[str, object], None]
) -> None:
    config = tmp_path / "config"
    config.write_text("Host home\n  HostName server1.site\n  ProxyJump login\n")
    set_here("ssh.config", str(config))
    route = resolve(asked)
    error = route.at_hop(errors.NetworkError(asked, "is it down?"), route.end)
    assert said.replace("is down", "is it down") in str(error) and ("mean" in str(error)) == ("mean" in said)


def test_an_address_is_no_other_address_of_its_network(tmp_path: Path, set_here: Callable[[str, object], None]) -> None:
    config = tmp_path / "config"
    config.write_text("Host far\n  HostName 10.0.0.9\nHost near\n  HostName 10.0.0.1\n")
    set_here("ssh.config", str(config))
    assert ssh_config.suggest("10.0.0.9", alike=False) == "; did you mean far?"
    assert ssh_config.suggest("10.0.0.7", alike=False) == ""


def test_known_hosts_that_keep_nothing_are_named_as_the_line_to_change(
    tmp_path: Path, set_here: Callable[[str, object], None]
) -> None:
    config = tmp_path / "config"
    config.write_text("Host s1\n  HostName server1\n  UserKnownHostsFile /dev/null\n")
    set_here("ssh.config", str(config))
    route = resolve("bob@s1")
    error = str(route.at_hop(ssh_errors.explain("s1", UNKNOWN), route.end))
    assert "`UserKnownHostsFile /dev/null`" in error and error.endswith("`ssh bob@s1` once")


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        (r"Bad owner or permissions on /home/al ice \303\274/.ssh/config", "/home/al ice ü/.ssh/config"),
        (r"Permissions 0644 for '/home/\344\270\255/id' are too open.", "'/home/中/id'"),
        (r"a backslash: \\303 and bytes: \303\050 \377", r"\\303 and bytes: \303\050 \377"),
    ],
)
def test_letters_that_ssh_logs_as_octal_numbers_are_read(log: str, shown: str) -> None:
    assert shown in ssh_errors.readable(log) and shown in ssh_errors.split(log).ssh


def test_a_file_of_known_keys_may_have_a_blank_in_its_path() -> None:
    log = "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\r\nOffending ED25519 key in /home/al ice/known_hosts:3\r\n"
    assert "/home/al ice/known_hosts:3" in str(ssh_errors.explain("server1", log))


def test_the_way_out_of_an_expired_password_can_be_pasted() -> None:
    from ports.hosts import why_no_answer

    _, hint = why_no_answer(r"LAB\alice@server1", "", "WARNING: Your password has expired.\n", 1)
    assert hint == r"change it in `ssh -t 'LAB\alice@server1'`"


@pytest.mark.parametrize(
    ("jump", "through", "end"),
    [
        ("al$HOME*@login", [], "ssh://al$HOME*@login"),
        ("al;ice@login:2200", [], "ssh://al;ice@login:2200"),
        ("gate, o'neil@login", ["-J", "gate"], "ssh://o'neil@login"),
        ("100%%@lo'gin", [], "ssh://100%@lo'gin"),
    ],
)
def test_each_word_of_an_odd_jump_reaches_ssh_as_it_stands(
    jump: str, through: list[str], end: str, tmp_path: Path, set_here: Callable[[str, object], None]
) -> None:
    config = tmp_path / "my config"
    shows = tmp_path / "shows"
    shows.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    shows.chmod(0o700)
    set_here("ssh.config", str(config))
    set_here("ssh.program", str(shows))
    hop, none = _resolve.read_jumps(*parse_hop(f"hostname server1\nuser alice\nproxyjump {jump}\n", alias="s1"))
    assert none == () and hop.proxy_command is not None
    # as ssh does, and paramiko's transport
    line = hop.proxy_command.replace("[%h]:%p", "[server1]:22").replace("%%", "%")
    done = subprocess.run(["sh", "-c", f"exec {line}"], capture_output=True, text=True, check=True, timeout=10)
    assert json.loads(done.stdout) == ["-F", str(config), *through, "-W", "[server1]:22", "--", end]


def test_a_jump_with_an_unknown_token_logs_in_as_nobody(set_here: Callable[[str, object], None]) -> None:
    with pytest.raises(errors.SSHError, match="%k@login has a token that ssh does not know"):
        _resolve.read_jumps(*parse_hop("hostname server1\nproxyjump %k@login\n", alias="s1"))


def test_a_control_socket_with_a_full_queue_is_not_called_dead(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "c"))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(tmp_path / "c"))
        assert control_sockets.is_running(tmp_path / "c")
    assert not control_sockets.is_running(tmp_path / "c") and not control_sockets.is_running(tmp_path / "none")
    assert not control_sockets.is_running(tmp_path / ("long" * 40))


def test_a_shell_of_this_machine_that_does_not_start_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    here = _this_machine.LocalConnection(resolve("localhost"))
    monkeypatch.setattr(_this_machine, "_shell", lambda command: ["/nowhere/env", command])
    before = set(os.listdir("/proc/self/fd"))
    for call in (here.run, here.exec_channel):
        with pytest.raises(errors.SSHError, match="no shell can be started on this machine"):
            call("true")
    with pytest.raises(FileNotFoundError):
        here.dial("/nowhere/socket")
    gc.disable()
    try:
        assert set(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("log", "asks"),
    [
        ("alice@h: Permission denied (publickey).\n", False),
        ("alice@h: Permission denied (publickey,gssapi-keyex,gssapi-with-mic).\n", False),
        ("alice@h: Permission denied (publickey,password).\n", True),
        ("alice@h: Permission denied (publickey,keyboard-interactive).\n", True),
        ("alice@h: Permission denied (some-new-method).\n", True),
        ("Received disconnect from 1.2.3.4 port 22:2: Permission denied (publickey)\n", True),
    ],
)
def test_only_a_server_that_takes_more_than_keys_lets_ssh_ask(log: str, asks: bool) -> None:
    assert takes_more_than_keys(log) is asks
