"""What `ports` adds to a Jupyter server in whose environment it is installed: the page, at ``/ports/``.

The file ``etc/jupyter/jupyter_server_config.d/ports.web.json``, which is installed with `ports`, enables it. It has the
name that ``jupyter server extension disable`` writes: if there were two files, the one with the later name would win.

>>> import ports.web
>>> ports.web._jupyter_server_extension_points()
[{'module': 'ports.web'}]
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "ports.web"}]


def _load_jupyter_server_extension(server: Any) -> None:
    import os

    from ports.listeners import announcement
    from ports.state import paths
    from ports.web import _dashboard_route, _jupyter, _labextension_cluster

    base_url = server.web_app.settings["base_url"]
    server.web_app.add_handlers(".*$", [*_jupyter.handlers(base_url), *_dashboard_route.handlers(base_url)])
    server.web_app.settings.setdefault("page_config_data", {})["portsHost"] = paths.host_name()
    _labextension_cluster.base_url = base_url
    os.environ |= announcement(base_url)
