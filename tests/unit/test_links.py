"""Local ports, URLs and targets."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports import hosts
from ports.errors import InvalidTargetError
from ports.hosts import targets
from ports.hosts.targets import Target
from ports.listeners import links
from ports.tunnels._group import check_targets
from ports.tunnels._local_address import LocalAddress

TEXTS = st.text(max_size=40)


@given(machine=TEXTS, user=TEXTS, name=TEXTS)
def test_a_name_gets_the_same_port_in_the_range_each_time(machine: str, user: str, name: str) -> None:
    port = links.local_port(machine, user, name, 20000, 32000)
    assert port == links.local_port(machine, user, name, 20000, 32000)
    assert 20000 <= port <= 32000


def test_the_port_of_a_name_is_never_another_one() -> None:
    # it stands in notebooks and bookmarks
    assert links.local_port("0123456789abcdef0123456789abcdef", "alice", "cluster-main", 20000, 32000) == 20838


def test_users_and_names_are_told_apart() -> None:
    ports = {links.local_port("m", user, name, 20000, 32000) for user in ("alice", "bob") for name in ("a", "b", "ab")}
    assert len(ports) == 6


@given(st.integers(20000, 20010))
def test_the_next_ports_go_round_and_never_offer_the_usual_one(usual: int) -> None:
    offered = list(links.next_ports(usual, 20000, 20010))
    assert sorted([usual, *offered]) == list(range(20000, 20011))


@given(token=st.text(min_size=1))
def test_a_token_survives_the_url(token: str) -> None:
    found = urlsplit(links.url(20001, path="lab", token=token))
    assert (found.hostname, found.port, found.path) == ("localhost", 20001, "/lab")
    assert parse_qs(found.query, strict_parsing=True) == {"token": [token]}


def test_a_link_without_token_or_path_is_plain() -> None:
    assert links.url(20001) == "http://localhost:20001/"
    assert links.url(20001, scheme="https", path="/status") == "https://localhost:20001/status"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("server1", Target("server1")),
        ("alice@server1.site", Target("alice@server1.site")),
        ("server1:main", Target("server1", "main")),
        ("server1:6006", Target("server1", port=6006)),
        ("server1:my-lab-8888", Target("server1", "my-lab-8888")),
        ("[fe80::1]:8888", Target("[fe80::1]", port=8888)),
        ("alice@::1", Target("alice@::1")),
        ("server1/node7:lab", Target("server1/node7", "lab")),
    ],
)
def test_a_target_is_a_host_a_name_or_a_port(text: str, target: Target) -> None:
    assert targets.parse(text) == target
    assert str(target) == text


@pytest.mark.parametrize(
    "text", ["", ":6006", "server1:", "server1:0", "server1:65536", "-x", "a b", "server1:a b", "http://server1/"]
)
def test_what_is_no_target_is_told_with_what_to_write(text: str) -> None:
    with pytest.raises(InvalidTargetError, match="write HOST, HOST:NAME or HOST:PORT"):
        targets.parse(text)


@pytest.mark.parametrize(
    "text", [r"LAB\alice@server1", "::1", "alice@[::1]", "ssh://alice@login", "ssh://alice@[fe80::1]:2222"]
)
def test_open_takes_each_host_that_list_takes(text: str) -> None:
    ((alias, wanted),) = check_targets([text], LocalAddress(), None).items()
    assert [(one.name, one.port) for one in wanted] == [(None, None)]
    assert hosts.resolve(alias).end.key == hosts.resolve(text).end.key


def test_ssh_before_a_target_is_left_out() -> None:
    assert targets.parse("ssh://alice@server1:lab") == Target("alice@server1", "lab")
    assert targets.parse("ssh://alice@server1:2222") == Target("ssh://alice@server1:2222")
    assert targets.parse("ssh://alice@server1:2222:lab") == Target("ssh://alice@server1:2222", "lab")
    assert targets.parse("server1:22") == Target("server1", port=22)


@given(st.text())
def test_no_text_breaks_the_reading_of_a_target(text: str) -> None:
    try:
        assert str(targets.parse(text)) == text or text.partition(":")[2].isdigit()
    except InvalidTargetError:
        pass
