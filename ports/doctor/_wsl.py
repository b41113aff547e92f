"""Linux on Windows (WSL): which ssh configuration is read, and whether a keeper outlives the terminal.

Microsoft's documents and issues say how WSL ends an instance; it was not run there by us.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ports.doctor._checks import Check, ok, warning
from ports.state import settings

KEEP = "[general] with instanceIdleTimeout=-1"


@dataclass(frozen=True)
class Windows:
    """What a WSL instance shows of itself and of the Windows around it.

    Attributes
    ----------
    version : int
        1: Windows plays the kernel; 2: a virtual machine.
    has_systemd : bool
        Its first process is systemd: what was detached from a terminal becomes systemd's child, and WSL takes an
        instance of which no process is its own child's any more for idle.
    settings : str
        The text of ``.wslconfig``, all users' of this machine that can be read.
    configurations : tuple of str
        The ``.ssh/config`` files of Windows users.
    """

    version: int
    has_systemd: bool
    settings: str
    configurations: tuple[str, ...]


def kernel_says(proc_version: str, signs: Sequence[object]) -> int:
    """Return 1 or 2, the version of WSL, by the text of /proc/version; 0: this is none.

    Parameters
    ----------
    signs : sequence
        WSL's variables, and whether its directory is there. In a container on WSL 2 the kernel is WSL's too, but these
        are missing, and what is said here is not true.
    """
    if "microsoft" not in proc_version.lower() or not any(signs):
        return 0
    # 4.4.0-19041-Microsoft is played by Windows; 5.15.90.1-microsoft-standard-WSL2 is a kernel
    return 2 if re.search(r"microsoft-standard|WSL2", proc_version) else 1


def look(root: Path = Path("/")) -> Windows | None:
    """Return what is seen of WSL below `root`; None where this is none."""
    signs = [(root / "run/WSL").exists(), *map(settings.variable, ("WSL_DISTRO_NAME", "WSL_INTEROP"))]
    version = kernel_says(_read(root / "proc/version"), signs)
    if not version:
        return None
    mounts = re.search(r"^\s*root\s*=\s*(\S+)", _read(root / "etc/wsl.conf"), re.MULTILINE)
    drives = root / (mounts.group(1).strip("\"'") if mounts else "/mnt").lstrip("/")
    users = sorted(path for path in drives.glob("c/Users/*") if path.name not in ("Public", "Default", "All Users"))
    configurations = tuple(str(path / ".ssh/config") for path in users if _read(path / ".ssh/config"))
    wsl_settings = "\n".join(_read(path / ".wslconfig") for path in users)
    has_systemd = _read(root / "proc/1/comm").strip() == "systemd"
    return Windows(version, has_systemd, wsl_settings, configurations)


def judge(found: Windows, program: str, own: Path) -> list[Check]:
    """Return the checks.

    Parameters
    ----------
    program : str
        The setting ``ports.ssh.program``.
    own : Path
        The file that the ssh of Linux reads.
    """
    return [_configuration(found, program, own), _keeper(found)]


def _configuration(found: Windows, program: str, own: Path) -> Check:
    name, theirs = "wsl-configuration", " or ".join(found.configurations)
    if program.lower().endswith(".exe"):
        return warning(
            name,
            f"ports.ssh.program is {program}, Windows's ssh: it reads {theirs or 'the .ssh/config of Windows'}, not "
            f"{own}, and cannot share connections",
            "set ports.ssh.program to ssh",
        )
    if own.exists() and str(own.resolve()).startswith(
        ("/mnt/", *(str(Path(path).parent) for path in found.configurations))
    ):
        return warning(
            name,
            f"{own} is on the disk of Windows, where all files look as if others could write them",
            "make ~/.ssh a directory of Linux's own, with copies of configuration and keys, and `chmod 600 ~/.ssh/*`",
        )
    if not own.exists() and theirs:
        copy = f"mkdir -p -m 700 ~/.ssh; cp {shlex.quote(found.configurations[0])} {own}; chmod 600 {own}"
        return warning(
            name,
            f"ssh here reads {own}, which does not exist; only Windows knows the hosts in {theirs}",
            f"copy it, and the keys: `{copy}`",
        )
    return ok(name, f"ssh here reads {own}" + (f", not {theirs}" if theirs else ""))


def _keeper(found: Windows) -> Check:
    name = "wsl-keeper"
    stays = re.search(r"^\s*instanceIdleTimeout\s*=\s*-1\s*$", found.settings, re.MULTILINE | re.IGNORECASE)
    if found.version == 2 and found.has_systemd and not stays:
        return warning(
            name,
            "WSL stops this Linux about 15 s after its last terminal is closed, and `ports open --background` with it",
            rf"leave one terminal open, or write {KEEP} into C:\Users\YOU\.wslconfig and run `wsl --shutdown` once",
        )
    why = "WSL 1" if found.version == 1 else "instanceIdleTimeout is -1" if stays else "no systemd"
    return ok(name, f"tunnels in the background outlive the terminal ({why})")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
