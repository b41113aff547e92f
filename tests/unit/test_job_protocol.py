"""The frames between the compute resource, its clients and its slots."""

from __future__ import annotations

import itertools
import json
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ports.jobs import _protocol
from ports.jobs._protocol import Decoder, Frame, ProtocolError, encode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
HEADERS = st.dictionaries(st.text(), JSON, max_size=5)
FRAMES = st.tuples(HEADERS, st.lists(st.binary(max_size=50), max_size=5))


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return `data` cut at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


def head(n_header: int, n_blobs: int = 0) -> bytes:
    """Return the first bytes of a frame."""
    return struct.pack("!4sII", b"PJ01", n_header, n_blobs)


@given(frames=st.lists(FRAMES, max_size=4), cuts=st.lists(st.integers(0, 10_000), max_size=8))
def test_frames_survive_the_wire_however_they_are_cut(frames: list[Any], cuts: list[int]) -> None:
    decoder = Decoder()
    data = b"".join(encode(header, blobs) for header, blobs in frames)
    found = [frame for piece in pieces(data, cuts) for frame in decoder.feed(piece)]
    assert found == [Frame(header, blobs) for header, blobs in frames]
    assert decoder.is_between


@given(parts=st.lists(st.binary(max_size=64) | st.just(b"PJ01") | FRAMES.map(lambda one: encode(*one)), max_size=6))
def test_hostile_bytes_raise_nothing_but_protocol_error(parts: list[bytes]) -> None:
    decoder = Decoder()
    try:
        for part in parts:
            decoder.feed(part)
    except ProtocolError:
        with pytest.raises(ProtocolError):
            decoder.feed(encode({}))  # the connection is over


@given(
    frame=FRAMES,
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3),
)
@settings(max_examples=200)
def test_a_changed_frame_raises_nothing_but_protocol_error(frame: Any, changes: list[tuple[int, int]]) -> None:
    data = bytearray(encode(*frame))
    for place, value in changes:
        data[place % len(data)] = value
    decoder = Decoder()
    try:
        decoder.feed(bytes(data))
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PJ02" + bytes(8),
        head(2**32 - 1),
        head(_protocol.MOST_HEADER + 1),
        head(2, _protocol.MOST_BLOBS + 1),
        head(2, 2) + b"{}" + struct.pack("!QQ", 2**63, 2**63),
        head(2, 1) + b"{}" + struct.pack("!Q", _protocol.MOST_BYTES + 1),
        head(2) + b"[]",
        head(4) + b"\xff\xff\xff\xff",
        head(100_000) + b'{"a":' + b"[" * 99_995,
        head(6_005) + b'{"a":' + b"9" * 5_999 + b"}",
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(data)


def test_a_frame_that_announces_a_gigabyte_takes_no_memory() -> None:
    decoder = Decoder()
    tracemalloc.start()
    try:
        decoder.feed(head(2, 1) + b"{}" + struct.pack("!Q", _protocol.MOST_BYTES))
        decoder.feed(head(_protocol.MOST_HEADER, _protocol.MOST_BLOBS))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_what_is_no_json_or_too_large_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="no JSON"):
        encode({"a": b"bytes"})
    with pytest.raises(ProtocolError, match="blocks"):
        encode({}, [b""] * (_protocol.MOST_BLOBS + 1))
    with pytest.raises(ProtocolError, match="header of"):
        encode({"a": "x" * _protocol.MOST_HEADER})


def test_a_path_that_is_not_utf8_travels() -> None:
    path = b"/data/\xff".decode("utf-8", "surrogateescape")
    (frame,) = Decoder().feed(encode({"directory": path}))
    assert frame.header == {"directory": path}
    assert json.dumps(frame.header)
