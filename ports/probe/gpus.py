"""NVIDIA GPUs, by the driver's own library: how full and busy each is, and which users have how much of it.

`ports.machine.gpus` asks the same through Python's binding; this needs nothing but the driver. A driver can hang, so it
is asked in a thread, for at most `DRIVER_SECONDS`.
"""

import os

if __name__ != "__main__":  # piped, these names are there already
    from .identity import user_name

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, List, Optional, Tuple  # noqa: F401 - in comments

    Json = Dict[str, Any]

DRIVER = "/proc/driver/nvidia"  # without it nothing is loaded
LIBRARY = "libnvidia-ml.so.1"
DRIVER_SECONDS = 3.0
NOT_KNOWN = 2**64 - 1
TOO_SMALL = 7  # NVML_ERROR_INSUFFICIENT_SIZE
TEXT_BYTES = 128
# of a process: pid, its bytes, and in the newer one the instance of MIG; the functions that fill them, the newest first
PROCESS_CALLS = (("_v3", 24), ("_v2", 24), ("", 16))


class GpuReader:
    """Reads the GPUs now and then; a driver that hangs is left alone until it answers."""

    def __init__(self) -> None:
        self.thread = None  # type: Any
        self.found = None  # type: Optional[List[Json]]

    def read(self) -> "Optional[List[Json]]":
        """Return a row for each GPU; None without a driver, or where it does not answer."""
        if not os.path.exists(DRIVER):
            return None
        import threading

        if self.thread is None or not self.thread.is_alive():
            self.found = None
            self.thread = threading.Thread(target=self.look, daemon=True)
            self.thread.start()
        self.thread.join(DRIVER_SECONDS)
        return None if self.thread.is_alive() else self.found

    def look(self) -> None:
        """Read them, in the thread."""
        import ctypes

        try:
            self.found = rows_of(ctypes.CDLL(LIBRARY))
        except Exception:  # noqa: BLE001 - there is no such library, or it lacks a function: nothing is known then
            pass


def rows_of(nvml: "Any") -> "Optional[List[Json]]":
    """Return a row for each GPU that answers; None where the library cannot be used."""
    import ctypes

    if nvml.nvmlInit_v2():
        return None
    try:
        number = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(number)):
            return None
        found = [gpu_row(nvml, index) for index in range(number.value)]
        return [one for one in found if one is not None]
    finally:
        nvml.nvmlShutdown()


def gpu_row(nvml: "Any", index: int) -> "Optional[Json]":
    """Return the row of a GPU; None for one that fell off its bus. What its model does not tell is None."""
    import ctypes

    handle, uuid, name = (
        ctypes.c_void_p(),
        ctypes.create_string_buffer(TEXT_BYTES),
        ctypes.create_string_buffer(TEXT_BYTES),
    )
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)):
        return None
    if nvml.nvmlDeviceGetUUID(handle, uuid, ctypes.c_uint(TEXT_BYTES)):
        return None
    known = not nvml.nvmlDeviceGetName(handle, name, ctypes.c_uint(TEXT_BYTES))
    memory, busy = (ctypes.c_ulonglong * 3)(), (ctypes.c_uint * 2)()  # total, free, used; gpu, memory
    has_memory = not nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    has_busy = not nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(busy))
    users = {}  # type: Dict[str, int]
    for pid, n_bytes in processes_on(nvml, handle).items():
        user = user_of(pid)
        users[user] = users.get(user, 0) + n_bytes
    row = {"index": index, "uuid": uuid.value.decode("utf-8", "replace"), "users": users}  # type: Json
    row.update(name=name.value.decode("utf-8", "replace") if known else "GPU", busy=int(busy[0]) if has_busy else None)
    row.update(memory_bytes=int(memory[0]) if has_memory else None, used_bytes=int(memory[2]) if has_memory else None)
    return row


def processes_on(nvml: "Any", handle: "Any") -> "Dict[int, int]":
    """Return the bytes that each process has on a GPU, by its pid."""
    import ctypes
    import struct

    found = {}  # type: Dict[int, int]
    for kind in ("Compute", "Graphics"):
        for version, size in PROCESS_CALLS:
            call = getattr(nvml, "nvmlDeviceGet%sRunningProcesses%s" % (kind, version), None)
            if call is None:
                continue
            number, status, data = ctypes.c_uint(64), TOO_SMALL, b""
            while status == TOO_SMALL and number.value < 1 << 16:
                number = ctypes.c_uint(2 * number.value)
                buffer = ctypes.create_string_buffer(size * number.value)
                status = call(handle, ctypes.byref(number), buffer)
                data = buffer.raw
            for place in range(0 if status else number.value):
                pid, n_bytes = struct.unpack_from("@IQ", data, place * size)
                found[pid] = max(found.get(pid, 0), 0 if n_bytes == NOT_KNOWN else n_bytes)
            break
    return found


def user_of(pid: int) -> str:
    """Return the user of a process; ``others`` where that is hidden, or it has just ended."""
    try:
        return user_name(os.stat("/proc/%d" % pid).st_uid)
    except OSError:
        return "others"
