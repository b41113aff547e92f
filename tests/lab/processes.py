"""What runs and what listens, read from /proc: of hosts in other namespaces, or of marked processes of this one."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.lab.site import HostListener, HostProcess

TICKS = os.sysconf("SC_CLK_TCK")


def of_namespace(first: int) -> Callable[[Path], bool]:
    """Return a test for processes that share the pid namespace of process `first`."""
    namespace = Path(f"/proc/{first}/ns/pid").readlink()
    return lambda directory: (directory / "ns/pid").readlink() == namespace


def marked(marks: set[bytes], path: bytes) -> Callable[[Path], bool]:
    """Return a test for processes with all of `marks` in their environment, or `path` in their command line."""

    def test(directory: Path) -> bool:
        if path in (directory / "cmdline").read_bytes():
            return True
        return marks <= set((directory / "environ").read_bytes().split(b"\0"))

    return test


def find_one(pid: int) -> list[HostProcess]:
    """Return process `pid`, if there is one."""
    with contextlib.suppress(OSError):
        return [read(Path(f"/proc/{pid}"))]
    return []


def find(wanted: Callable[[Path], bool]) -> Iterator[HostProcess]:
    """Yield the processes for which `wanted` holds; those that end meanwhile, or are none of ours, are left out."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        directory = Path("/proc", entry)
        with contextlib.suppress(OSError):
            if wanted(directory):
                yield read(directory)


def read(directory: Path) -> HostProcess:
    """Return the process of a directory of /proc."""
    name, _, rest = (directory / "stat").read_text(errors="replace").rpartition(")")
    fields = rest.split()
    command = (directory / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
    words = tuple(command.split("\0")) if command else (f"[{name.partition('(')[2]}]",)
    uid = directory.stat().st_uid
    return HostProcess(int(directory.name), int(fields[19]) / TICKS, uid, words, fields[0])


def listeners(proc: Path) -> list[HostListener]:
    """Return what listens in the network namespace of the process with the directory `proc`."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in (proc / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found.append(HostListener(_address(fields[1]), int(fields[7])))
    for line in (proc / "net/unix").read_text(errors="replace").splitlines()[1:]:
        words = line.split(maxsplit=7)
        if len(words) == 8 and words[3] == "00010000" and words[7].startswith("/"):  # __SO_ACCEPTCON
            found.append(HostListener(words[7], None))
    return found


def _address(text: str) -> str:
    """Translate ``0100007F:0016``: words of 32 bits in the machine's order."""
    digits, port = text.split(":")
    words = [bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    return f"{f'[{address}]' if address.version == 6 else address}:{int(port, 16)}"
