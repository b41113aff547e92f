"""Keys, and the texts that ssh and sshd read."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key as ssh keeps it: the private half's file, and the public half's line."""

    private: str
    public: str


@dataclass(frozen=True)
class Address:
    """Where an sshd is reached from the laptop, or from the jump host."""

    hostname: str
    port: int = 22

    @property
    def known_as(self) -> str:
        """Name in known_hosts."""
        return self.hostname if self.port == 22 else f"[{self.hostname}]:{self.port}"


def new_key() -> KeyPair:
    """Make a key pair; ssh-keygen takes 20 times as long."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private.decode(), public.decode() + "\n")


def known_hosts(addresses: dict[str, Address], keys: dict[str, KeyPair]) -> str:
    """Return the file that makes ssh trust the hosts."""
    return "".join(f"{address.known_as} {keys[host].public}" for host, address in addresses.items())


def client_config(addresses: dict[str, Address], *, dash_f: str = "", extra: str = "", jump: bool = True) -> str:
    """Return the ssh configuration of a client: a login node, servers behind it, and the older ProxyCommand form.

    Parameters
    ----------
    addresses : dict
        Of ``login`` and the servers.
    dash_f : str
        ``"-F FILE "`` where the file is not the one that ssh reads by itself: a ProxyCommand does not inherit it.
    extra : str
        Lines for all hosts.
    jump : bool
        Servers are reached through the login node; else directly.
    """
    lines = []
    for host in addresses:
        lines += [f"Host {host}", f"    HostName {addresses[host].hostname}", f"    Port {addresses[host].port}"]
        if host != "login" and jump:
            lines.append("    ProxyJump login")
    lines += ["Host server1-old", f"    HostName {addresses['server1'].hostname}"]
    lines += [f"    Port {addresses['server1'].port}", f"    ProxyCommand ssh {dash_f}-q -W %h:%p login"]
    lines += ["Host *", *(f"    {line}" for line in extra.splitlines())] if extra else []
    return "\n".join(lines) + "\n"


def server_config(lines: list[str], added: list[str]) -> str:
    """Return sshd's configuration: of two values the first counts, and a Match block lasts until the next one."""
    before = [text for text in added if not text.lstrip().lower().startswith("match")]
    after = [text for text in added if text.lstrip().lower().startswith("match")]
    return "\n".join([*before, *lines, *after]) + "\n"
