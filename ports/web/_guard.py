"""Who can do what with the page: rules on what a request says. Pure.

The page listens on the loopback of a machine that others use, and in a browser that shows other pages. So a request is
refused unless all of these hold: it comes from a process of this user (the kernel says so), it names the page by its
own address (no rebound name), it does what its method can do, no other page caused it, and it brings the cookie of this
start. What changes something also brings the token of the page's own forms.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass, field

#: The one path that changes something.
ACTS = "/-/do"
#: The path of the first link, which gives the cookie for a key that works once.
ENTRY = "/-/in"
LONGEST_BODY = 65_536
_ON_SOCKET = re.compile(r"127\.0\.0\.1(:[0-9]{1,5})?")
_OWN_SITE = ("same-origin", "none")  # none: typed, or a link of a terminal
_WAY_IN = "`ports page` prints a link that opens it"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request says, and what the kernel says of it.

    `uid` is that of the process at the other end; None where this system does not show it. `site`, `mode` and `dest`
    are what browsers write in ``Sec-Fetch-*``, `path` begins below the place of the page.
    """

    method: str = "GET"
    path: str = "/"
    host: str = ""
    origin: str | None = None
    site: str | None = None
    mode: str | None = None
    dest: str | None = None
    cookie: str | None = None
    form_token: str | None = None
    uid: int | None = None
    is_websocket: bool = False


@dataclass(frozen=True, kw_only=True)
class Door:
    """One way to the page, with what opens it.

    `authority` is the exact ``Host`` of a TCP port. None: a Unix socket in a directory that only this user can enter,
    to which any local port of 127.0.0.1 at home can lead; there is no cookie then.
    """

    authority: str | None
    uids: frozenset[int]
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    form_token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def cookie_name(self) -> str:
        """The name of the cookie: cookies do not know ports, and two pages of this user can be open."""
        return f"ports-page-{(self.authority or '').rpartition(':')[2]}"


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused: a status, and a sentence that holds nothing of the request."""

    status: int
    reason: str


def refusal(asked: Asked, door: Door) -> Refusal | None:
    """Return why the door stays closed; None where it opens."""
    if asked.uid is not None and asked.uid not in door.uids:
        return Refusal(403, "this page belongs to another user of this machine")
    if not is_own_name(asked.host, door):
        return Refusal(403, "the page is called by its own address, 127.0.0.1 and its port, and by no other name")
    return _of_method(asked) or _of_another_page(asked) or _of_secrets(asked, door)


def is_own_name(host: str, door: Door) -> bool:
    """Tell whether a ``Host`` is the page's own."""
    return host == door.authority if door.authority is not None else bool(_ON_SOCKET.fullmatch(host))


def _of_method(asked: Asked) -> Refusal | None:
    allowed = "POST" if asked.path == ACTS else "GET"
    return None if asked.method == allowed else Refusal(405, f"this address answers {allowed} only")


def _of_another_page(asked: Asked) -> Refusal | None:
    """Refuse what another page in the same browser caused; one can lead to the first page, and to nothing else."""
    changes = asked.method == "POST" or asked.is_websocket
    if asked.origin != f"http://{asked.host}" and (changes or asked.origin is not None):
        return Refusal(403, "another page asked for this")
    if asked.site is None or asked.site in _OWN_SITE:
        return None
    is_a_visit = asked.path in ("/", ENTRY) and (asked.mode, asked.dest) == ("navigate", "document")
    return None if is_a_visit else Refusal(403, "another page asked for this")


def _of_secrets(asked: Asked, door: Door) -> Refusal | None:
    if asked.path == ENTRY:  # the key in it is asked
        return None
    if door.authority is not None and not is_same(asked.cookie, door.cookie):
        return Refusal(403, f"this browser has no access to the page, or the page was started again; {_WAY_IN}")
    if asked.method == "POST" and not is_same(asked.form_token, door.form_token):
        return Refusal(403, "the form is from another start of the page; load it again")
    return None


def is_same(given: str | None, own: str) -> bool:
    """Compare a secret with what was given for it, in a time that tells nothing."""
    return given is not None and hmac.compare_digest(given.encode("utf-8", "replace"), own.encode())


class Keys:
    """Keys of first links: each opens the page once, so a history or a log that has one is of no use."""

    MOST = 32

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}

    def new(self) -> str:
        """Return another key; the oldest of too many is forgotten."""
        key = secrets.token_urlsafe(24)
        self._keys[key] = None
        while len(self._keys) > self.MOST:
            del self._keys[next(iter(self._keys))]
        return key

    def take(self, key: str) -> bool:
        """Tell whether `key` opens the page; it does so once."""
        return self._keys.pop(key, 0) is None


def headers(frame_ancestors: str = "'none'") -> dict[str, str]:
    """Return the headers of each answer.

    ``Referrer-Policy`` is ``same-origin``, because a browser writes ``Origin: null`` in a form's POST where it is
    ``no-referrer``; no other origin gets a referrer by either.
    """
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        f"font-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors {frame_ancestors}"
    )
    framed = {"X-Frame-Options": "DENY"} if frame_ancestors == "'none'" else {"X-Frame-Options": "SAMEORIGIN"}
    return framed | {
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
