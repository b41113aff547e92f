"""SSH in this process: options, known_hosts and configurations, without a network."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports.errors import (
    ConnectionLostError,
    LoginNeededError,
    NetworkError,
    ProhibitedError,
    RefusedError,
    SlowError,
    SSHError,
    UnknownHostError,
)
from ports.hosts import Hop, resolve
from ports.hosts._jump_command import jump_command
from ports.hosts._resolve import parse_hop
from ports.hosts.paramiko import auth, known_hosts, read_config
from ports.hosts.paramiko import transport as paramiko_transport
from ports.hosts.paramiko.channels import PROHIBITED, Channel, IoThread, Refusal
from ports.hosts.paramiko.errors import explain_connect, explain_dial, explain_key, known_line
from ports.hosts.paramiko.known_hosts import Verdict, judge, parse, preferred
from ports.hosts.paramiko.login_options import LoginOptions, login_options
from ports.hosts.paramiko.ssh_config import _can_match

KEY, OTHER = "AAAAC3NzaC1lZDI1NTE5", "AAAAC3NzaC1lZDI1NTE6"
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,5})?", fullmatch=True)


def hashed(name: str) -> str:
    salt = b"s" * 20
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in (salt, digest))


def verdict(text: str, name: str, kind: str = "ssh-ed25519", key: str = KEY) -> str:
    return judge(list(parse(text, "known_hosts")), name, kind, key).is_


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (f"server1 ssh-ed25519 {KEY}", "server1", "known"),
        (f"server1,10.0.0.1 ssh-ed25519 {KEY} comment", "10.0.0.1", "known"),
        (f"[server1]:2222 ssh-ed25519 {KEY}", "[server1]:2222", "known"),
        (f"server1 ssh-ed25519 {KEY}", "[server1]:2222", "known"),  # as ssh does, for the same key only
        (f"server1 ssh-ed25519 {OTHER}", "[server1]:2222", "unknown"),
        (f"[server1]:2222 ssh-ed25519 {KEY}", "server1", "unknown"),
        (f"*.example.org,!bad.example.org ssh-ed25519 {KEY}", "good.example.org", "known"),
        (f"*.example.org,!bad.example.org ssh-ed25519 {KEY}", "bad.example.org", "unknown"),
        (f"{hashed('server1')} ssh-ed25519 {KEY}", "server1", "known"),
        (f"{hashed('[server1]:2222')} ssh-ed25519 {KEY}", "[server1]:2222", "known"),
        (f"{hashed('server2')} ssh-ed25519 {KEY}", "server1", "unknown"),
        (f"server1 ssh-ed25519 {OTHER}", "server1", "changed"),
        (f"server1 ssh-ed25519 {OTHER}\nserver1 ssh-ed25519 {KEY}", "server1", "known"),
        (f"server1 ssh-rsa {OTHER}", "server1", "unknown"),
        (f"server1 ssh-ed25519 {KEY}\n@revoked * ssh-ed25519 {KEY}", "server1", "revoked"),
        (f"@cert-authority * ssh-ed25519 {OTHER}", "server1", "authority"),
        (f"@cert-authority * ssh-ed25519 {KEY}", "server1", "authority"),  # it vouches for others, not for itself
        ("# server1 ssh-ed25519 {KEY}\n\nhalf a line\n|1|x ssh-ed25519 y", "server1", "unknown"),
    ],
)
def test_known_hosts_is_read_as_ssh_reads_it(text: str, name: str, expected: str) -> None:
    assert verdict(text, name) == expected


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
@given(name=NAMES, port=st.sampled_from([22, 2222]))
def test_a_name_that_was_noted_is_found_again_also_by_ssh_keygen(name: str, port: int) -> None:
    options = LoginOptions(Hop("alias", name, "alice", port))
    line = known_line(options, "ssh-ed25519", base64.b64decode(KEY + "=" * (-len(KEY) % 4)))
    key = line.split()[2]
    assert judge(list(parse(line, "file")), options.known_as, "ssh-ed25519", key) == Verdict("known")


@pytest.fixture
def strict_server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """An asyncssh server that takes one request for its logins, and the folder with two keys: `no` and `yes`."""
    asyncssh = pytest.importorskip("asyncssh")
    for name in ("no", "yes"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        (tmp_path / name).touch(0o600)
        key.write_private_key(tmp_path / name)
    key.write_public_key(tmp_path / "authorized_keys")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    options = {"server_host_keys": [key], "authorized_client_keys": str(tmp_path / "authorized_keys")}

    async def begin() -> Any:
        return await asyncssh.listen("127.0.0.1", 0, **options)

    listening = asyncio.run_coroutine_threadsafe(begin(), loop).result(30)
    yield listening.get_port(), tmp_path

    async def end() -> None:
        listening.close()
        await listening.wait_closed()
        await asyncio.sleep(0)

    asyncio.run_coroutine_threadsafe(end(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


@pytest.mark.parametrize("fails", [False, True], ids=["refused", "unusable"])
def test_a_server_that_takes_one_request_for_logins_lets_the_second_key_in(
    strict_server: tuple[int, Path], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncssh ends a connection that requests the service again: "Unexpected service in state ..."."""
    port, keys = strict_server
    if fails:

        def sign(key: paramiko.Ed25519Key, *told: Any) -> Any:
            monkeypatch.setattr(paramiko.Ed25519Key, "sign_ssh_data", signs)
            raise paramiko.SSHException("key cannot sign")

        signs = paramiko.Ed25519Key.sign_ssh_data
        monkeypatch.setattr(paramiko.Ed25519Key, "sign_ssh_data", sign)
    files = tuple(str(keys / name) for name in ("no", "yes"))
    hop = Hop("other", "127.0.0.1", "alice", port)
    options = LoginOptions(hop, files, identities_only=True, identity_agent="none")
    transport = paramiko_transport.Transport(socket.create_connection(("127.0.0.1", port), 30), "other", timeout=30)
    try:
        transport.start_client(timeout=30)
        auth.log_in(transport, options, asking=False)
        transport.relax()
        assert transport.is_authenticated() and "_send_message" not in vars(transport)
    finally:
        transport.close()


