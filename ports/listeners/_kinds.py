"""What is known of a listener by its kind, beside how the probe recognises it (`ports.probe.recognise.KINDS`). Pure."""

from __future__ import annotations

from ports.sessions import FOLDERS

#: What `ports` starts. Such a listener has a name of its own, comes first in a listing, and is opened with its host.
SESSIONS = tuple(FOLDERS)
#: Those that have a page.
PAGES = tuple(kind for kind in SESSIONS if kind != "resource")
#: What takes a request for a message of its protocol, or for an intrusion: a tunnel only waits for what it says.
NEVER_ASKED = frozenset(("dask-scheduler", "dask-worker", "kernel", "debugpy", "database", "tunnel"))
#: The options that make a program listen on this machine only.
LOOPBACK_OPTIONS = {
    "notebook": "--ip=127.0.0.1",
    "tensorboard": "--host 127.0.0.1",
    "mlflow": "--host 127.0.0.1",
    "bokeh": "--address 127.0.0.1",
    "panel": "--address 127.0.0.1",
    "streamlit": "--server.address 127.0.0.1",
    "http-server": "--bind 127.0.0.1",
    "code-server": "--bind-addr 127.0.0.1",
}


def is_session(kind: str | None) -> bool:
    """Tell whether `ports` starts listeners of this kind, which have a page."""
    return kind in PAGES


def is_asked(kind: str, http: bool | None) -> bool:
    """Tell whether a listener gets an HTTP request, to prove that it answers.

    Parameters
    ----------
    http : bool or None
        Whether it was seen to speak HTTP; None where that is not known.
    """
    return http is True or (http is None and kind not in NEVER_ASKED)
