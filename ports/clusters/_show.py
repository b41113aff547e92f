"""`ports.show`: what to type at home, and the link that works there."""

from __future__ import annotations

import html
import shlex
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ports import listeners
from ports.clusters._text import command_html, html_table
from ports.errors import say


def show(cluster_or_client: object, local_port: int | None = None) -> None:
    """Print what to type at home and the link that then works there; a notebook displays it.

    Parameters
    ----------
    cluster_or_client
        A cluster of `ports`, a client of one, or any Dask cluster or client with a dashboard on a TCP port.
    local_port : int, optional
        The port at home. Default: the one that ``ports open`` always uses for this name.
    """
    shown = describe(cluster_or_client, local_port)
    if "IPython" in sys.modules:
        from IPython import get_ipython
        from IPython.display import display

        if get_ipython() is not None:
            display(Shown(shown))
            return
    say(shown_text(shown))


def describe(cluster_or_client: object, local_port: int | None = None) -> dict[str, Any]:
    """Return what `show` shows: ``command``, ``link``, and ``by_hand``, the plain ssh command.

    ``command_note`` is there where the alias in them is a guess. In a kernel of a Jupyter server with the route of
    `ports`, also ``here``, the path there.
    """
    cluster: Any = getattr(cluster_or_client, "cluster", None) or cluster_or_client
    row = getattr(cluster, "row", None)
    if callable(row) and hasattr(cluster, "record"):
        name, socket_path = cluster.name, cluster.record.dashboard
        link = listeners.cluster_link(name, local_port)
        by_hand = ["ssh", "-N", "-L", f"{_port(link)}:{socket_path}", listeners.alias()]
        shown = {"command": listeners.open_command(name, local_port), "link": link, "by_hand": shlex.join(by_hand)}
        shown |= _guess()
        if here := listeners.route(name):
            shown["here"] = here
        if port := _port(row().get("tcp_link") or ""):  # without its token, because notebooks save what they display
            shown["forward"] = f"port {port}; `ports cluster show {name}` shows its link and token"
        return shown
    far_port = _port(str(getattr(cluster, "dashboard_link", "") or ""))
    if far_port is None:
        from ports.errors import UsageError

        raise UsageError(f"{cluster_or_client!r} has no dashboard; pass a Dask cluster or client")
    near = local_port or far_port
    command = ["ports", "open", f"{listeners.alias()}:{far_port}", "--local-port", str(near)]
    by_hand = ["ssh", "-N", "-L", f"{near}:127.0.0.1:{far_port}", listeners.alias()]
    link = f"http://localhost:{near}/status"
    return {"command": shlex.join(command), "link": link, "by_hand": shlex.join(by_hand), **_guess()}


def _guess() -> dict[str, str]:
    return {"command_note": note} if (note := listeners.guess_note()) else {}


def _port(link: str) -> int | None:
    from urllib.parse import urlsplit

    return urlsplit(link).port


class Shown:
    """What `ports.show` displays: text in a terminal, HTML in a notebook."""

    def __init__(self, shown: Mapping[str, Any]) -> None:
        self._shown = shown

    def __repr__(self) -> str:
        return shown_text(self._shown)

    def _repr_html_(self) -> str:
        link = html.escape(str(self._shown["link"]), quote=True)
        facts = []
        if here := str(self._shown.get("here", "")):
            link_here = quote(here, safe="/%")
            facts.append(("In this Jupyter", f'<a href="{link_here}" target="_blank">{html.escape(here)}</a>'))
        facts += [
            ("At home, type", command_html(self._shown["command"], self._shown.get("command_note"))),
            ("then open", f'<a href="{link}" target="_blank" rel="noopener">{link}</a>'),
            ("without ports there", f"<code>{html.escape(self._shown['by_hand'])}</code>"),
        ]
        if "forward" in self._shown:
            facts.append(("or forward", html.escape(self._shown["forward"])))
        return html_table("Dashboard", facts)


def shown_text(shown: Mapping[str, Any]) -> str:
    """Return what `ports.show` prints."""
    return (
        (f"in this Jupyter:      {shown['here']}\n" if "here" in shown else "")
        + f"at home, type:        {shown['command']}\n"
        + (f"                      ({shown['command_note']})\n" if "command_note" in shown else "")
        + f"then open:            {shown['link']}\n"
        f"without ports there:  {shown['by_hand']}"
        + (f"\nor forward:           {shown['forward']}" if "forward" in shown else "")
    )