def test_hashed_names_that_ssh_keygen_made_are_found(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    kind, key, *_ = (tmp_path / "key.pub").read_text().split()
    file = tmp_path / "known_hosts"
    file.write_text(f"server1 {kind} {key}\n[server2]:2222 {kind} {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    assert "server" not in file.read_text()
    assert [verdict(file.read_text(), name, kind, key) for name in ("server1", "[server2]:2222", "server2")] == [
        "known",
        "known",
        "unknown",
    ]
    shown = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], check=True, capture_output=True, text=True)
    assert known_hosts.fingerprint(base64.b64decode(key)) in shown.stdout


def test_the_kind_of_key_that_is_known_is_asked_for_first() -> None:
    known = list(parse(f"server1 ssh-rsa {KEY}", "file"))
    offered = ["ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256"]
    assert preferred(known, "server1", offered) == ["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"]
    assert preferred(known, "server2", offered) == offered


def test_a_known_hosts_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    assert known_hosts.read("server1", [str(tmp_path / "none")]) == []
    with pytest.raises(SSHError, match=r"cannot be read .* cannot be checked"):
        known_hosts.read("server1", [str(tmp_path)])


@pytest.mark.parametrize(
    ("is_", "pattern"),
    [
        (
            "unknown",
            r"unknown host key \(ssh-ed25519 SHA256:\S+\); compare it with .*, then accept it by running `",
        ),
        ("changed", r"CHANGED to SHA256:\S+ \(known: file:3\).*ssh-keygen -R server1"),
        ("revoked", r"revoked \(file:3\); ask the administrator"),
        ("authority", r"a certificate at file:3, which paramiko cannot check.*; or use the ssh program"),
    ],
)
def test_a_bad_host_key_is_reported_with_fingerprint_and_hint(is_: str, pattern: str) -> None:
    error = explain_key(
        LoginOptions(Hop("server1", "server1", "alice", 22)), Verdict(is_, "file:3"), "ssh-ed25519", b"key"
    )
    assert re.search(pattern, str(error)) and "SHA256:" in str(error)


