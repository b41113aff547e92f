"""Frames and channels of the session with the program on a host, without a host."""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import os
import socket
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports.probe import piped
from ports.probe.agent import dial, view
from ports.probe.agent import views as agent_views
from ports.probe.agent.dial import Dialer
from ports.probe.agent.mux import (
    CLOSE,
    CONTROL,
    DATA,
    DOCUMENT,
    HEADER,
    HIGH,
    OPEN,
    PONG,
    REFUSED,
    WINDOW,
    Channel,
    Mux,
)
from ports.probe.programs.agent import Poller
from ports.probe.socket_users import address_of

FRAMES = st.lists(
    st.tuples(
        st.sampled_from([CONTROL, DOCUMENT, PONG, OPEN, CLOSE]), st.integers(0, 2**32 - 1), st.binary(max_size=50)
    ),
    max_size=10,
)


class Nothing:
    """A loop in which nothing happens."""

    def on_read(self, fd: int, callback: Callable[[], None] | None) -> None:
        """Ignore it."""

    on_write = on_read


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 600), max_size=8))
def test_frames_are_read_wherever_the_stream_is_cut(frames: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    taken: list[tuple[int, int, bytes]] = []
    mux = Mux(Nothing(), (0, 1), lambda *frame: taken.append(frame), lambda reason: None)
    stream = b"".join(HEADER.pack(kind, number, len(payload)) + payload for kind, number, payload in frames)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(places):
        mux.feed(stream[start:end])
    assert taken == frames


@pytest.mark.parametrize("broken", [HEADER.pack(0, 0, 0), HEADER.pack(99, 0, 0), HEADER.pack(CONTROL, 0, 2**31)])
def test_what_is_no_frame_ends_the_session(broken: bytes) -> None:
    ended: list[str] = []
    Mux(Nothing(), (0, 1), lambda *frame: None, ended.append).feed(broken)
    assert ended == ["the other end sent no frame"]


class Pair:
    """Both ends of a session, in one loop."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.ends = socket.socketpair()
        for end in self.ends:
            end.setblocking(False)
        self.ended: list[str] = []
        self.frames: list[tuple[int, int, bytes]] = []
        self.muxes = [
            Mux(self.poller, (end.fileno(), end.fileno()), lambda *frame: self.frames.append(frame), self.ended.append)
            for end in self.ends
        ]
        self.sockets: list[socket.socket] = []

    def channel(self, number: int) -> tuple[socket.socket, socket.socket]:
        """Return the two ends of a connection: a browser's and a service's."""
        outer = []
        for mux in self.muxes:
            mine, theirs = socket.socketpair()
            theirs.setblocking(False)
            Channel(mux, number, mine)
            outer.append(theirs)
        self.sockets += outer
        return outer[0], outer[1]

    def run(self) -> None:
        """Turn the loop until nothing happens any more."""
        over: list[bool] = []
        self.poller.later(0.2, lambda: over.append(True))
        while not over:
            self.poller.turn()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    for mux in made.muxes:
        mux.end("the test is over")
    for end in (*made.ends, *made.sockets):
        end.close()
    made.poller.selector.close()


def test_a_stalled_reader_stops_its_own_writer_only(pair: Pair) -> None:
    service, slow = pair.channel(1)
    sent, before = 0, -1
    while sent > before:
        before = sent
        with contextlib.suppress(BlockingIOError):
            while sent < 4 * WINDOW:
                sent += service.send(bytes(1 << 16))
        pair.run()
    assert WINDOW <= sent <= WINDOW + (2 << 20)  # beyond the window, what the sockets on both sides hold
    assert all(mux.unsent < HIGH + (1 << 17) for mux in pair.muxes)
    fast, browser = pair.channel(2)
    fast.send(b"beside it")
    pair.run()
    assert browser.recv(100) == b"beside it"
    read = 0
    for _ in range(40):
        with contextlib.suppress(BlockingIOError):
            while found := slow.recv(1 << 20):
                read += len(found)
        if read == sent + 9:
            break
        if read == sent:
            service.send(b"and after")
        pair.run()
    assert read == sent + 9


def test_the_end_of_one_direction_is_passed_on_and_the_other_goes_on(pair: Pair) -> None:
    browser, service = pair.channel(1)
    browser.send(b"request")
    browser.shutdown(socket.SHUT_WR)
    pair.run()
    assert (service.recv(100), service.recv(100)) == (b"request", b"")
    service.send(b"answer")
    service.close()
    pair.run()
    assert (browser.recv(100), browser.recv(100)) == (b"answer", b"")
    assert [len(mux.channels) for mux in pair.muxes] == [0, 0]


def test_a_browser_that_has_gone_ends_what_the_service_still_sends(pair: Pair) -> None:
    browser, service = pair.channel(1)
    browser.close()
    pair.run()
    service.send(b"nobody reads this")
    pair.run()
    assert [len(mux.channels) for mux in pair.muxes] == [0, 0]
    with pytest.raises(OSError):
        service.send(b"more")


def test_the_end_of_the_session_closes_all_channels_and_is_told_once(pair: Pair) -> None:
    browser, _ = pair.channel(1)
    pair.muxes[1].end("cut")
    os.close(pair.ends[1].detach())
    pair.run()
    assert sorted(pair.ended) == ["", "cut"]
    assert browser.recv(100) == b""


def test_data_of_a_channel_that_is_closed_is_left_out() -> None:
    ended: list[str] = []
    taken: list[int] = []
    mux = Mux(Nothing(), (0, 1), lambda kind, number, payload: taken.append(kind), ended.append)
    mux.feed(HEADER.pack(DATA, 7, 3) + b"abc" + HEADER.pack(PONG, 0, 0))
    assert (ended, taken) == ([], [PONG])


def test_a_listener_that_changes_hands_during_connect_gets_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    holders = iter([(os.getuid(), 1), (os.getuid(), 2)])
    monkeypatch.setattr(dial, "holder_of", lambda remote: next(holders))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        request = {"remote": f"127.0.0.1:{listener.getsockname()[1]}", "owner": None}
        Dialer(pair.poller, pair.muxes[0]).open(1, json.dumps(request).encode())
        pair.run()
        ((kind, number, payload),) = pair.frames
        assert (kind, number) == (REFUSED, 1)
        assert "changed hands just now" in json.loads(payload)["reason"]
        listener.settimeout(5)
        assert listener.accept()[0].recv(100) == b""


class Frames:
    """Stands for a session: what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, kind: int, number: int, payload: bytes) -> None:
        """Keep a frame, read."""
        self.sent.append(json.loads(zlib.decompress(payload) if kind == DOCUMENT else payload))

    def wait(self, number: int, resume: object) -> bool:
        """Take everything."""
        return False


