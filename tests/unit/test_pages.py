"""The page that stands in for a service whose way is down."""

from __future__ import annotations

import pytest

from ports.tunnels._down_page import Page, answer


@pytest.mark.parametrize(("method", "reloads"), [(b"GET", True), (b"POST", False)])
def test_a_page_says_that_it_reloads_by_itself_where_it_does(method: bytes, reloads: bool) -> None:
    request = method + b" / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n"
    page = answer(Page("The connection to server1 is down"), request).decode()
    assert ("location.reload()" in page, "reloads by itself" in page, "send it again" in page) == (
        reloads,
        reloads,
        not reloads,
    )
