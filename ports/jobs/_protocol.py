"""The frames that the compute resource, its clients and its slots exchange: a JSON object and blocks of bytes.

A frame is ``PJ01``, the length of its header and the number of its blocks (uint32 each), the header (JSON, UTF-8), the
length of each block (uint64), and the blocks. Numbers are in network byte order.

Standard library only: a child that runs jobs loads this file by path. What arrives is hostile until it is decoded: it
raises ProtocolError or becomes frames, and no more is kept than has arrived.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

MAGIC = b"PJ01"
PROTOCOL = 1
MOST_HEADER, MOST_BLOBS, MOST_BYTES = 16 * 2**20, 100_000, 2**30

_HEAD = struct.Struct("!4sII")


class ProtocolError(ValueError):
    """Bytes that are no frame, or a frame beyond the limits."""


class Frame(NamedTuple):
    """One frame: what is asked or answered, and the bytes that go with it."""

    header: dict[str, Any]
    blobs: list[bytes]


def encode(header: dict[str, Any], blobs: Iterable[bytes] = ()) -> bytes:
    """Return a frame as bytes.

    Raises
    ------
    ProtocolError
        It is beyond the limits, or the header is no JSON.
    """
    blobs = list(blobs)
    try:
        text = json.dumps(header, separators=(",", ":"), check_circular=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"the header is no JSON: {error}") from error
    lengths = [len(blob) for blob in blobs]
    _check(len(text), len(blobs), sum(lengths))
    head = _HEAD.pack(MAGIC, len(text), len(blobs))
    return b"".join((head, text, struct.pack(f"!{len(lengths)}Q", *lengths), *blobs))


def _check(n_header: int, n_blobs: int, n_bytes: int) -> None:
    """Raise ProtocolError for a frame beyond the limits."""
    if n_header > MOST_HEADER:
        raise ProtocolError(f"a header of {n_header} bytes; at most {MOST_HEADER} are allowed")
    if n_blobs > MOST_BLOBS:
        raise ProtocolError(f"a frame with {n_blobs} blocks; at most {MOST_BLOBS} are allowed")
    if n_bytes > MOST_BYTES:
        raise ProtocolError(f"blocks of {n_bytes} bytes in a frame; at most {MOST_BYTES} are allowed")


class Decoder:
    """Turns the bytes of one connection into frames, however they were cut. After an error it decodes nothing more."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._frames = self._decode()
        self._wanted = _HEAD.size  # bytes without which decoding cannot go on
        next(self._frames)
        self._failed: ProtocolError | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes.

        Raises
        ------
        ProtocolError
            `data` is no frame, or a frame is beyond the limits. Frames before it are lost: the connection must end.
        """
        if self._failed is not None:
            raise self._failed
        self._data += data
        found: list[Frame] = []
        try:
            while len(self._data) >= self._wanted:
                step = next(self._frames)
                if isinstance(step, Frame):
                    found.append(step)
                    step = next(self._frames)
                assert isinstance(step, int)
                self._wanted = step
        except ProtocolError as error:
            self._failed = error
            self._data.clear()
            raise
        return found

    @property
    def is_between(self) -> bool:
        """Whether no part of a frame has arrived yet."""
        return not self._data

    def _decode(self) -> Iterator[Frame | int]:
        """Yield how many bytes must be there to go on, and each frame."""
        while True:
            yield _HEAD.size
            magic, n_header, n_blobs = _HEAD.unpack_from(self._data)
            if magic != MAGIC:
                raise ProtocolError(f"no frame begins with {magic!r}")
            _check(n_header, n_blobs, 0)
            wanted = _HEAD.size + n_header
            yield wanted + 8 * n_blobs
            header = _object(bytes(self._data[_HEAD.size : wanted]))
            lengths = struct.unpack_from(f"!{n_blobs}Q", self._data, wanted)
            _check(n_header, n_blobs, sum(lengths))
            place = wanted + 8 * n_blobs
            yield place + sum(lengths)
            blobs = []
            with memoryview(self._data) as view:
                for length in lengths:
                    blobs.append(bytes(view[place : place + length]))
                    place += length
            del self._data[:place]
            yield Frame(header, blobs)


def _object(text: bytes) -> dict[str, Any]:
    """Return the JSON object that a header is."""
    try:
        found = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ProtocolError(f"the header is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ProtocolError(f"the header is no JSON object, but {type(found).__name__}")
    return found