def test_a_look_brings_a_day_of_points_and_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_views, "loaded", lambda message: {"serve": view.serve})  # it is here already
    poller, frames = Poller(), Frames()
    views = agent_views.Views(poller, frames)
    for at in range(1, 6000):
        views.history.ring.add(at * 15.0, 2**40 + at, at / 7)
    views.take({"type": "view", "id": 1})
    views.take({"type": "code", "is_code": False, "code": ""})
    try:
        views.take({"type": "view", "id": 2, "who": True, "since": {"machine": 15.0}})
        while len(frames.sent) < 3:
            poller.turn()
        views.take({"type": "view", "id": 3, "since": {"machine": 15.0 * 5998}})
        while len(frames.sent) < 5:
            poller.turn()
    finally:
        views.close()
    refused, day, first, point, second = frames.sent
    assert (refused["id"], refused["error"]) == (1, "it has no code")
    assert (day["type"], day["id"], len(day["points"])) == ("points", 2, 5760)
    assert (first["type"], first["id"], first["who"]["uid"]) == ("view", 2, os.getuid())
    assert point["points"] == [[15 * 5999, 2**40 + 5999, 857]] and second["who"] is None


def test_the_process_that_looks_ends_when_nobody_has_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_views, "loaded", lambda message: {"serve": view.serve})
    poller, frames = Poller(), Frames()
    views = agent_views.Views(poller, frames)
    views.take({"type": "code", "is_code": False, "code": ""})
    try:
        for number in (1, 2):  # the second look starts another process
            views.take({"type": "view", "id": number})
            pid = views.process[0]
            while len(frames.sent) < 2 * number:
                views.sample()
                poller.turn()
            views.sample()
            assert views.process[0] == pid
            views.asked_at -= agent_views.UNSEEN_SECONDS + 1
            views.sample()
            assert views.process is None
            while views.left:
                views.reap()
    finally:
        views.close()
    assert [one["id"] for one in frames.sent] == [1, 1, 2, 2]


def names_of(name: str) -> Counter[str]:
    """Return the names that a file defines."""
    tree = ast.parse((Path(piped.__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    names = Counter(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    targets = [node.targets for node in tree.body if isinstance(node, ast.Assign)]
    found = {leaf.id for group in targets for one in group for leaf in ast.walk(one) if isinstance(leaf, ast.Name)}
    names.update(found - {"MYPY"})
    return names


@pytest.mark.parametrize("pieces", [piped.FILES, piped.MORE], ids=["first", "later"])
def test_no_file_of_the_program_takes_a_name_of_another(pieces: dict[str, tuple[str, ...]]) -> None:
    names = sum(map(names_of, pieces["agent"]), Counter[str]())
    assert {name for name, count in names.items() if count > 1} <= {"main"}  # the last one is meant


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("127.0.0.1:8888", (socket.AF_INET, "127.0.0.1", 8888)),
        ("localhost:80", (socket.AF_INET, "127.0.0.1", 80)),
        ("[::1]:65535", (socket.AF_INET6, "::1", 65535)),
        ("[0:0::1]:1", (socket.AF_INET6, "::1", 1)),
    ],
)
def test_an_address_is_read(remote: str, address: tuple[int, str, int]) -> None:
    assert address_of(remote) == address


@pytest.mark.parametrize(
    "remote", ["", "127.0.0.1", "::1:80", "127.0.0.1:0", "127.0.0.1:65536", "example.org:80", "1.2.3:80", "[x]:1", "a"]
)
def test_what_is_no_address_is_refused(remote: str) -> None:
    with pytest.raises(ValueError, match="address"):
        address_of(remote)
