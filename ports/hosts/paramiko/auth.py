"""Authentication: the agent's keys, the files of keys, then what a person types, where one can be asked."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko

from ports.errors import ConnectionLostError, LoginNeededError, SlowError, SSHError
from ports.hosts import _prompts as prompts
from ports.hosts import _wording
from ports.hosts._prompts import LOGIN_TIMEOUT
from ports.hosts._route import Route
from ports.hosts.paramiko.login_options import LoginOptions, login_options
from ports.hosts.paramiko.transport import Transport
from ports.state import locked

_DOUBT_SECONDS = 2.0
_KINDS: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)


def log_in(transport: Transport, options: LoginOptions, *, asking: bool) -> None:
    """Authenticate `transport` as the user of a hop.

    Parameters
    ----------
    asking : bool
        A person may be asked for a passphrase, password or code.

    Raises
    ------
    LoginNeededError
        A person must answer, and none may be asked.
    SSHError
        The login was refused.
    paramiko.SSHException, EOFError, OSError
        The connection was lost.
    """
    Login(transport, options, asking=asking).run()


def keys(route: Route) -> frozenset[object]:
    """Return a set that changes when the agent has other keys, or a file of a key is another one."""
    found: set[object] = set()
    for options in map(login_options, route.hops):
        with contextlib.suppress(paramiko.SSHException, OSError):
            found.update(key.asbytes() for key in _agent_keys(options))
        for file in options.identity_files:
            with contextlib.suppress(OSError):
                found.add((file, Path(file).stat().st_mtime_ns))
    return frozenset(found)


class Login:
    """One login."""

    def __init__(self, transport: Transport, options: LoginOptions, *, asking: bool) -> None:
        self.transport, self.hop, self.options, self.asking = transport, options.hop, options, asking
        self.accepted: tuple[str, ...] = ()
        self.notes: list[str] = []
        self._asked = False
        self._banner = ""

    def run(self) -> None:
        """Log in, or raise."""
        try:
            self.transport.auth_none(self.hop.user)
            return
        except paramiko.BadAuthenticationType as error:
            self.accepted = tuple(error.allowed_types)
        self._banner = self._said_now()
        if self._by_keys():
            return
        typed = [name for name in self.options.methods if name in self.accepted and name != "publickey"]
        if self.asking and (typed or self._encrypted()):
            with locked("login", timeout=LOGIN_TIMEOUT), prompts.asking_at_terminal(self.hop), self._patience():
                if self._banner.strip():
                    prompts.say(f"{self._banner.strip()}\n")
                self._asked = True
                if self._by("publickey") or any(self._by(name) for name in typed):
                    return
        raise self._refusal()

    def _by_keys(self) -> bool:
        """Try the keys. A person may have to touch one, or to confirm its use, and is told so."""
        if not self.asking:
            return self._by("publickey")
        waiting = threading.Timer(_DOUBT_SECONDS, prompts.say_waiting, [self.hop])
        waiting.daemon = True
        waiting.start()
        try:
            with self._patience():
                return self._by("publickey")
        finally:
            waiting.cancel()

    def _said_now(self) -> str:
        """Return what the host said since the last method was begun: its banner, or what PAM says."""
        return (self.transport.get_banner() or b"").decode(errors="replace")

    @contextlib.contextmanager
    def _patience(self) -> Iterator[None]:
        before, self.transport.auth_timeout = self.transport.auth_timeout, LOGIN_TIMEOUT
        try:
            yield
        finally:
            self.transport.auth_timeout = before

    def _by(self, method: str) -> bool:
        """Try one method; what the server wants besides is tried next. True: logged in."""
        if method not in self.accepted or method not in self.options.methods:
            return False
        attempts = {
            "publickey": self._public_keys,
            "keyboard-interactive": self._interactive,
            "password": self._passwords,
        }
        for attempt in attempts[method]():
            try:
                further = attempt()
            except paramiko.BadAuthenticationType as error:
                self.accepted = tuple(error.allowed_types)
                continue
            except paramiko.AuthenticationException as error:
                self._check_transport(error)
                continue
            except (paramiko.SSHException, EOFError) as error:
                self._check_transport(error)
                self.notes.append("a key could not be used")
                continue
            if not further:
                return True
            self.accepted = tuple(further)
            others = [name for name in self.options.methods if name in self.accepted and name != method]
            return any(self._by(name) for name in others if name == "publickey" or self._asked)
        return False

    def _check_transport(self, error: Exception) -> None:
        """Raise where the login did not fail, but ended: by the server, which had enough of it, or by the network."""
        if "timeout" in str(error).lower():
            raise SlowError(self.hop.alias, f"the login did not end in its time; {_wording.SLOW_LOGIN}") from error
        if not self.transport.is_active():
            if self.transport.is_dismissed:
                raise self._refusal() from None
            if said := self._said_now():
                reason = f"closed the connection at the login{_wording.quoted(said)}; ask its administrator"
                raise SSHError(self.hop.alias, reason) from None
            raise ConnectionLostError(self.hop.alias, "the connection was lost during the login") from error

    def _public_keys(self) -> Iterator[Any]:
        """Yield attempts with keys: the agent's that a file names, the agent's others, then the files'."""
        files = [Path(file) for file in self.options.identity_files if Path(file).is_file()]
        named = {file: _public_half(file) for file in self.options.identity_files}
        held = [] if self._asked else self._held_keys()
        first = [key for blob in named.values() if blob for key in held if key.asbytes() == blob]
        rest = [] if self.options.identities_only else [key for key in held if key not in first]
        for key in (*first, *rest):
            yield lambda key=key: self.transport.auth_publickey(self.hop.user, key)
        in_agent = {key.asbytes() for key in held}
        for file in files:
            if named.get(str(file)) not in in_agent or named.get(str(file)) is None:
                key = self._load(file)
                if key is not None and key.asbytes() not in in_agent:
                    yield lambda key=key: self.transport.auth_publickey(self.hop.user, key)

    def _held_keys(self) -> list[Any]:
        """Return the keys of the agent; none where it cannot be used, which a note says."""
        try:
            return _agent_keys(self.options)
        except (paramiko.SSHException, OSError) as error:
            self._note(f"the agent at {self.options.identity_agent} cannot be used ({error})")
            return []

    def _load(self, file: Path) -> paramiko.PKey | None:
        """Return the key in `file`; None where it cannot be used, which a note says."""
        if os.name != "nt" and stat.S_IMODE(file.stat().st_mode) & 0o077:
            self._note(_wording.key_not_used(str(file)))
            return None
        try:
            key = None if self._asked else _read_key(file, None)
        except paramiko.PasswordRequiredException:
            self._note(f"the key {file} is encrypted (`ssh-add {file}` loads it into an agent)")
            return None
        except OSError as error:
            self._note(f"the key {file} cannot be read ({error.strerror or error})")
            return None
        if self._asked and self._is_encrypted(file):
            for _ in range(self.options.prompts):
                passphrase = prompts.ask(f"Enter passphrase for key '{file}': ")
                if not passphrase:
                    break
                key = _read_key(file, passphrase)
                if key is not None:
                    return key
        elif key is None and not self._asked:
            self._note(f"the key {file} is of a kind that paramiko does not support")
        return key

    def _interactive(self) -> Iterator[Any]:
        def answer(title: str, instructions: str, fields: list[tuple[str, bool]]) -> list[str]:
            for text in (title, instructions):
                if text.strip():
                    prompts.say(f"{text.strip()}\n")
            return [self._ask(prompt, shown=shown) for prompt, shown in fields]

        for _ in range(self.options.prompts):
            yield lambda: self.transport.auth_interactive(self.hop.user, answer)

    def _passwords(self) -> Iterator[Any]:
        for _ in range(self.options.prompts):
            password = self._ask(f"{self.hop.user}@{self.hop.hostname}'s password: ")
            yield lambda password=password: self.transport.auth_password(self.hop.user, password, fallback=False)

    def _ask(self, prompt: str, *, shown: bool = False) -> str:
        answer = prompts.ask(prompt, shown=shown)
        if answer is None:
            raise self._refusal()
        return answer

    def _encrypted(self) -> bool:
        return any(self._is_encrypted(Path(file)) for file in self.options.identity_files if Path(file).is_file())

    def _is_encrypted(self, file: Path) -> bool:
        try:
            _read_key(file, None)
        except paramiko.PasswordRequiredException:
            return True
        except OSError:  # nothing to ask for
            return False
        return False

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _refusal(self) -> SSHError:
        accepted = f" ({','.join(self.accepted)})" if self.accepted else ""
        notes = "".join(f"{note}; " for note in self.notes)
        if self.transport.last_words.startswith("Too many authentication failures"):
            return LoginNeededError(self.hop.alias, _wording.too_many_keys(self.hop.alias))
        said = _wording.quoted(f"{self._banner}\n{self.transport.last_words}")
        if self._asked:
            return SSHError(self.hop.alias, f"the login was refused{accepted}; {notes}{_wording.CHECK_LOGIN}")
        hint = "load your key into an agent with `ssh-add`, or run the command in a terminal"
        return LoginNeededError(self.hop.alias, f"needs a login{accepted}; {notes}{hint}{said}")


