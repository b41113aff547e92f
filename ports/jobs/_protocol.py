"""The frames of jobs, which also a program that is piped to another host speaks: see `ports.probe.frames`."""

from __future__ import annotations

from ports.probe import frames

MAGIC, PROTOCOL = frames.MAGIC, frames.PROTOCOL
MOST_HEADER, MOST_BLOBS, MOST_BYTES = frames.MOST_HEADER, frames.MOST_BLOBS, frames.MOST_BYTES
Decoder = frames.Decoder
Frame = frames.Frame
ProtocolError = frames.ProtocolError
encode = frames.encode

__all__ = [
    "MAGIC", "MOST_BLOBS", "MOST_BYTES", "MOST_HEADER", "PROTOCOL",
    "Decoder", "Frame", "ProtocolError", "encode",
]  # fmt: skip