def test_options_of_ssh_become_a_hop(tmp_path: Path) -> None:
    text = f"""
hostname 10.0.0.1
user alice
port 2222
identitiesonly yes
identityfile ~/.ssh/id_a
identityfile %d/keys/%r-${{WHICH}}
userknownhostsfile {tmp_path}/one {tmp_path}/two
globalknownhostsfile none
hostkeyalias Server
pubkeyauthentication true
passwordauthentication no
proxycommand connect %h %p 100%%
identityagent $MY_AGENT
addressfamily inet6
port 9
"""
    hop, _ = parse_hop(text.strip(), alias="server1")
    found = login_options(hop, variable={"WHICH": "b", "MY_AGENT": "/run/agent"}.get)
    home = str(Path.home())
    assert (hop.hostname, hop.user, hop.port, found.family) == ("10.0.0.1", "alice", 2222, 6)
    assert found.identity_files == (f"{home}/.ssh/id_a", f"{home}/keys/alice-b")
    assert (found.identities_only, found.identity_agent) == (True, "/run/agent")
    assert found.known_hosts == (f"{tmp_path}/one", f"{tmp_path}/two")
    assert found.known_as == "server"
    assert found.methods == ("publickey", "keyboard-interactive")
    assert found.proxy_command == "connect 10.0.0.1 2222 100%"


@pytest.mark.parametrize("option", ["revokedhostkeys", "knownhostscommand"])
def test_what_decides_on_trust_and_is_not_evaluated_is_refused(option: str) -> None:
    hop = Hop("server1", "server1", "alice", 22, options=((option, "none"),))
    assert login_options(hop).known_as == "server1"
    with pytest.raises(SSHError, match=r"paramiko cannot evaluate its option .*; use the ssh program"):
        login_options(replace(hop, options=((option, "/etc/ssh/something"),)))


CONFIG = """
Host server1
    HostName 10.0.0.1
    User=alice
    ProxyJump login
Match originalhost server1 !localuser nobody-of-that-name
    Port 2222
Host *
    IdentityFile ~/.ssh/a
    IdentityFile ~/.ssh/b
"""


def test_a_configuration_is_read_without_an_ssh_program_as_ssh_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(CONFIG)
    lines = read_config(file, "server1").splitlines()
    wanted = ["hostname 10.0.0.1", "user alice", "proxyjump login", "port 2222"]
    assert set(wanted) <= set(lines)
    assert [Path(line.split()[1]).name for line in lines if line.startswith("identityfile")] == ["a", "b"]
    if shutil.which("ssh"):
        done = subprocess.run(["ssh", "-F", file, "-G", "server1"], capture_output=True, text=True, check=True)
        assert set(wanted) <= set(done.stdout.splitlines())
    assert "user bob" in read_config(file, "server1", user="bob", port=9).splitlines()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Include other\n", "Include .*other is not followed"),
        ("Match tagged work\n  Port 9\n", "Match tagged work cannot be evaluated"),
        ("Match host a exec true\n  Port 9\n", "Match host a exec true cannot be evaluated"),
        ("Match localnetwork 10.0.0.0/8\n  Port 9\n", "Match localnetwork \\S+ cannot be evaluated"),
        ("CanonicalizeHostname yes\n", "CanonicalizeHostname cannot be evaluated"),
    ],
)
def test_what_only_ssh_can_evaluate_is_an_error_that_names_file_and_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "other").write_text("Port 1\n")
    file = tmp_path / "config"
    file.write_text("Host x\n  Port 7\n" + text.replace("other", str(tmp_path / "other")))
    with pytest.raises(SSHError, match=f"{re.escape(str(file))}, line 3: {reason}.*without the ssh program"):
        read_config(file, "server1")


