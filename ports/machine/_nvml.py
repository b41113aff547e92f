"""NVIDIA GPUs, through NVML and its Python binding (the extra ``gpu``); without the binding there are none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU at one moment: `busy` is the percentage of the time, `processes` are pid → bytes there."""

    index: int
    uuid: str
    name: str
    memory_bytes: int | None = None
    used_bytes: int | None = None
    busy: int | None = None
    processes: dict[int, int] = field(default_factory=dict)


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs of this machine in the order of their buses; none without a driver or without the binding."""
    try:
        import pynvml  # type: ignore[import-not-found]
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_gpus(pynvml, pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _gpus(nvml: Any, number: int) -> Iterator[Gpu]:
    """Yield the GPUs that answer: one that fell off its bus fails every call, and nothing can use it."""
    for index in range(number):
        with contextlib.suppress(nvml.NVMLError):
            yield _gpu(nvml, index)


def _gpu(nvml: Any, index: int) -> Gpu:
    """Read one GPU; what its model does not tell stays unknown."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(name: str) -> Any:
        with contextlib.suppress(nvml.NVMLError, AttributeError):
            return getattr(nvml, name)(handle)
        return None

    memory, busy = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetUtilizationRates")
    processes: dict[int, int] = {}
    for kind in ("Compute", "Graphics"):
        for process in ask(f"nvmlDeviceGet{kind}RunningProcesses") or ():
            processes[process.pid] = max(processes.get(process.pid, 0), process.usedGpuMemory or 0)
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(ask("nvmlDeviceGetName") or "GPU"),
        memory_bytes=int(memory.total) if memory else None,
        used_bytes=int(memory.used) if memory else None,
        busy=int(busy.gpu) if busy else None,
        processes=processes,
    )


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value  # older bindings give bytes
