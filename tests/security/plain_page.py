"""A page as one writes it with tornado and no more thought: the control of the attacks on the page of `ports page`.

It asks for a cookie below ``/kept``, and for nothing elsewhere. Any method but GET is an act, and counted.
"""

import asyncio
import json

from tornado import web, websocket

COOKIE = "c0ffee" * 8
acts = []


class Page(web.RequestHandler):
    """Shows what is mine, and does what it is told."""

    def prepare(self):
        """Ask for the cookie where it is kept."""
        if self.request.path.startswith("/kept") and self.get_cookie("plain") != COOKIE:
            raise web.HTTPError(403)

    def get(self, *_):
        """Show it, or how often something was done."""
        if self.request.path == "/enter":
            self.set_cookie("plain", COOKIE, httponly=True, samesite="Lax")
        self.finish("my clusters <script>location</script>" if self.request.path != "/acts" else json.dumps(acts))

    def post(self, *_):
        """Do it."""
        acts.append(self.request.method)
        self.finish("done")

    put = delete = patch = post


class Live(websocket.WebSocketHandler):
    """Sends what is mine."""

    def check_origin(self, origin):
        """Let in everybody, as who wants to use it from another port does."""
        return True

    def open(self, *_):
        """Send it."""
        self.write_message("<main>my clusters</main>")


async def main():
    """Serve until the input ends."""
    app = web.Application([(r"/-/live", Live), (r"/(.*)", Page)], log_function=lambda _: None)
    server = app.listen(0, "127.0.0.1")
    print(next(iter(server._sockets.values())).getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
