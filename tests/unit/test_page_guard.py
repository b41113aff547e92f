"""The rules by which the page lets a request in."""

from __future__ import annotations

from typing import Any

import pytest

from ports.web import _guard
from ports.web._guard import Asked, Door, Keys

PORT = Door(authority="127.0.0.1:8123", uids=frozenset({1000}), cookie="c" * 43, form_token="f" * 43)
SOCKET = Door(authority=None, uids=frozenset({1000}), cookie="c" * 43, form_token="f" * 43)
OWN: dict[str, Any] = {"host": "127.0.0.1:8123", "cookie": "c" * 43, "uid": 1000}
FORM = OWN | {"method": "POST", "path": "/-/do", "origin": "http://127.0.0.1:8123", "form_token": "f" * 43}


@pytest.mark.parametrize(
    "asked",
    [
        OWN,
        OWN | {"uid": None},  # macOS, and a browser of Windows beside WSL
        OWN | {"site": "none", "mode": "navigate", "dest": "document"},
        OWN | {"site": "cross-site", "mode": "navigate", "dest": "document"},  # a link in another page
        OWN | {"site": "same-origin", "path": "/-/thing"},
        OWN | {"path": "/-/live", "is_websocket": True, "origin": "http://127.0.0.1:8123"},
        {"host": "127.0.0.1:8123", "uid": 1000, "path": "/-/in"},
        FORM,
    ],
)
def test_what_the_own_browser_asks_comes_in(asked: dict[str, Any]) -> None:
    assert _guard.refusal(Asked(**asked), PORT) is None


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        (OWN | {"uid": 1001}, 403, "another user"),
        (OWN | {"uid": 0}, 403, "another user"),
        (OWN | {"uid": -2}, 403, "another user"),  # the other end is gone
        (FORM | {"uid": 1001}, 403, "another user"),
        (OWN | {"host": "localhost:8123"}, 403, "own address"),
        (OWN | {"host": "evil.example:8123"}, 403, "own address"),
        (OWN | {"host": "127.0.0.1:8124"}, 403, "own address"),
        (OWN | {"host": "127.0.0.1"}, 403, "own address"),
        (OWN | {"host": ""}, 403, "own address"),
        (OWN | {"host": "127.0.0.1:8123.evil.example"}, 403, "own address"),
        *[(OWN | {"method": method}, 405, "GET only") for method in ("POST", "PUT", "DELETE", "HEAD", "X", "")],
        *[(FORM | {"method": method}, 405, "POST only") for method in ("GET", "PUT", "DELETE", "OPTIONS")],
        (OWN | {"origin": "http://evil.example"}, 403, "another page"),
        (OWN | {"path": "/-/live", "is_websocket": True}, 403, "another page"),
        (OWN | {"path": "/-/live", "is_websocket": True, "origin": "http://localhost:8123"}, 403, "another page"),
        (OWN | {"site": "cross-site", "mode": "no-cors", "dest": "image"}, 403, "another page"),
        (OWN | {"site": "cross-site", "mode": "navigate", "dest": "iframe"}, 403, "another page"),
        (OWN | {"site": "same-site", "mode": "cors", "dest": "empty"}, 403, "another page"),
        (OWN | {"site": "cross-site", "mode": "navigate", "dest": "document", "path": "/-/go"}, 403, "another page"),
        (FORM | {"origin": None}, 403, "another page"),
        (FORM | {"origin": "null"}, 403, "another page"),
        (FORM | {"origin": "http://127.0.0.1:9999"}, 403, "another page"),
        (FORM | {"origin": "https://127.0.0.1:8123"}, 403, "another page"),
        (FORM | {"form_token": None}, 403, "load it again"),
        (FORM | {"form_token": "é" * 43}, 403, "load it again"),
        (OWN | {"cookie": None}, 403, "no access"),
        (OWN | {"cookie": ""}, 403, "no access"),
        (OWN | {"cookie": "c" * 42}, 403, "no access"),
    ],
)
def test_what_another_asks_is_refused(asked: dict[str, Any], status: int, says: str) -> None:
    refused = _guard.refusal(Asked(**asked), PORT)
    assert refused is not None
    assert (refused.status, says in refused.reason) == (status, True), refused


def test_a_unix_socket_has_no_cookie_and_any_port_at_home() -> None:
    over = {"host": "127.0.0.1:20417", "uid": 1000}
    assert _guard.refusal(Asked(**over), SOCKET) is None
    form = over | {"method": "POST", "path": "/-/do", "origin": "http://127.0.0.1:20417", "form_token": "f" * 43}
    assert _guard.refusal(Asked(**form), SOCKET) is None
    for wrong in ({"host": "localhost:20417"}, {"host": "server1"}, {"host": "127.0.0.1:2:3"}, {"uid": 1001}):
        assert _guard.refusal(Asked(**{**over, **wrong}), SOCKET) is not None, wrong
    for wrong in ({"form_token": None}, {"origin": "http://127.0.0.1:20418"}):
        assert _guard.refusal(Asked(**{**form, **wrong}), SOCKET) is not None, wrong


def test_a_key_opens_once_and_old_ones_are_forgotten() -> None:
    keys = Keys()
    first, second = keys.new(), keys.new()
    assert not keys.take("")
    assert keys.take(second)
    assert not keys.take(second)
    for _ in range(Keys.MOST):
        keys.new()
    assert not keys.take(first)


def test_the_headers_let_nothing_inline_run_and_nobody_frame() -> None:
    own, in_jupyter = _guard.headers(), _guard.headers("'self'")
    assert "unsafe" not in own["Content-Security-Policy"]
    assert own["Content-Security-Policy"].endswith("frame-ancestors 'none'")
    assert in_jupyter["X-Frame-Options"] == "SAMEORIGIN"
    assert own["Cache-Control"] == "no-store"


def test_a_secret_shows_in_no_representation() -> None:
    assert "c" * 43 not in repr(PORT)
    assert "f" * 43 not in repr(PORT)
