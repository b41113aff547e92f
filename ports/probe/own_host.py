"""Where the records of this machine are, and how one is read, without the rest of `ports`."""

import json
import os

if __name__ != "__main__":  # piped, these names are there already
    from .files import own_text
    from .identity import FORMAT, boot_id, machine_id, node, sha256

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional

    Json = Dict[str, Any]


def state_directory() -> str:
    """Return the directory of the records of `ports`, absolute; it need not exist."""
    home, state = os.environ.get("PORTS_HOME"), os.environ.get("XDG_STATE_HOME", "")
    if home:
        return os.path.abspath(os.path.expanduser(home))
    state = state if os.path.isabs(state) else os.path.expanduser("~/.local/state")
    return os.path.abspath(os.path.join(state, "ports"))


def host_directory() -> str:
    """Return the directory of the records of this machine; it need not exist."""
    hosts = os.path.join(state_directory(), "hosts")
    return os.path.join(hosts, directory_name(machine_id(), boot_id(), node(), host_records(hosts)))


def host_records(hosts: str) -> "Dict[str, Json]":
    """Return the directories of this machine id, with what ``host.json`` says in each; empty if it says nothing.

    Raises OSError where they cannot be listed: another machine of this id may have one of them.
    """
    found, own = {}, machine_id()  # type: Dict[str, Json], str
    try:
        names = sorted(name for name in os.listdir(hosts) if name.partition("-")[0] == own)
    except (FileNotFoundError, NotADirectoryError):
        return found
    for name in names:
        try:
            found[name] = read_record(os.path.join(hosts, name, "host.json")) or {}
        except ValueError:
            found[name] = {}
    return found


def directory_name(machine: str, boot: str, name: str, known: "Dict[str, Json]") -> str:
    """Return which of the directories `known` is this machine's, or how a new one is called.

    Machines that are made from one image have one machine id, and can share a home. The same boot id is this machine,
    whatever its name. Another boot id and the same name is this machine after a reboot. If both differ, it is another
    machine.
    """
    for key, value in (("boot_id", boot), ("name", name)):
        for directory in sorted(known):
            if value and known[directory].get(key) == value:
                return directory
    if not known.get(machine, {}).get("name"):
        return machine
    return "%s-%s" % (machine, sha256(name.encode())[:8])


def own_names() -> "List[str]":
    """Return the names that this machine has had, as its ``host.json`` says."""
    try:
        host = read_record(os.path.join(host_directory(), "host.json")) or {}
    except (OSError, ValueError):  # no name is known: what another boot started is neither dead nor alive, then
        return []
    names = host.get("names")
    return [str(name) for name in [*(names if isinstance(names, list) else ()), host.get("name")] if name]


def own_runtime_directory(base: str) -> str:
    """Return where the Unix sockets of this ``PORTS_HOME`` are: `base`, or a directory in it."""
    if "PORTS_HOME" not in os.environ:
        return base
    return os.path.join(base, sha256(os.fsencode(state_directory()))[:8])


def read_record(path: str) -> "Optional[Json]":
    """Return a record, None where there is none; raises ValueError with a reason that can be shown."""
    try:
        record = json.loads(own_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RuntimeError) as error:  # the last: nested too deep
        raise ValueError("record %s cannot be read: %s; `ports prune` moves it aside" % (path, error))
    if not isinstance(record, dict) or type(record.get("format")) is not int:
        raise ValueError("record %s has no format number; `ports prune` moves it aside" % path)
    if record["format"] > FORMAT:
        known = (path, record["format"], FORMAT)
        raise ValueError(
            "newer: record %s has format %d, but this version of ports reads formats up to %d; upgrade ports" % known
        )
    return record