def test_an_include_of_nothing_is_nothing(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(f"Include {tmp_path}/none/*.conf\n# Match exec true\nPort 7\n")
    assert "port 7" in read_config(file, "server1").splitlines()
    assert "hostname server1" in read_config(tmp_path / "missing", "server1").splitlines()


@given(st.text(alphabet='a!lhost"exc ,*', max_size=20))
def test_any_match_line_is_either_known_or_not(text: str) -> None:
    if _can_match(text):
        assert "exec" not in text.split()[0::2] and '"' not in text


def test_without_an_ssh_program_hops_come_from_the_configuration_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text(CONFIG + "Host login\n  HostName login.example.org\n  User bob\n")
    monkeypatch.delitem(sys.modules, "dask.config", raising=False)  # it would have read the environment before
    monkeypatch.setenv("DASK_PORTS__SSH__CONFIG", str(file))
    with_ssh = resolve("server1").hops if shutil.which("ssh") else None
    monkeypatch.setenv("DASK_PORTS__SSH__PROGRAM", "no-such-ssh")
    route = resolve("server1")
    assert route.transport == "paramiko"
    told = [(hop.alias, hop.hostname, hop.user, hop.port) for hop in route.hops]
    assert told == [("login", "login.example.org", "bob", 22), ("server1", "10.0.0.1", "alice", 2222)]
    if with_ssh is not None:
        assert told == [(hop.alias, hop.hostname, hop.user, hop.port) for hop in with_ssh]
        assert [login_options(hop).identity_files for hop in route.hops] == [
            login_options(hop).identity_files for hop in with_ssh
        ]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), UnknownHostError),
        (socket.gaierror(socket.EAI_AGAIN, "x"), NetworkError),
        (ConnectionRefusedError(), NetworkError),
        (TimeoutError(), NetworkError),
        (OSError(113, "No route to host"), NetworkError),
    ],
)
def test_errors_of_the_network_are_ours(error: OSError, kind: type[SSHError]) -> None:
    assert type(explain_connect(Hop("server1", "10.0.0.1", "alice", 22), error)) is kind


def test_a_refusal_says_whether_sshd_prohibits_or_nothing_listens() -> None:
    refused = explain_dial("server1", "127.0.0.1:8888", Refusal(2, "Connection refused"))
    prohibited = explain_dial("server1", "127.0.0.1:8888", Refusal(PROHIBITED, "open failed"))
    either = explain_dial("server1", "/run/x.sock", Refusal(2, "open failed"))
    assert type(refused) is RefusedError and "Connection refused" in str(refused)
    assert type(prohibited) is type(either) is ProhibitedError and "AllowTcpForwarding" in str(prohibited)
    assert "AllowStreamLocalForwarding" in str(either)


# --- the hop by a command, in real shells ---

SHELLS = [path for name in ("sh", "bash", "rbash", "tcsh", "fish", "zsh") if (path := shutil.which(name))]


