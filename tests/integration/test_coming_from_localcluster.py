"""The page "Coming from LocalCluster": its lines run as they stand, one after the other."""

from __future__ import annotations

import ast
import asyncio
import copy
import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest

from ports import clusters
from tests.integration.conftest import Home

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]

PAGE = Path(__file__).parents[2] / "docs/coming-from-localcluster.md"


@pytest.fixture
def own_config() -> Iterator[None]:
    """Undo what the page sets in Dask's configuration."""
    before = copy.deepcopy(dask.config.config)
    yield
    dask.config.config.clear()
    dask.config.config.update(before)


def test_every_python_line_of_the_page_runs(home: Home, own_config: None) -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    known: dict[str, object] = {}

    async def run_all() -> None:
        for block in blocks:
            code = compile(block, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if code.co_flags & inspect.CO_COROUTINE:
                await eval(code, known)
            else:
                await asyncio.to_thread(exec, code, known)  # Dask's own client wants a thread without a loop

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(run_all())
    told = [str(one.message) for one in caught if "ports" in str(one.message)]
    # what the page says of a cluster that runs with other values, and of nothing else
    assert told != [] and [one for one in told if "dask's distributed.worker.memory.target" not in one] == []
    assert len(blocks) == 14
    assert clusters.list() == []
