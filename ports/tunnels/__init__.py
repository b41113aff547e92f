"""Links at home to what runs on other hosts: open, list, close; and views of those hosts.

>>> from ports import tunnels
>>> local = tunnels.LocalAddress(port=8880)  # for tunnels.open("server1:lab", local=local)
>>> local.address_here, local.is_one
('127.0.0.1', True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.tunnels import keeper as keeper
    from ports.tunnels._background import open_in_background as open_in_background
    from ports.tunnels._browse import browse as browse
    from ports.tunnels._browser import open_once as open_once
    from ports.tunnels._everywhere import close as close
    from ports.tunnels._everywhere import close_all as close_all
    from ports.tunnels._everywhere import list as list
    from ports.tunnels._everywhere import prune as prune
    from ports.tunnels._everywhere import with_targets as with_targets
    from ports.tunnels._everywhere import without_ends as without_ends
    from ports.tunnels._group import TunnelGroup as TunnelGroup
    from ports.tunnels._local_address import LocalAddress as LocalAddress
    from ports.tunnels._open import open as open
    from ports.tunnels._open import open_many as open_many
    from ports.tunnels._records import read_all_records as read_all_records
    from ports.tunnels._records import unreadable_records as unreadable_records
    from ports.tunnels._watching import Watching as Watching
    from ports.tunnels._watching import watch as watch
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_background": ("open_in_background",),
            "_browse": ("browse",),
            "_browser": ("open_once",),
            "_everywhere": ("close", "close_all", "list", "prune", "with_targets", "without_ends"),
            "_group": ("TunnelGroup",),
            "_local_address": ("LocalAddress",),
            "_open": ("open", "open_many"),
            "_records": ("read_all_records", "unreadable_records"),
            "_watching": ("Watching", "watch"),
        },
        modules=("keeper",),
    )
