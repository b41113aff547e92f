"""The tunnels to one host, as several threads change them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from ports.errors import PortsError
from ports.tunnels._tunnel import Tunnel


class TunnelList:
    """The tunnels to one host, in the order in which they came; nothing is opened once it is halted.

    Parameters
    ----------
    on_change : callable
        Called with each tunnel whose state or link has changed, from several threads.

    Attributes
    ----------
    lock : RLock
        Held while a tunnel gets or loses ports.
    """

    def __init__(self, on_change: Callable[[Tunnel], None]) -> None:
        self.lock = threading.RLock()
        self._on_change = on_change
        self._tunnels: list[Tunnel] = []
        self._halted = threading.Event()

    def __iter__(self) -> Iterator[Tunnel]:
        """Iterate over the tunnels of this moment."""
        return iter(list(self._tunnels))

    def __contains__(self, tunnel: Tunnel) -> bool:
        """Tell whether it was not closed meanwhile."""
        return tunnel in self._tunnels

    @property
    def is_halted(self) -> bool:
        """Whether nothing is opened any more."""
        return self._halted.is_set()

    def halt(self) -> None:
        """Open nothing from now on."""
        with self.lock:
            self._halted.set()

    def may_open(self, tunnel: Tunnel) -> bool:
        """Tell whether a tunnel was not closed meanwhile, alone or with all; call it with `lock` held."""
        return not self.is_halted and tunnel in self

    def add(self, tunnels: Iterable[Tunnel]) -> bool:
        """Add tunnels that are to be opened; return False, and add none, once it is halted."""
        with self.lock:
            if not self.is_halted:
                self._tunnels += tunnels
            return not self.is_halted

    def add_result(self, tunnel: Tunnel, error: PortsError | None) -> None:
        """Add a row that is no link: the `error` of a target or host, or that nothing is to be opened there."""
        tunnel.error = error
        with self.lock:
            self._tunnels.append(tunnel)
        self.change(tunnel, "error" if error else "nothing")

    def remove(self, wanted: Iterable[Tunnel]) -> list[Tunnel]:
        """Remove tunnels, and return those that were there: two processes may close the same one at once."""
        with self.lock:
            found = [one for one in dict.fromkeys(wanted) if one in self._tunnels]
            for tunnel in found:
                self._tunnels.remove(tunnel)
        return found

    def change(self, tunnel: Tunnel, state: str, *, since: float | None = None) -> None:
        """Set the state of a tunnel and report it; `since` is now unless given or unless the state stays."""
        if tunnel.state != state or since is not None:
            tunnel.since = since or time.time()
        tunnel.state = state
        self._on_change(tunnel)
