"""A web server for tunnels to lead to: small answers at once, and 256 MiB for ``GET /large``; run on a server."""

from __future__ import annotations

import asyncio
import socket

SMALL = 100
LARGE = 256 << 20
CHUNK = bytes(1 << 20)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = LARGE if head.startswith(b"GET /large") else SMALL
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
            for start in range(0, length, len(CHUNK)):
                writer.write(CHUNK[: length - start])
                await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


async def main() -> None:
    """Serve on a free port of 127.0.0.1, which is printed."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
