"""What several `ports open` request of a host, matched with what a probe found there. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ports.errors import PortsError
from ports.hosts import Target
from ports.listeners import Listener
from ports.tunnels import _services
from ports.tunnels._local_address import LocalAddress
from ports.tunnels._services import Service


@dataclass(frozen=True)
class OpenRequest:
    """What one `ports open` requests of a host; `skip` has kind and name of tunnels that were closed since.

    With `reuse`, what another group has open already is shown, and not opened at a second port.
    """

    targets: tuple[Target, ...]
    owner: str | None = None
    local: LocalAddress = field(default_factory=LocalAddress)
    skip: frozenset[tuple[str, str]] = field(default=frozenset())
    reuse: bool = False


def choose(
    document: dict[str, Any], found: Sequence[Listener], requests: Sequence[OpenRequest]
) -> tuple[dict[str, tuple[Service, OpenRequest]], dict[Target, PortsError]]:
    """Return the services that are asked for, by their key, and the targets that cannot be opened, with the reason.

    Of several requests for a service, the one that names it goes first, then the last one; what one of them shares is
    shared. Services on another node of the host's name are in neither, see `on_nodes`.
    """
    services: dict[str, Service] = {}
    asked: dict[str, list[tuple[bool, OpenRequest]]] = {}
    failed: dict[Target, PortsError] = {}
    for request in requests:
        for target in request.targets:
            try:
                chosen = _services.choose(document, found, target, owner=request.owner)
            except PortsError as error:
                if not any(_is_on(target, one) for one in _nodes(document)):
                    failed[target] = error
                continue
            for service in chosen:
                if (service.kind, service.name) not in request.skip:
                    services.setdefault(service.key, service)
                    asked.setdefault(service.key, []).append((target != Target(target.host), request))
    return {key: (services[key], _chosen(asked[key])) for key in services}, failed


def _chosen(asked: Sequence[tuple[bool, OpenRequest]]) -> OpenRequest:
    """Return the request whose options hold, of several for one service and whether they name it."""
    named = [request for is_named, request in asked if is_named]
    chosen = named[-1] if named else asked[-1][1]
    is_shared = chosen.local.socket is None and any(request.local.share for _, request in asked)
    return replace(chosen, local=replace(chosen.local, share=True)) if is_shared else chosen


def on_nodes(document: dict[str, Any], requests: Sequence[OpenRequest]) -> list[tuple[str, OpenRequest]]:
    """Return what is wanted of other nodes of the host's name: the name of each node, and the request to it.

    Login nodes share a name and a home, and a connection leads to any of them. A cluster that was started on one node
    yesterday still runs there.
    """
    found = []
    for node in _nodes(document):
        for request in requests:
            there = tuple(target for target in request.targets if _is_on(target, node))
            for host in dict.fromkeys(f"{target.host}/{node['node']}" for target in there):
                found.append((host, replace(request, targets=tuple(replace(one, host=host) for one in there))))
    return found


def _nodes(document: dict[str, Any]) -> Sequence[dict[str, Any]]:
    return document.get("elsewhere") or ()


def _is_on(target: Target, node: dict[str, Any]) -> bool:
    names = [session.partition(":")[2] for session in node["sessions"]]
    return target.port is None and (target.name is None or target.name in names)
