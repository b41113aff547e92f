"""The page that a browser gets at a link that is down: what is down, since when, and what is being done. Pure."""

from __future__ import annotations

import html
import re
import time
from dataclasses import dataclass

# Tells `_verify` that this answer is not the service's.
MARK = b"X-Ports-Page: "
_REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) \S+ HTTP/1\.[01]\r?\n")
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em;color:#222;background:#fff}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#1c1c1c}}h1{font-size:1.3em}p.small{opacity:.7}"
)
# Only a page that was requested by GET reloads by itself.
_RELOAD = "<script>setTimeout(function(){location.reload()},1500)</script>"


@dataclass(frozen=True)
class Page:
    """Why a link leads nowhere.

    `doing` says what is being done about it, or what the user can do. `since` is in seconds since the epoch.
    A page that `passes` reloads by itself.
    """

    title: str
    reason: str = ""
    doing: str = ""
    since: float = 0.0
    status: str = "503 Service Unavailable"
    passes: bool = True


def is_request(data: bytes) -> bool:
    """Tell whether `data` begins with an HTTP request."""
    return _REQUEST.match(data) is not None


def answer(page: Page, request: bytes) -> bytes:
    """Return the whole HTTP answer to `request`: the page for a browser, a line of text for a program."""
    wants_html = re.search(rb"(?im)^accept:[^\r\n]*text/html", request) is not None
    method = request.split(b" ", 1)[0]
    text = _html(page, reloads=method == b"GET" and page.passes) if wants_html else _text(page)
    body, again = text.encode(), "Retry-After: 2\r\n" if page.passes else ""
    head = (
        f"HTTP/1.1 {page.status}\r\nContent-Type: text/{'html' if wants_html else 'plain'}; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\n{MARK.decode()}1\r\n"
        f"{again}"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else body)


def _text(page: Page) -> str:
    return "; ".join(part.rstrip(".") for part in (page.title, page.reason, page.doing) if part) + "\n"


def _html(page: Page, *, reloads: bool) -> str:
    since = time.strftime("%H:%M:%S", time.localtime(page.since)) if page.since else ""
    lines = [f"<p>{html.escape(part)}</p>" for part in (page.reason, page.doing) if part]
    again = "This page reloads by itself." if reloads else "What you sent may not have arrived: send it again later."
    told = " ".join(part for part in (f"Since {since}." if since else "", again if page.passes else "") if part)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(page.title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f'<h1>{html.escape(page.title)}</h1>{"".join(lines)}<p class="small">{told}</p>'
        f"{_RELOAD if reloads else ''}</body></html>"
    )
