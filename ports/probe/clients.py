"""By which alias this machine is reached, as `ports` at home says, noted for each client. It is printed, nothing else.

What only looks (``ports list HOST``) notes nothing. A command that opens or runs something here does, if there are
records of `ports` here already: then the note is no first trace, and something is there whose link may be printed.
"""

import json
import os

if __name__ != "__main__":  # piped, these names are there already
    from .files import is_private, write_text
    from .identity import FORMAT
    from .own_host import host_directory, read_record, state_directory

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional

    Json = Dict[str, Any]

MOST_CLIENTS = 16
LONGEST_ALIAS = 255
KEYS = ("client", "alias", "address")


def known_clients() -> "List[Json]":
    """Return ``client``, ``alias`` and ``address`` of each client that came to this machine, the last one last.

    Raises ValueError if the record cannot be read.
    """
    found = (read_record(os.path.join(host_directory(), "clients.json")) or {}).get("clients")
    return [one for one in (found if isinstance(found, list) else []) if is_client(one)]


def is_client(one: "Any") -> bool:
    """Tell whether a value of the record, or of a request, describes a client."""
    texts = [one.get(key) for key in KEYS] if isinstance(one, dict) else [None]
    return all(isinstance(text, str) and len(text) <= LONGEST_ALIAS and text.isprintable() for text in texts)


def client_address() -> str:
    """Return the address from which this session was reached by ssh, empty where it was not."""
    return (os.environ.get("SSH_CONNECTION") or "").partition(" ")[0]


def note_client(came: "Optional[Json]", make: bool = False) -> None:
    """Note the client that asks, if `ports` keeps records on this machine; else nothing is left here.

    Parameters
    ----------
    came : dict
        ``client``, an id; ``alias``, what that client calls this machine.
    make : bool
        Something is about to be started here: make the directory of records.
    """
    one = {"address": client_address(), "client": (came or {}).get("client"), "alias": (came or {}).get("alias")}
    if not is_client(one):
        return
    directory = host_directory()
    try:
        if make:
            make_directory(directory)
        if not is_private(directory):
            return
        known = known_clients()
    except ValueError as error:
        if str(error).startswith("newer"):
            return
        known = []
    except OSError:
        return
    if known[-1:] == [one]:
        return
    others = [other for other in known if other["client"] != one["client"]]
    text = json.dumps({"format": FORMAT, "clients": [*others, one][-MOST_CLIENTS:]})
    try:
        write_text(os.path.join(directory, "clients.json"), text)
    except OSError:  # the next client may be noted
        pass


def make_directory(directory: str) -> None:
    """Make the directory of this machine's records, 0700; raises OSError."""
    for path in (state_directory(), os.path.dirname(directory), directory):
        try:
            os.makedirs(path, 0o700)
        except FileExistsError:
            pass
