"""A web server as the target of tunnels: small answers at once, 256 MiB for ``GET /large``, and a websocket's echo.

``service.py [N]`` listens on N ports of a server (default: 1), and prints them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import socket
import sys

SMALL = 100
LARGE = 256 << 20
CHUNK = bytes(1 << 20)
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            key = re.search(rb"(?i)^sec-websocket-key: *(\S+)", head, re.MULTILINE)
            if key is not None:
                await echo(reader, writer, key.group(1))
            length = LARGE if head.startswith(b"GET /large") else SMALL
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
            for start in range(0, length, len(CHUNK)):
                writer.write(CHUNK[: length - start])
                await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> None:
    """Send each message of a websocket back, as it came, until the connection ends; short ones only."""
    accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    writer.write(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    while True:
        first, length = await reader.readexactly(2)
        mask = await reader.readexactly(4)
        masked = await reader.readexactly(length & 0x7F)
        text = bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked))
        writer.write(bytes((first, len(text))) + text)


async def main(n: int) -> None:
    """Serve on free ports of 127.0.0.1, which are printed, a line each."""
    servers = [await asyncio.start_server(serve, "127.0.0.1", 0) for _ in range(n)]
    print("\n".join(str(server.sockets[0].getsockname()[1]) for server in servers), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
