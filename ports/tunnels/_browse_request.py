"""What somebody on a host wants to see in the browser here, as `ports browse` there sends it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ports.errors import UsageError
from ports.hosts import Target

_HERE = ("localhost", "127.0.0.1", "::1", "0.0.0.0", None)


@dataclass(frozen=True)
class BrowseRequest:
    """A page that somebody on a host wants to see; `target` is what serves it there, None if another machine does."""

    link: SplitResult
    target: Target | None

    def through(self, url: str) -> str:
        """Return the link to the page through a tunnel whose own link is `url`."""
        if self.target is None or self.target.port is None:
            return url
        here = urlsplit(url)
        return self.link._replace(netloc=here.netloc, scheme=here.scheme).geturl()


def parse(alias: str, wanted: Mapping[str, Any]) -> BrowseRequest:
    """Return what `wanted`, with a ``name`` or a ``url``, asks for on the host `alias`.

    Raises
    ------
    UsageError
        The link is not one to a web page: a program other than `ports browse` can ask, too.
    """
    try:
        link = urlsplit(str(wanted.get("url") or ""))
        port = link.port or {"http": 80, "https": 443}.get(link.scheme)
    except ValueError as error:
        raise UsageError(f"not a link to a web page ({error})") from error
    if wanted.get("url") and link.scheme not in ("http", "https"):
        raise UsageError(f"not a link to a web page (its scheme is {link.scheme!r})")
    if link.hostname not in (*_HERE, alias):
        return BrowseRequest(link, None)
    if wanted.get("name"):
        return BrowseRequest(link, Target(alias, name=wanted["name"]))
    return BrowseRequest(link, Target(alias, port=port))
