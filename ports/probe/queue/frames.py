"""The frames that the compute resource, its clients and its slots exchange: a JSON object and blocks of bytes.

A frame is ``PJ01``, the length of its header and the number of its blocks (uint32 each), the header (JSON, UTF-8), the
length of each block (uint64), and the blocks. Numbers are in network byte order.

Standard library only, and no other file: a child that runs jobs loads this one by path. What arrives is hostile until
it is decoded: it raises ProtocolError or becomes frames, and no more is kept than has arrived.
"""

import json
import struct

MYPY = False
if MYPY:
    from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Tuple, Union

    Json = Dict[str, Any]

    class Frame(NamedTuple):
        """One frame: what is asked or answered, and the bytes that go with it."""

        header: Json
        blobs: List[bytes]

else:
    from collections import namedtuple

    Frame = namedtuple("Frame", "header blobs")

MAGIC = b"PJ01"
PROTOCOL = 1
MOST_HEADER, MOST_BLOBS, MOST_BYTES = 16 * 2**20, 100000, 2**30
HEAD = struct.Struct("!4sII")
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode  # `json.dumps` makes one each time


class ProtocolError(ValueError):
    """Bytes that are no frame, or a frame beyond the limits."""


def encode(header: "Json", blobs: "Iterable[bytes]" = ()) -> bytes:
    """Return a frame as bytes.

    Raises
    ------
    ProtocolError
        It is beyond the limits, or the header is no JSON.
    """
    blobs = list(blobs)
    try:
        text = _to_json(header).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError("the header is no JSON: %s" % error) from error
    lengths = [len(blob) for blob in blobs]
    check_limits(len(text), len(blobs), sum(lengths))
    head = HEAD.pack(MAGIC, len(text), len(blobs))
    return b"".join((head, text, struct.pack("!%dQ" % len(lengths), *lengths), *blobs))


def check_limits(n_header: int, n_blobs: int, n_bytes: int) -> None:
    """Raise ProtocolError for a frame beyond the limits."""
    if n_header > MOST_HEADER:
        raise ProtocolError("a header of %d bytes; at most %d are allowed" % (n_header, MOST_HEADER))
    if n_blobs > MOST_BLOBS:
        raise ProtocolError("a frame with %d blocks; at most %d are allowed" % (n_blobs, MOST_BLOBS))
    if n_bytes > MOST_BYTES:
        raise ProtocolError("blocks of %d bytes in a frame; at most %d are allowed" % (n_bytes, MOST_BYTES))


def numbers_of(data: bytearray) -> "Tuple[int, int]":
    """Return the length of the header, and how many blobs there are, of the frame with which `data` begins.

    Raises
    ------
    ProtocolError
        No frame begins so, or it is beyond the limits.
    """
    magic, n_header, n_blobs = HEAD.unpack_from(data)
    if magic != MAGIC:
        raise ProtocolError("no frame begins with %r" % magic)
    check_limits(n_header, n_blobs, 0)
    return n_header, n_blobs


class Decoder:
    """Turns the bytes of one connection into frames, however they were cut. After an error it decodes nothing more."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._frames = self._decode()
        self._wanted = HEAD.size  # bytes without which decoding cannot go on
        next(self._frames)
        self._failed = None  # type: Any

    def feed(self, data: bytes) -> "List[Frame]":
        """Return the frames that `data` completes.

        Raises
        ------
        ProtocolError
            `data` is no frame, or a frame is beyond the limits. Frames before it are lost: the connection must end.
        """
        if self._failed is not None:
            raise self._failed
        self._data += data
        found = []  # type: List[Frame]
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

    def _decode(self) -> "Iterator[Union[Frame, int]]":
        """Yield how many bytes must be there to go on, and each frame."""
        while True:
            yield HEAD.size
            n_header, n_blobs = numbers_of(self._data)
            wanted = HEAD.size + n_header
            yield wanted + 8 * n_blobs
            header = header_of(bytes(self._data[HEAD.size : wanted]))
            lengths = struct.unpack_from("!%dQ" % n_blobs, self._data, wanted)
            check_limits(n_header, n_blobs, sum(lengths))
            place = wanted + 8 * n_blobs
            yield place + sum(lengths)
            blobs = []
            with memoryview(self._data) as view:
                for length in lengths:
                    blobs.append(bytes(view[place : place + length]))
                    place += length
            del self._data[:place]
            yield Frame(header, blobs)


def header_of(text: bytes) -> "Json":
    """Return the JSON object that a header is; raises ProtocolError."""
    try:
        found = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ProtocolError("the header is no JSON: %s" % error) from error
    if not isinstance(found, dict):
        raise ProtocolError("the header is no JSON object, but %s" % type(found).__name__)
    return found


class Cutter:
    """Says of the bytes of one connection where a frame ends, and keeps none but those of the present one's header.

    Bytes go on as they come, however large the frame is; between two frames others can be sent. Without `reads`, no
    header is decoded.
    """

    def __init__(self, reads: bool = True) -> None:
        self._reads = reads
        self._head = bytearray()
        self._wanted = HEAD.size
        self._steps = self._cut()
        next(self._steps)
        self._left = 0  # bytes of the blocks that are still to come
        self.header = None  # type: Any  # of the present frame, once it is known
        self.n_bytes = 0  # of its blocks

    @property
    def is_between(self) -> bool:
        """Whether no part of a frame has come."""
        return self.header is None and not self._head

    def take(self, data: "memoryview") -> "Tuple[int, bool]":
        """Take bytes of one frame; return how many, and whether the frame ends with them; raises ProtocolError."""
        if self.header is None:
            n = min(len(data), self._wanted - len(self._head))
            self._head += data[:n]
            if len(self._head) == self._wanted:
                self._wanted = next(self._steps)
            is_over = self.header is not None and not self._left
        else:
            n = min(len(data), self._left)
            self._left -= n
            is_over = not self._left
        return n, is_over

    def next_frame(self) -> None:
        """Forget the frame that has ended."""
        self.header = None

    def _cut(self) -> "Iterator[int]":
        """Yield how many bytes of the head must be there to go on."""
        while True:
            yield HEAD.size
            n_header, n_blobs = numbers_of(self._head)
            wanted = HEAD.size + n_header
            if n_header + n_blobs:
                yield wanted + 8 * n_blobs
            lengths = struct.unpack_from("!%dQ" % n_blobs, self._head, wanted)
            check_limits(n_header, n_blobs, sum(lengths))
            self.header = header_of(bytes(self._head[HEAD.size : wanted])) if self._reads else {}
            self.n_bytes = self._left = sum(lengths)
            self._head.clear()
