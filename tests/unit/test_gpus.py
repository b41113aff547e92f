"""GPUs: who uses them, and which a cluster gets. There is none here: a binding of NVML stands in, at its edge only."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ports import gpus
from ports.adapters import nvml
from ports.adapters.nvml import Gpu
from ports.errors import UsageError

GiB = 2**30


def fake_binding(devices: list[dict[str, Any]], *, old: bool = False) -> types.ModuleType:
    """Return a module with the calls of NVML's binding that the adapter makes, over `devices`."""
    module: Any = types.ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def missing(handle: int) -> None:
        raise NVMLError("Not Supported")

    def record(**values: Any) -> types.SimpleNamespace:
        return types.SimpleNamespace(**values)

    module.NVMLError = NVMLError
    module.nvmlInit = module.nvmlShutdown = lambda: None
    module.nvmlDeviceGetCount = lambda: len(devices)
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetUUID = lambda handle: devices[handle]["uuid"].encode() if old else devices[handle]["uuid"]
    module.nvmlDeviceGetName = lambda handle: b"Old" if old else "New"
    module.nvmlDeviceGetMemoryInfo = lambda handle: record(total=16 * GiB, used=devices[handle]["used"])
    module.nvmlDeviceGetUtilizationRates = missing if old else lambda handle: record(gpu=93, memory=20)
    module.nvmlDeviceGetComputeRunningProcesses = lambda handle: [
        record(pid=pid, usedGpuMemory=used) for pid, used in devices[handle]["processes"].items()
    ]
    module.nvmlDeviceGetGraphicsRunningProcesses = missing
    return module


def test_gpus_are_listed_with_their_users(monkeypatch: pytest.MonkeyPatch) -> None:
    used = {os.getpid(): 3 * GiB, os.getppid(): None, 2**22 + 5: 1 * GiB}
    binding = fake_binding([{"uuid": "GPU-aaaa", "used": 4 * GiB, "processes": used}])
    monkeypatch.setitem(sys.modules, "pynvml", binding)
    (row,) = gpus.rows()
    assert (row["index"], row["uuid"], row["name"], row["busy"]) == (0, "GPU-aaaa", "New", 93)
    assert row["memory_bytes"] == 16 * GiB
    assert row["users"].pop("others") == GiB  # a process that is not to be seen
    assert sum(row["users"].values()) == 3 * GiB


def test_an_older_binding_and_a_model_that_tells_less_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_binding([{"uuid": "GPU-a", "used": 0, "processes": {}}], old=True))
    (found,) = nvml.gpus()
    assert (found.uuid, found.name, found.busy) == ("GPU-a", "Old", None)


def test_without_binding_or_driver_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.gpus() == ()
    binding: Any = fake_binding([])

    def no_driver() -> None:
        raise binding.NVMLError("Driver Not Loaded")

    binding.nvmlInit = no_driver
    monkeypatch.setitem(sys.modules, "pynvml", binding)
    assert nvml.gpus() == ()
    assert gpus.rows() == []


FOUR = tuple(Gpu(index=index, uuid=f"GPU-{letter * 4}", name="New") for index, letter in enumerate("abcd"))


def choose(each: int, n_workers: int | str | None = None, visible: str | None = None, **others: int) -> Any:
    return gpus.choose(FOUR, each, n_workers, others={f"GPU-{key}": n for key, n in others.items()}, visible=visible)


def test_workers_get_the_gpus_that_nobody_else_uses() -> None:
    assert choose(1, aaaa=2) == {"n_workers": 3, "gpu_ids": ("GPU-bbbb", "GPU-cccc", "GPU-dddd")}
    assert choose(2, aaaa=1) == {"n_workers": 1, "gpu_ids": ("GPU-bbbb", "GPU-cccc")}
    assert choose(1, 4, aaaa=1)["gpu_ids"] == ("GPU-bbbb", "GPU-cccc", "GPU-dddd", "GPU-aaaa")
    assert choose(1, "all", aaaa=1)["n_workers"] == 4


def test_the_starters_own_limits_hold() -> None:
    assert choose(1, visible="1, 3")["gpu_ids"] == ("GPU-bbbb", "GPU-dddd")
    assert choose(1, visible="GPU-cccc")["gpu_ids"] == ("GPU-cccc",)
    with pytest.raises(UsageError, match="none that NVML knows in CUDA_VISIBLE_DEVICES="):
        choose(1, visible="")


def test_more_than_there_are_is_refused_with_the_number() -> None:
    with pytest.raises(UsageError, match="gpus is 2 for each of 3 workers, and there is 4 of them; ask for fewer"):
        choose(2, 3)


def test_every_process_has_somebody() -> None:
    assert gpus._uid(os.getpid()) == os.getuid()
    assert gpus._user(1) if Path("/proc/1").exists() else True
