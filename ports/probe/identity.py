"""Which machine, boot and process this is."""

import os
import sys

MYPY = False
if MYPY:  # typing itself costs 5 ms where this runs
    from typing import Any, Dict, List, Optional, Tuple

    Json = Dict[str, Any]

FORMAT = 1
HASHES = []  # type: List[Any]


def read_bytes(path: str, once: bool = False) -> bytes:
    """Return the file's bytes, empty where it cannot be read. It takes half as long as `open`.

    `once` saves a call for files of /proc that come in one piece, up to 64 KiB.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        chunks = [os.read(fd, 65536)]
        while chunks[-1] and not once:
            chunks.append(os.read(fd, 65536))
        return b"".join(chunks)
    except OSError:
        return b""
    finally:
        os.close(fd)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` in hex. The built-in modules save the 3 ms in which hashlib loads OpenSSL."""
    for name in () if HASHES else ("_sha2", "_sha256", "hashlib"):
        try:
            HASHES.append(__import__(name).sha256)
            break
        except ImportError:  # a search for a missing module takes long, so it is done once
            continue
    return str(HASHES[0](data).hexdigest())


def machine_id() -> str:
    """Return the id of this machine: a hash of /etc/machine-id, whose text is confidential, else of its name."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        content = read_bytes(path).strip()
        if content and content != b"uninitialized":
            break
    else:
        content = node().encode()
    return sha256(b"ports:" + content)[:32]


def boot_id() -> str:
    """Return the id of this boot, empty where the system has none."""
    return read_bytes("/proc/sys/kernel/random/boot_id").decode().strip()


def pid_namespace() -> str:
    """Return the namespace in which this process sees pids, empty where there are none."""
    return link_of("/proc/self/ns/pid") or ""


def link_of(path: str) -> "Optional[str]":
    """Return where a symbolic link points; None where that cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def load_psutil() -> "Any":
    """Return the module psutil, which replaces /proc where there is none; raises ImportError."""
    try:
        import psutil
    except ImportError:
        import site

        site.main()  # the program is piped to `python3 -S`, which starts 5 ms earlier
        import psutil
    return psutil


def stat_fields(pid: "Any") -> "Tuple[bytes, List[bytes]]":
    """Return the name of a process and the fields of its stat line from the state on; none where it is gone."""
    data = read_bytes("/proc/%s/stat" % pid, once=True)
    end = data.rfind(b")")  # the name itself can contain one
    return data[data.find(b"(") + 1 : end], data[end + 2 :].split(None, 22)


def stat_of(pid: int) -> "Optional[Tuple[str, int, int]]":
    """Return state, parent and start ticks of a process; None where it is gone."""
    if sys.platform == "linux":
        _, fields = stat_fields(pid)
        return (fields[0].decode(), int(fields[1]), int(fields[19])) if len(fields) > 19 else None
    try:
        process = load_psutil().Process(pid)
        return "Z" if process.status() == "zombie" else "S", process.ppid(), int(process.create_time() * 100)
    except Exception:  # noqa: BLE001 - psutil is missing, or the process is gone
        return None


def is_zombie(pid: int) -> bool:
    """Tell whether a process has ended, collected by its parent or not."""
    found = stat_of(pid)
    return found is None or found[0] in "ZXx"


def node() -> str:
    """Return the hostname."""
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")


def own_uid() -> int:
    """Return this user's uid; 0 on Windows, which has no uids and is only ever home."""
    return os.getuid() if hasattr(os, "getuid") else 0


def user_name(uid: int) -> str:
    """Return the name of a user, ``uid 1000`` where there is none."""
    try:
        import pwd
    except ImportError:  # Windows
        import getpass

        return getpass.getuser()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "uid %d" % uid


def mend_home() -> None:
    """Set HOME to the account's home where it leads nowhere: fish without a locale garbles letters of variables."""
    if not os.path.isdir(os.environ.get("HOME") or "/"):
        import pwd

        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return
        if os.path.isdir(home):
            os.environ["HOME"] = home


def process_identity(pid: int) -> "Json":
    """Return what identifies this process, even when a later one gets its pid.

    Raises ProcessLookupError where it is gone.
    """
    found = stat_of(pid)
    if found is None:
        raise ProcessLookupError(pid)
    identity = {"format": FORMAT, "machine": machine_id(), "boot_id": boot_id()}  # type: Json
    identity.update(pid_namespace=pid_namespace(), pid=pid, start_ticks=found[2], node=node())
    return identity


def is_same_process_alive(identity: "Json") -> "Optional[bool]":
    """Tell whether that very process runs; None where this machine or this pid namespace cannot know.

    A zombie is not alive.
    """
    if identity["machine"] != machine_id():
        return None
    if identity["boot_id"] != boot_id():
        # machines made from one image can share their id and a home
        return False if identity.get("node") in (None, "", node()) else None
    if identity["pid_namespace"] != pid_namespace():
        return None
    found = stat_of(int(identity["pid"]))
    if found is None and os.path.exists("/proc/%d/stat" % identity["pid"]):
        return None  # it is there, and cannot be read: this process has too many files open, say
    return found is not None and found[0] not in "ZXx" and found[2] == identity["start_ticks"]
