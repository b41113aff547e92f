"""Every path that `ports` writes.

::

    <state>/hosts/<machine>/             $PORTS_HOME, $XDG_STATE_HOME/ports or ~/.local/state/ports; 0700
        host.json                        boot, names, interpreter and version of `ports` that last ran here
        clients.json                     by which alias `ports` at home came here
        runtime.json                     where the runtime directory is, if /tmp/ports-<uid> was taken
        clusters/<name>/ notebooks/<name>/   record.json running.json exit.json launch.json …
        logs/<kind>-<name>.log           survives `stop`
        tokens/<kind>-<name>             survives `stop`, so that tomorrow's link is today's
        held/<scratch>-held.json         survives `stop`: where the results are that an expired cluster kept
        tunnels/ keeper/                 what `ports open` keeps open
    /tmp/ports-<uid>/                    Unix sockets, 0700, locked against tmpfiles while something runs
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports import probe
from ports._version import VERSION
from ports.errors import InvalidNameError, StoreError, UsageError
from ports.state import records
from ports.state.private import make_private, not_mine

_MOST_NAMES = 16  # of a laptop whose name changes with the network
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def check_name(name: str) -> str:
    """Return `name`, or raise InvalidNameError."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidNameError(str(name))
    return name


@dataclass(frozen=True)
class HostPaths:
    """The files of one machine below the state directory."""

    root: Path

    @property
    def host(self) -> Path:
        """Record of the machine: name, interpreter, version."""
        return self.root / "host.json"

    @property
    def runtime(self) -> Path:
        """Record that says where the runtime directory is."""
        return self.root / "runtime.json"

    @property
    def logs(self) -> Path:
        """Directory of logs."""
        return self.root / "logs"

    @property
    def tunnels(self) -> Path:
        """Directory of tunnel records."""
        return self.root / "tunnels"

    @property
    def held(self) -> Path:
        """Directory of notes that say where the results are that expired clusters kept; they survive `stop`."""
        return self.root / "held"

    def token(self, kind: str, name: str) -> Path:
        """Token of the `kind` called `name`: it survives `stop`, so that links stay the same."""
        return self.root / "tokens" / f"{kind}-{check_name(name)}"


def state_directory() -> Path:
    """Return the directory of all records; it need not exist."""
    return Path(probe.state_directory())


def configuration_directories() -> list[Path]:
    """Return where Dask looks for YAML files; a later one overrides an earlier one."""
    found = [Path(os.environ.get("DASK_ROOT_CONFIG", "/etc/dask")), Path(sys.prefix) / "etc" / "dask"]
    found.append(Path.home() / ".config" / "dask")
    if "DASK_CONFIG" in os.environ:
        found.append(Path(os.environ["DASK_CONFIG"]))
    return found


@functools.cache
def machine() -> str:
    """Return the id of this machine, which stays the same when its name changes."""
    return probe.machine_id()


def host_name() -> str:
    """Return the hostname of this machine."""
    return socket.gethostname()


def user_name() -> str:
    """Return the user name of this process's uid, not ``$LOGNAME``, which is another's after ``su``."""
    return probe.user_name(probe.own_uid())


def here() -> HostPaths:
    """Return this machine's paths; nothing is created.

    Raises
    ------
    UnsafePathError
        Another user owns the state directory, so its records cannot be trusted.
    StoreError
        It cannot be looked through, so nothing shows which of its directories is this machine's.
    """
    state = state_directory()
    with contextlib.suppress(OSError):
        if os.name != "nt" and state.lstat().st_uid not in (os.getuid(), 0):
            raise not_mine(state)
    try:
        return HostPaths(Path(probe.host_directory()))
    except OSError as error:
        raise StoreError(Path(error.filename or state), error.strerror or str(error)) from error


def other_machines() -> list[HostPaths]:
    """Return the paths of other machines on which this home was used; raises as `here`, and StoreError."""
    own = here().root
    try:
        return [HostPaths(path) for path in sorted(own.parent.iterdir()) if path != own and path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(own.parent, error.strerror or str(error)) from error


def make_state() -> HostPaths:
    """Create the directories of this machine with mode 0700, and return the paths.

    Of two machines with one machine id that do so at once, one gets the first directory, and the other one its own.
    """
    make_private(make_private(state_directory()) / "hosts")
    paths = here()
    while True:
        make_private(paths.root)
        if not paths.host.exists():
            records.create_json(paths.host, this_machine({}))
        if paths == (own := here()):
            break
        paths = own
    make_private(paths.logs)
    return paths


def this_machine(before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``host.json`` says of this machine and this interpreter, when `before` is what it said."""
    kept = before.get("names")
    names = [*(kept if isinstance(kept, list) else ()), before.get("name"), host_name()]
    return {
        "format": records.FORMAT,
        "id": machine(),
        "boot_id": probe.boot_id(),
        "name": host_name(),
        "names": [name for name in dict.fromkeys(names) if isinstance(name, str) and name][-_MOST_NAMES:],
        "python": sys.executable,
        "version": VERSION,
    }


def can_serve() -> bool:
    """Say whether clusters and notebook servers can run on this machine. On Windows they cannot."""
    return os.name != "nt"


def check_serves(what: str) -> None:
    """Raise UsageError if this machine cannot run `what`, in the plural."""
    if not can_serve():
        raise UsageError(
            f"{what} run on Linux and macOS only; name a host that runs it, with -H HOST or `ports shell HOST`"
        )
