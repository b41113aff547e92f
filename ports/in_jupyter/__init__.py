"""What `ports` adds to a Jupyter server in whose environment it is installed: the route ``/ports/<name>``.

``etc/jupyter/jupyter_server_config.d/ports.json`` enables it, which is installed with `ports`.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "ports.in_jupyter"}]


def _load_jupyter_server_extension(server: Any) -> None:
    from ports.in_jupyter import route

    server.web_app.add_handlers(".*$", route.handlers(server.web_app.settings["base_url"]))
