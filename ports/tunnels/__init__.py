"""Links at home to what runs on other hosts: open, list, close."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.tunnels import keeper as keeper
    from ports.tunnels._browse import browse as browse
    from ports.tunnels._browser import open_once as open_once
    from ports.tunnels._group import TunnelGroup as TunnelGroup
    from ports.tunnels._local_address import LocalAddress as LocalAddress
    from ports.tunnels._open import close as close
    from ports.tunnels._open import close_all as close_all
    from ports.tunnels._open import list as list
    from ports.tunnels._open import open as open
    from ports.tunnels._open import open_in_background as open_in_background
    from ports.tunnels._open import open_many as open_many
    from ports.tunnels._open import prune as prune
    from ports.tunnels._records import read_all_records as read_all_records
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_browse": ("browse",),
            "_browser": ("open_once",),
            "_group": ("TunnelGroup",),
            "_local_address": ("LocalAddress",),
            "_open": (
                "close",
                "close_all",
                "list",
                "open",
                "open_in_background",
                "open_many",
                "prune",
            ),
            "_records": ("read_all_records",),
        },
        modules=("keeper",),
    )
