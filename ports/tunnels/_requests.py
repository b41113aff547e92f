"""What several `ports open` want of a host, in terms of what a probe found there. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ports.errors import PortsError
from ports.hosts import Target
from ports.listeners import Listener
from ports.tunnels import _services
from ports.tunnels._local_address import LocalEnd
from ports.tunnels._services import Service


@dataclass(frozen=True)
class Wish:
    """What one `ports open` wants of a host; `skip` holds kind and name of what is open elsewhere."""

    targets: tuple[Target, ...]
    owner: str | None = None
    end: LocalEnd = field(default_factory=LocalEnd)
    skip: frozenset[tuple[str, str]] = field(default=frozenset())


def choose(
    document: dict[str, Any], found: Sequence[Listener], wishes: Sequence[Wish]
) -> tuple[dict[str, tuple[Service, Wish]], dict[Target, PortsError]]:
    """Return the services that are wished for, by their key, and what cannot be had, with the reason.

    What lives on another node of the host's name is neither, see `on_nodes`.
    """
    wanted: dict[str, tuple[Service, Wish]] = {}
    failed: dict[Target, PortsError] = {}
    for wish in wishes:
        for target in wish.targets:
            try:
                chosen = _services.choose(document, found, target, owner=wish.owner)
            except PortsError as error:
                if not any(_is_on(target, one) for one in _nodes(document)):
                    failed[target] = error
                continue
            for service in chosen:
                if (service.kind, service.name) not in wish.skip:
                    wanted.setdefault(service.key, (service, wish))
    return wanted, failed


def on_nodes(document: dict[str, Any], wishes: Sequence[Wish]) -> list[tuple[str, Wish]]:
    """Return what is wished for of other nodes of the host's name: how such a node is called, and what is wanted there.

    Login nodes share a name and a home, and a connection leads to any of them: what was started in another one's shell
    yesterday still runs there.
    """
    found = []
    for node in _nodes(document):
        for wish in wishes:
            there = tuple(target for target in wish.targets if _is_on(target, node))
            for host in dict.fromkeys(f"{target.host}/{node['node']}" for target in there):
                found.append((host, replace(wish, targets=tuple(replace(one, host=host) for one in there))))
    return found


def _nodes(document: dict[str, Any]) -> Sequence[dict[str, Any]]:
    return document.get("elsewhere") or ()


def _is_on(target: Target, node: dict[str, Any]) -> bool:
    names = [session.partition(":")[2] for session in node["sessions"]]
    return target.port is None and (target.name is None or target.name in names)