@pytest.fixture
def echo() -> Any:
    """Yield the port of a server that answers one connection with what it gets, in capitals."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data.upper())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("tool", ["nc", "python3", "bash"])
def test_a_port_is_reached_by_a_command_in_any_shell(tmp_path: Path, echo: int, shell: str, tool: str) -> None:
    for name in ("cat", tool):
        found = sys.executable if name == "python3" else shutil.which(name)
        if found is None:
            pytest.skip(f"needs {name}")
        (tmp_path / name).symlink_to(os.path.realpath(found))
    (tmp_path / "sh").symlink_to("/bin/sh")
    line = jump_command(Hop("server1", "127.0.0.1", "alice", echo))
    ours, theirs = socket.socketpair()
    arguments = [shell, "-f", "-c", line] if "tcsh" in shell else [shell, "-c", line]
    with ours, theirs:
        process = subprocess.Popen(
            arguments,
            stdin=theirs,
            stdout=theirs,
            env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
            start_new_session=True,  # it ends its whole process group
        )
        theirs.close()
        with process:
            try:
                ours.settimeout(20)
                for _ in range(3):
                    ours.sendall(b"hello")
                    assert ours.recv(100) == b"HELLO"
            finally:
                ours.close()
                process.wait(10)  # by itself: it would stay on the jump host


def test_a_command_does_not_end_a_server_of_the_same_process_group() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    server = (
        "import subprocess, sys\n"
        "line = sys.stdin.read()\n"
        "ended = subprocess.run(['sh', '-c', line], input=b'hello', stdout=subprocess.PIPE, timeout=20)\n"
        "print('still here', flush=True)\n"
    )
    line = jump_command(Hop("server1", "127.0.0.1", "alice", port))
    argv = [sys.executable, "-c", server]
    process = subprocess.run(argv, input=line, capture_output=True, text=True, timeout=30, start_new_session=True)
    assert process.stdout == "still here\n", process


@pytest.mark.parametrize("name", ["a;b", "$(x)", "-x", "a b", "a'b"])
def test_a_name_that_a_shell_might_read_is_not_put_into_a_command(name: str) -> None:
    with pytest.raises(SSHError, match=re.escape(repr(name))):
        jump_command(Hop("server1", name, "alice", 22))


# --- channels ---


class Transport:
    """The far side of channels, without one: notes what is sent."""

    def __init__(self) -> None:
        self.io, self.active, self.sent = IoThread("test"), True, []  # type: ignore[var-annotated]

    def _send_user_message(self, message: Any) -> None:
        self.sent.append(message.asbytes())

    def _unlink_channel(self, chanid: int) -> None:
        pass


@pytest.fixture
def transport() -> Any:
    made = Transport()
    yield made
    made.io.end()


def open_channel(transport: Transport, window: int = 1 << 20) -> Channel:
    channel = Channel(0, transport)
    channel._log = lambda *_: None
    channel.in_window_size, channel.in_window_threshold = 1 << 20, 1 << 16
    channel.out_window_size, channel.out_max_packet_size, channel.active = window, 32768, True
    channel.begin()
    return channel


def test_bytes_that_the_local_side_takes_late_come_in_order(transport: Transport) -> None:
    channel = open_channel(transport)
    sent = [bytes([number]) * 32768 for number in range(64)]
    for part in sent:
        channel._feed(part)
    channel._handle_eof(None)
    with channel.local as local:
        local.settimeout(10)
        got = bytearray()
        while data := local.recv(1 << 16):
            got += data
    assert bytes(got) == b"".join(sent)


def test_nothing_is_sent_without_a_window_and_all_once_there_is_one(transport: Transport) -> None:
    channel = open_channel(transport, window=10)
    with channel.local as local:
        local.sendall(b"x" * 30)
        wait_for(lambda: len(transport.sent) == 1)
        assert transport.sent[0].endswith(b"x" * 10)

        class Adjust:
            def get_int(self) -> int:
                return 20

        channel._window_adjust(Adjust())
        wait_for(lambda: sum(message.count(b"x") for message in transport.sent) == 30)


def test_a_local_end_that_is_closed_closes_the_channel(transport: Transport) -> None:
    channel = open_channel(transport)
    channel.local.close()
    wait_for(lambda: channel.closed)
    wait_for(lambda: channel.own.fileno() == -1)


def test_a_local_end_that_only_ends_its_writing_still_gets_answers(transport: Transport) -> None:
    channel = open_channel(transport)
    with channel.local as local:
        local.shutdown(socket.SHUT_WR)
        wait_for(lambda: channel.eof_sent)
        assert not channel.closed
        channel._feed(b"answer")
        local.settimeout(10)
        assert local.recv(10) == b"answer"


def wait_for(condition: Any) -> None:
    from ports.state.waiting import wait_until

    wait_until(lambda: condition() or None, timeout=10, what="it")


# --- a login that ends otherwise than by an answer ---


class CutOff:
    """A transport on which a login ends as an error says; a real network cannot be told to be cut in that moment."""

    def __init__(
        self, error: Exception, *, active: bool, dismissed: bool = False, banners: str = "|", last: str = ""
    ) -> None:
        self.error, self.active, self.is_dismissed, self.last_words = error, active, dismissed, last
        self.at_first, self.later = (text.encode() or None for text in banners.split("|"))
        self.banner = None

    def get_banner(self) -> bytes | None:
        return self.banner

    def auth_none(self, user: str) -> None:
        self.banner = self.at_first
        raise paramiko.BadAuthenticationType("", ["publickey"])

    def auth_publickey(self, user: str, key: object) -> None:
        self.banner = self.later
        raise self.error

    def is_active(self) -> bool:
        return self.active


ENDED = paramiko.AuthenticationException("Authentication failed: transport shut down or saw EOF")


@pytest.mark.parametrize(
    ("transport", "kind"),
    [
        (CutOff(paramiko.AuthenticationException("Authentication timeout."), active=True), SlowError),
        (CutOff(ENDED, active=False), ConnectionLostError),
        (CutOff(EOFError(), active=False), ConnectionLostError),
        (CutOff(ENDED, active=False, dismissed=True), LoginNeededError),  # too many attempts
        (CutOff(paramiko.AuthenticationException("Authentication failed."), active=True), LoginNeededError),
    ],
)
def test_a_login_that_the_network_cuts_is_no_refusal(transport: Any, kind: type[SSHError], tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=20)
    options = LoginOptions(Hop("server1", "10.0.0.1", "alice", 22), identity_files=(str(key),), identity_agent="none")
    with pytest.raises(SSHError) as told:
        auth.log_in(transport, options, asking=False)
    assert type(told.value) is kind


DENIED = paramiko.AuthenticationException("Authentication failed.")


@pytest.mark.parametrize(
    ("transport", "kind", "text"),
    [
        (CutOff(DENIED, active=True, banners="Welcome|"), LoginNeededError, "(the host says: 'Welcome')"),
        (CutOff(ENDED, active=False, banners="Welcome|"), ConnectionLostError, "the connection was lost"),
        (CutOff(ENDED, active=False, banners="Hi|no active jobs\n"), SSHError, "(the host says: 'no active jobs')"),
        (CutOff(ENDED, active=False, dismissed=True, last="bye"), LoginNeededError, "(the host says: 'bye')"),
        (
            CutOff(ENDED, active=False, dismissed=True, last="Too many authentication failures"),
            LoginNeededError,
            "`IdentitiesOnly yes`",
        ),
    ],
)
def test_the_words_of_a_host_are_quoted_without_ssh_too(
    transport: Any, kind: type[SSHError], text: str, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=20)
    options = LoginOptions(Hop("server1", "10.0.0.1", "alice", 22), identity_files=(str(key),), identity_agent="none")
    with pytest.raises(SSHError) as told:
        auth.log_in(transport, options, asking=False)
    assert type(told.value) is kind and text in str(told.value), str(told.value)


def test_a_key_and_an_agent_that_cannot_be_read_are_said() -> None:
    key = "/proc/self/mem"  # a file of this user's own, 0600, that nobody can read from its start
    options = LoginOptions(
        Hop("server1", "10.0.0.1", "alice", 22), identity_files=(key,), identity_agent="/nowhere/agent"
    )
    with pytest.raises(LoginNeededError) as told:
        auth.log_in(cast(Any, CutOff(DENIED, active=True)), options, asking=False)
    assert f"the key {key} cannot be read (Input/output error)" in str(told.value)
    assert "the agent at /nowhere/agent cannot be used" in str(told.value)
