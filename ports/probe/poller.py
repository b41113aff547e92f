"""What `ports.probe.ask` wants of `select.poll`, done by `select.select`: Windows, at home, has no other."""

import select
import time

MYPY = False
if MYPY:
    from typing import Any, List, Set, Tuple  # noqa: F401 - in comments


class Poller:
    """Sockets that are watched for what they say."""

    def __init__(self) -> None:
        self.numbers = set()  # type: Set[int]

    def register(self, connection: "Any", events: int) -> None:
        """Watch a socket."""
        self.numbers.add(connection.fileno())

    def unregister(self, which: "Any") -> None:
        """Watch a socket, or its number, no more."""
        self.numbers.remove(which if isinstance(which, int) else which.fileno())

    def poll(self, milliseconds: int) -> "List[Tuple[int, int]]":
        """Return the numbers of those that said something, or ended, within that time."""
        if not self.numbers:  # to wait for none is an error on Windows
            time.sleep(milliseconds / 1000.0)
            return []
        return [(number, 1) for number in select.select(self.numbers, [], [], milliseconds / 1000.0)[0]]
