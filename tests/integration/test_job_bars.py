"""Progress bars of jobs in a notebook's kernel: one bar, no warning, whether there are widgets or not."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("ipykernel", reason="a notebook needs a kernel")

pytestmark = pytest.mark.ci

CODE = """
from ports.jobs import _progress
_progress._DELAY = 0
with _progress.bar(300, "night-1", None) as count:
    for _ in range(300):
        count(1)
"""


def test_a_notebook_shows_one_bar_and_no_warning() -> None:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    told: list[dict[str, Any]] = []
    try:
        reply = client.execute_interactive(CODE, output_hook=told.append, timeout=60)
        assert reply["content"]["status"] == "ok", told
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    printed = "".join(one["content"]["text"] for one in told if one["msg_type"] == "stream")
    widgets = [one for one in told if one["msg_type"] == "display_data"]
    assert len(widgets) == 1 or (printed.count("\n") == 1 and "300/300" in printed and "night-1" in printed)
    assert "Warning" not in printed
