"""GPUs by the driver's own library. There is none here: one in C stands in, with the structures of NVML's header."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from ports import machine, probe
from ports.cli import who
from ports.probe import gpus
from ports.state import wait_until

COMPILER = shutil.which("cc") or shutil.which("gcc")
GiB = 2**30

LIBRARY = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned int pid; unsigned long long usedGpuMemory; TAIL } nvmlProcessInfo_t;
typedef struct { int index; } *nvmlDevice_t;
static struct { int index; } devices[3] = {{0}, {1}, {2}};
static int opened;
int nvmlInit_v2(void) { opened++; return FAILS; }
int nvmlShutdown(void) { opened--; return 0; }
int nOpened(void) { return opened; }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, nvmlDevice_t *d) {
    *d = (nvmlDevice_t) &devices[i]; return i == 2 ? 15 : 0; }
int nvmlDeviceGetUUID(nvmlDevice_t d, char *text, unsigned int n) {
    strncpy(text, d->index ? "GPU-bbbb" : "GPU-aaaa", n); return 0; }
int nvmlDeviceGetName(nvmlDevice_t d, char *text, unsigned int n) {
    strncpy(text, "Model X", n); return d->index ? 3 : 0; }
int nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t *m) {
    m->total = 16ULL << 30; m->free = 12ULL << 30; m->used = 4ULL << 30; return d->index ? 3 : 0; }
int nvmlDeviceGetUtilizationRates(nvmlDevice_t d, nvmlUtilization_t *u) {
    u->gpu = 93; u->memory = 20; return d->index ? 3 : 0; }
static int processes(nvmlDevice_t d, unsigned int *n, nvmlProcessInfo_t *p) {
    unsigned int i, room = *n, there = d->index ? 0 : 300;
    *n = there;
    if (room < there) return 7;
    for (i = 0; i < there; i++) { p[i].pid = PID; p[i].usedGpuMemory = i; }
    if (there) p[0].usedGpuMemory = 3ULL << 30;
    if (there) p[1].pid = 4194309, p[1].usedGpuMemory = ~0ULL;
    return 0;
}
int nvmlDeviceGetComputeRunningProcessesVERSION(nvmlDevice_t d, unsigned int *n, nvmlProcessInfo_t *p) {
    return processes(d, n, p); }
int nvmlDeviceGetGraphicsRunningProcessesVERSION(nvmlDevice_t d, unsigned int *n, nvmlProcessInfo_t *p) { return 3; }
"""
NEW, OLD = {"TAIL": "unsigned int a, b;", "VERSION": "_v3"}, {"TAIL": "", "VERSION": ""}


def built(folder: Path, words: dict[str, str], fails: int = 0) -> Any:
    """Return the library, made with these words."""
    if COMPILER is None:
        pytest.skip("there is no compiler of C here")
    text = LIBRARY.replace("FAILS", str(fails)).replace("PID", str(os.getpid()))
    for word, value in words.items():
        text = text.replace(word, value)
    (folder / "nvml.c").write_text(text)
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", folder / "nvml.so", folder / "nvml.c"], check=True, timeout=60)
    return ctypes.CDLL(str(folder / "nvml.so"))


@pytest.mark.parametrize("words", [NEW, OLD], ids=["new driver", "old driver"])
def test_gpus_of_a_driver_are_read_without_any_package(tmp_path: Path, words: dict[str, str]) -> None:
    nvml = built(tmp_path, words)
    first, second = gpus.rows_of(nvml) or ()  # the third fell off its bus
    mine = probe.user_name(os.getuid())
    assert first["users"] == {mine: 3 * GiB, "others": 0}
    known = {"index": 0, "uuid": "GPU-aaaa", "name": "Model X", "busy": 93}
    assert {**known, "memory_bytes": 16 * GiB, "used_bytes": 4 * GiB, "users": first["users"]} == first
    unknown = {"name": "GPU", "busy": None, "memory_bytes": None, "used_bytes": None, "users": {}}
    assert second == {"index": 1, "uuid": "GPU-bbbb", **unknown}
    assert nvml.nOpened() == 0


def test_a_driver_that_does_not_start_has_no_gpus(tmp_path: Path) -> None:
    assert gpus.rows_of(built(tmp_path, NEW, fails=9)) is None


def test_without_a_driver_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpus, "DRIVER", str(tmp_path / "none"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("it was loaded"))
    assert gpus.GpuReader().read() is None


def test_a_driver_that_hangs_is_left_alone_until_it_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers, asked = threading.Event(), []

    def hang(nvml: object) -> list[dict[str, Any]]:
        asked.append(nvml)
        assert answers.wait(60)
        return [{"index": 0}]

    monkeypatch.setattr(gpus, "DRIVER", str(tmp_path))
    monkeypatch.setattr(gpus, "DRIVER_SECONDS", 0.05)
    monkeypatch.setattr(ctypes, "CDLL", str)
    monkeypatch.setattr(gpus, "rows_of", hang)
    reader = gpus.GpuReader()
    assert reader.read() is None and reader.read() is None
    assert wait_until(lambda: asked or None, timeout=60, what="the question to the driver") == ["libnvidia-ml.so.1"]
    answers.set()
    reader.thread.join()
    monkeypatch.setattr(gpus, "DRIVER_SECONDS", 60)
    assert reader.read() == [{"index": 0}] and len(asked) == 2


def test_gpus_of_another_host_are_shown_with_their_users() -> None:
    document = probe.who.who({"interval": 0.0})
    assert machine.from_probe(document, "server1").gpus is None
    row = {"index": 0, "uuid": "GPU-a", "name": "Model X", "memory_bytes": 16 * GiB, "used_bytes": 4 * GiB}
    found = machine.from_probe({**document, "gpus": [{**row, "busy": 93, "users": {"bob": 3 * GiB}}]}, "server1")
    assert who.gpu_lines(found) == ["gpu 0: Model X, 4.0 GiB of 16.0 GiB, 93 % busy, bob 3.0 GiB"]
    assert found.row()["gpus"][0]["uuid"] == "GPU-a"
