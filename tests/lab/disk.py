"""What lies on the disk of a host in namespaces, over this machine's own disk."""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.lab.credentials import KeyPair
from tests.lab.site import Account

CHECKOUT = Path(__file__).resolve().parents[2]
#: Directories of this machine that a host has for itself.
OWN = (Path("/root"), Path("/home"), Path("/tmp"), Path("/run"))
NOTEBOOKS = Path("/opt/notebooks")

SSHD_CONFIG = [
    "Port 22",
    "HostKey /etc/ssh/ssh_host_ed25519_key",
    "PidFile none",
    "UsePAM no",
    "UseDNS no",
    "PasswordAuthentication yes",
    "KbdInteractiveAuthentication no",
    "PermitRootLogin no",
    "AcceptEnv LANG LC_*",
    "PrintMotd no",
    "Subsystem sftp internal-sftp",
]


@dataclass(frozen=True)
class Visible:
    """What of this machine a host sees, beside the system: paths that stay, and paths that are emptied."""

    show: tuple[Path, ...]
    hide: tuple[Path, ...]


def address_of(host: str) -> str:
    """Return the address of a host: keeper.sh gives it. The login node has a second one, towards the laptop."""
    fixed = {"laptop": "10.77.1.11", "login": "10.77.2.12"}
    return fixed.get(host) or f"10.77.2.{12 + int(host.removeprefix('server'))}"


def is_own(path: Path) -> bool:
    """Tell whether `path` lies in a directory that each host has for itself."""
    return any(path.is_relative_to(top) for top in OWN)


def visible(*, installed: bool) -> Visible:
    """Return what a host sees where `ports` is installed, and where it is not."""
    prefix, base = Path(sys.prefix), Path(sys.base_prefix)
    package = [CHECKOUT] if prefix.is_relative_to(CHECKOUT) else [CHECKOUT, prefix]
    interpreter = [base] if is_own(base) else []
    if installed:
        return Visible((*package, *interpreter), ())
    virtual = [path for path in package if path == CHECKOUT or sys.prefix != sys.base_prefix]
    return Visible(tuple(interpreter), tuple(path for path in virtual if not is_own(path)))


def write_system(upper: Path, host: str, accounts: list[Account], hosts: tuple[str, ...]) -> None:
    """Write what makes this machine's system another one: accounts, the names of all `hosts`, identity."""
    etc = upper / "etc"
    (etc / "ssh").mkdir(parents=True)
    write_accounts(etc, accounts)
    addresses = {name: address_of(name) for name in hosts}
    if host == "laptop":
        addresses["login"] = "10.77.1.12"
    names = "".join(f"{address}\t{name}\n" for name, address in addresses.items())
    (etc / "hosts").write_text(f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{names}")
    (etc / "hostname").write_text(f"{host}\n")
    (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
    (etc / "motd").write_text(f"Welcome to {host}.\n")
    # A proxy or a PATH that this machine sets for its users is not the site's.
    (etc / "environment").write_text("")
    (upper / "var/log").mkdir(parents=True)


def write_accounts(etc: Path, accounts: list[Account], shells: dict[str, str] | None = None) -> None:
    """Write passwd, shadow and group: this machine's own and `accounts`.

    A password ``*`` fits nothing; with ``!`` sshd takes the account as locked where it runs without PAM.
    """
    names = {account.name for account in accounts}
    shell = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
    added = {
        "passwd": [f"{a.name}:x:{a.uid}:{a.gid}::{a.home}:{(shells or {}).get(a.name, shell)}" for a in accounts],
        "shadow": [f"{a.name}:*:19000:0:99999:7:::" for a in accounts],
        "group": [f"{a.name}:x:{a.gid}:" for a in accounts],
    }
    for name, lines in added.items():
        kept = [line for line in Path("/etc", name).read_text().splitlines() if line.split(":")[0] not in names]
        path = etc / name
        path.write_text("\n".join([*kept, *lines]) + "\n")
        path.chmod(0o640 if name == "shadow" else 0o644)


def write_host_key(upper: Path, key: KeyPair) -> None:
    """Write the key by which the host is known."""
    path = upper / "etc/ssh/ssh_host_ed25519_key"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key.private)


def write_notebooks(disk: Path) -> Path | None:
    """Make an environment that has all that this one has, but not `ports`; return its site-packages to be laid there.

    None where this interpreter is not that of a virtual environment: its packages are the system's.
    """
    packages = Path(sysconfig.get_path("purelib"))
    if sys.prefix == sys.base_prefix or not packages.is_relative_to(Path(sys.prefix) / "lib"):
        return None
    hidden = disk / "packages"
    hidden.mkdir()
    (disk / "packages-work").mkdir()
    for entry in packages.iterdir():
        if entry.name == "ports" or entry.name.startswith(("ports-", "__editable__.ports-", "__editable___ports_")):
            os.mknod(hidden / entry.name, stat.S_IFCHR, 0)  # this is how overlayfs says "deleted"
    top = disk / "upper" / NOTEBOOKS.relative_to("/")
    for part in ("bin", "share/jupyter", "etc/jupyter", packages.relative_to(sys.prefix)):
        (top / part).mkdir(parents=True)
    original = Path(sys.prefix)
    configuration = (original / "pyvenv.cfg").read_text()
    (top / "pyvenv.cfg").write_text(configuration)
    (top / "lib64").symlink_to("lib")
    for name in ("python", "python3", f"python3.{sys.version_info.minor}"):
        (top / "bin" / name).symlink_to(Path(sys.executable).resolve())
    for script in (original / "bin").iterdir():
        if script.name.startswith(("jupyter", "ipython", "dask")):
            if "from ports" in script.read_text():
                continue
            text = script.read_text().replace(f"{original}/bin/python", f"{NOTEBOOKS}/bin/python")
            (top / "bin" / script.name).write_text(text)
            (top / "bin" / script.name).chmod(0o755)
    return packages


def new_disk(disk: Path, host: str, accounts: list[Account], hosts: tuple[str, ...]) -> Path | None:
    """Make the disk of `host`; return what `write_notebooks` returns."""
    for part in ("root", "upper", "work"):
        (disk / part).mkdir(parents=True)
    write_system(disk / "upper", host, accounts, hosts)
    (disk / "upper/mnt").mkdir()
    return write_notebooks(disk) if host.startswith("server") else None
