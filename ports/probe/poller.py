"""The part of `select.poll` that `ask` needs, done by `select.select`: Windows has nothing else."""

import select
import time

MYPY = False
if MYPY:
    from typing import Any, List, Set, Tuple  # noqa: F401 - in comments


class Poller:
    """Watches sockets for what they say."""

    def __init__(self) -> None:
        self.numbers = set()  # type: Set[int]

    def register(self, connection: "Any", events: int) -> None:
        """Watch a socket."""
        self.numbers.add(connection.fileno())

    def unregister(self, which: "Any") -> None:
        """Stop watching a socket, or its number."""
        self.numbers.remove(which if isinstance(which, int) else which.fileno())

    def poll(self, milliseconds: int) -> "List[Tuple[int, int]]":
        """Return the numbers of those that said something or ended within that time."""
        if not self.numbers:  # on Windows it is an error to wait for none
            time.sleep(milliseconds / 1000.0)
            return []
        return [(number, 1) for number in select.select(self.numbers, [], [], milliseconds / 1000.0)[0]]
