"""GPUs: which users use them, and which ones a cluster gets. There is none here; a fake binding of NVML stands in."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ports.errors import UsageError
from ports.machine import _nvml, gpus
from ports.machine._nvml import Gpu

GiB = 2**30


def fake_binding(devices: list[dict[str, Any]], *, old: bool = False) -> types.ModuleType:
    """Return a module with the calls of NVML's binding that `_nvml` makes, for `devices`."""
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
    (found,) = _nvml.gpus()
    assert (found.uuid, found.name, found.busy) == ("GPU-a", "Old", None)


def test_without_binding_or_driver_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert _nvml.gpus() == ()
    binding: Any = fake_binding([])

    def no_driver() -> None:
        raise binding.NVMLError("Driver Not Loaded")

    binding.nvmlInit = no_driver
    monkeypatch.setitem(sys.modules, "pynvml", binding)
    assert _nvml.gpus() == ()
    assert gpus.rows() == []


FOUR = tuple(Gpu(index=index, uuid=f"GPU-{letter * 4}", name="New") for index, letter in enumerate("abcd"))


def choose(each: int, n_workers: int | str | None = None, mine: str = "", **others: int) -> Any:
    used_by = {f"GPU-{key}": "first" for key in mine.split()}
    return gpus.choose(FOUR, each, n_workers, others={f"GPU-{key}": n for key, n in others.items()}, used_by=used_by)


def named(visible: str, found: tuple[Gpu, ...] = FOUR, **variables: str) -> list[str]:
    return [gpu.uuid for gpu in gpus.visible(found, {"CUDA_VISIBLE_DEVICES": visible, **variables})]


def test_workers_get_the_gpus_that_nobody_else_uses() -> None:
    order = ("GPU-bbbb", "GPU-cccc", "GPU-dddd", "GPU-aaaa")
    assert choose(1, aaaa=2) == {"n_workers": 3, "gpu_ids": order}
    assert choose(2, aaaa=1) == {"n_workers": 1, "gpu_ids": order}
    assert choose(1, 4, aaaa=1)["gpu_ids"] == order
    assert choose(1, "all", aaaa=1)["n_workers"] == 4


def test_a_cluster_knows_all_gpus_for_workers_that_come_later() -> None:
    for n_workers in (0, 1):
        assert choose(1, n_workers)["gpu_ids"] == ("GPU-aaaa", "GPU-bbbb", "GPU-cccc", "GPU-dddd")
    with pytest.raises(UsageError, match="gpus is 5 for each of 0 workers, but there are only 4 available"):
        choose(5, 0)
    gpus.check_number(("GPU-aaaa", "GPU-bbbb", "GPU-cccc"), 1, 3)
    with pytest.raises(UsageError, match="this cluster can use only 3; scale to at most 1, or pass force=True"):
        gpus.check_number(("GPU-aaaa", "GPU-bbbb", "GPU-cccc"), 2, 2)


def test_what_other_clusters_of_mine_hold_comes_after_what_is_free() -> None:
    found = choose(1, mine="aaaa bbbb", cccc=1)
    assert found == {"n_workers": 1, "gpu_ids": ("GPU-dddd", "GPU-aaaa", "GPU-bbbb", "GPU-cccc")}
    assert choose(1, "all", mine="aaaa")["n_workers"] == 4


def test_the_starters_own_limits_hold() -> None:
    assert named("1, 3") == ["GPU-bbbb", "GPU-dddd"]
    assert named("GPU-cccc") == ["GPU-cccc"]
    assert named("0,0,-1,2") == ["GPU-aaaa"]
    assert named("") == named("NoDevFiles") == []
    with pytest.raises(UsageError, match="none that NVML knows in CUDA_VISIBLE_DEVICES="):
        gpus.choose([], 1, None, others={}, used_by={}, within="")


def test_numbers_are_not_guessed_where_cuda_counts_in_another_order() -> None:
    two = (Gpu(index=0, uuid="GPU-aaaa", name="small"), Gpu(index=1, uuid="GPU-bbbb", name="large"))
    with pytest.raises(UsageError, match="set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name GPUs by UUID"):
        named("0", two)
    assert named("0", two, CUDA_DEVICE_ORDER="PCI_BUS_ID") == ["GPU-aaaa"]
    assert named("GPU-bbbb", two) == ["GPU-bbbb"]
    assert sorted(named("1,0", two)) == ["GPU-aaaa", "GPU-bbbb"]  # whichever is which


def test_parts_of_gpus_are_taken_by_their_names() -> None:
    parts = gpus.visible(FOUR, {"CUDA_VISIBLE_DEVICES": "MIG-1111, MIG-GPU-aaaa/7/0"})
    found = gpus.choose(parts, 1, None, others={}, used_by={"MIG-1111": "first"})
    assert found == {"n_workers": 1, "gpu_ids": ("MIG-GPU-aaaa/7/0", "MIG-1111")}
    with pytest.raises(UsageError, match="CUDA gives a process only one of these; pass gpus=1"):
        gpus.choose(parts, 2, 1, others={}, used_by={})


def test_a_gpu_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    binding: Any = fake_binding([{"uuid": f"GPU-{one}", "used": 0, "processes": {}} for one in "abc"])

    def handle(index: int) -> int:
        if index == 1:
            raise binding.NVMLError("GPU is lost")
        return index

    binding.nvmlDeviceGetHandleByIndex = handle
    monkeypatch.setitem(sys.modules, "pynvml", binding)
    assert [(gpu.index, gpu.uuid) for gpu in _nvml.gpus()] == [(0, "GPU-a"), (2, "GPU-c")]


def test_who_shares_a_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {2**22 + 5: GiB}
    devices = [{"uuid": f"GPU-{one}", "used": 0, "processes": other if one == "a" else {}} for one in "abcd"]
    monkeypatch.setitem(sys.modules, "pynvml", fake_binding(devices))
    used_by = {"GPU-b": "first"}
    assert gpus.ordered(("GPU-a", "GPU-b", "GPU-c", "GPU-d"), own=["GPU-d"], used_by=used_by) == (
        "GPU-d",
        "GPU-c",
        "GPU-b",
        "GPU-a",
    )
    assert gpus.shared(["GPU-c", "GPU-d"], used_by) is None
    said = gpus.shared(["GPU-a", "GPU-b"], used_by)
    assert said is not None and "GPU-b by your cluster 'first', GPU-a by other users" in said


def test_more_than_there_are_is_refused_with_the_number() -> None:
    with pytest.raises(
        UsageError, match="gpus is 2 for each of 3 workers, but there are only 4 available; ask for fewer"
    ):
        choose(2, 3)


def test_every_process_has_somebody() -> None:
    assert gpus._uid(os.getpid()) == os.getuid()
    assert gpus._user(1) if Path("/proc/1").exists() else True