def _read_key(file: Path, passphrase: str | None) -> paramiko.PKey | None:
    """Return the key in `file`; None where it is none, or the passphrase is wrong. Raises OSError."""
    for kind in _KINDS:
        try:
            return kind.from_private_key_file(str(file), passphrase)
        except paramiko.PasswordRequiredException:
            raise
        except (paramiko.SSHException, ValueError, TypeError):
            continue
    return None


def _public_half(file: str) -> bytes | None:
    """Return the key that lies beside `file` as ``file.pub``."""
    try:
        return base64.b64decode(Path(f"{file}.pub").read_text(encoding="utf-8").split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _agent_keys(options: LoginOptions) -> list[Any]:
    """Return the keys that the agent of a hop holds; none where there is no agent.

    Raises
    ------
    paramiko.SSHException, OSError
        The agent does not answer.
    """
    if options.identity_agent == "none":
        return []
    if options.identity_agent is None:
        return list(paramiko.Agent().get_keys())
    return list(_AgentAt(options.identity_agent).get_keys())


class _AgentAt(paramiko.Agent):
    """The agent at a socket that the configuration names, not the environment."""

    def __init__(self, path: str) -> None:
        with contextlib.suppress(AttributeError):  # where there are no Unix sockets, there is no such agent
            super(paramiko.Agent, self).__init__()
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined]
