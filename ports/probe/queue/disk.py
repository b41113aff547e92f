"""What is asked of the files of jobs themselves, whether a resource runs or not: read, list, room, environments.

Each function takes the directory of the queue, a header and its blobs, and returns those of the answer; it raises
Refused and OSError. Paths are below the directory of jobs, and no link is followed on the way.
"""

import errno
import hashlib
import os
import shutil
import stat
import sys

if __name__ != "__main__":  # piped, these names are there already
    from .durable import sync_directory, write_all, write_durably
    from .left import check_key
    from .places import LARGE_PARTS, data_of, make_queue
    from .sent import (
        disk_fetched,
        disk_forget,
        disk_keep,
        disk_missing,
        disk_packages,
        disk_put,
        disk_sweep,
        hold_directory,
        is_object,
        keep_objects,
        move_objects,
        objects_of,
    )
    from .words import Refused, id_text, is_number, short, split_id

MYPY = False
if MYPY:
    from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

    Json = Dict[str, Any]
    Answer = Tuple[Json, Sequence[bytes]]

MOST_READ, MOST_LISTED = 8 * 2**20, 10000
SPARE_BYTES = 64 * 2**20  # that stay free
STAMP_BYTES = 25  # with which a stamped file of output begins: it tells two files of one name apart
ENTRY_POINT = b"ports.__main__"  # what the program `ports` of an installation imports


def disk_status(root: str, header: "Json", blobs: "Sequence[bytes]") -> "Answer":
    """Return where jobs are kept, how much room is there, what python and `ports` there are; and of a `directory`,
    whether it is there.
    """
    data, ports = data_of(root), own_ports(os.path.dirname(root))
    place = data
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    disk = os.statvfs(place)
    told = {"root": root, "data": data, "free": disk.f_bavail * disk.f_frsize}  # type: Json
    told.update(total=disk.f_blocks * disk.f_frsize, python="%d.%d.%d" % sys.version_info[:3])
    told.update(has_ports=ports is not None, ports=ports)
    told["is_new"] = not (os.path.isdir(os.path.join(root, "ids")) and os.listdir(os.path.join(root, "ids")))
    left = os.path.join(root, "submissions")
    if isinstance(header.get("directory"), str) and "\0" not in header["directory"]:
        told["is_directory"] = os.path.isdir(os.path.expanduser(header["directory"]))
    told["n_left"] = sum(name[0] != "." for name in os.listdir(left)) if os.path.isdir(left) else 0
    return told, ()


def own_ports(machine: str) -> "Optional[str]":
    """Return the program `ports` that is on the PATH or that ran here last; None if there is none."""
    import json

    places = (os.environ.get("PATH") or os.defpath).split(os.pathsep)
    try:
        with open(os.path.join(machine, "host.json"), encoding="utf-8") as file:
            places.append(os.path.dirname(str(json.load(file)["python"])))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    for place in places:
        path = os.path.join(place, "ports")
        try:
            with open(path, "rb") as file:
                if ENTRY_POINT in file.read(2000) and os.access(path, os.X_OK):
                    return path
        except OSError:
            continue
    return None


def disk_read(root: str, header: "Json", blobs: "Sequence[bytes]") -> "Answer":
    """Return a piece of a file: its size, where the piece begins, and with what the file begins."""
    offset, most = header.get("offset", 0), header.get("most", MOST_READ)
    if not is_number(offset, -(2**62), 2**62) or not is_number(most, 0, MOST_READ):
        told = "offset and most: %s, %s are no whole numbers, most up to %d" % (short(offset), short(most), MOST_READ)
        raise Refused("UsageError", told)
    try:
        descriptor = open_below(root, header.get("path"))
    except FileNotFoundError:
        return {"missing": True}, ()
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Refused("UsageError", "path: %s is no file" % short(header.get("path")))
        if offset < 0:
            offset = max(0, found.st_size + offset)
        data, at = [], offset  # type: List[bytes], int
        while at - offset < most:
            piece = os.pread(descriptor, min(most - (at - offset), 2**20), at)
            if not piece:
                break
            data.append(piece)
            at += len(piece)
        head = os.pread(descriptor, STAMP_BYTES, 0).decode("latin-1")
    finally:
        os.close(descriptor)
    return {"size": found.st_size, "offset": offset, "head": head, "mtime_ns": found.st_mtime_ns}, [b"".join(data)]


def open_below(root: str, path: object, flags: int = os.O_RDONLY) -> int:
    """Return the descriptor of what `path` names below the directory of jobs; raises Refused, FileNotFoundError."""
    parts = path.split("/") if isinstance(path, str) and "\0" not in path else []
    if not parts or parts[0] not in LARGE_PARTS or any(part in ("", ".", "..") for part in parts):
        told = "path: %s is no path below the directory of jobs; it begins with one of %s"
        raise Refused("UsageError", told % (short(path), ", ".join(LARGE_PARTS)))
    safe = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(data_of(root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for n, part in enumerate(parts):
        above = descriptor
        try:
            wanted = flags if n == len(parts) - 1 else os.O_RDONLY | os.O_DIRECTORY
            descriptor = os.open(part, wanted | safe, dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                told = "path: %s in %s is a link, or no directory" % (short(part), short(path))
                raise Refused("UsageError", told) from error
            raise
        finally:
            os.close(above)
    return descriptor


def disk_list(root: str, header: "Json", blobs: "Sequence[bytes]") -> "Answer":
    """Return the files in the directory of a job, by their path: kind, size, time, mode, and where a link points."""
    below, after, most = header.get("below", ""), header.get("after", ""), header.get("most", MOST_LISTED)
    if not isinstance(below, str) or not isinstance(after, str) or not is_number(most, 1, MOST_LISTED):
        raise Refused("UsageError", "below, after, most: two texts and a number up to %d" % MOST_LISTED)
    path = "/".join(part for part in ("work", id_text(*split_id(header.get("id"))), below) if part)
    try:
        os.close(open_below(root, path, os.O_RDONLY | os.O_DIRECTORY))
    except FileNotFoundError:
        return {"missing": True, "files": [], "is_cut": False}, ()
    base = os.path.join(data_of(root), path)
    found = sorted(entry for entry in entries_below(base) if entry[0] > after)
    return {"files": found[:most], "is_cut": len(found) > most}, ()


def entries_below(base: str) -> "Iterator[List[Any]]":
    """Yield what is no directory below `base`."""
    for place, folders, names in os.walk(base):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in names + links:
            path = os.path.join(place, name)
            try:
                found = os.lstat(path)
                target = os.readlink(path) if stat.S_ISLNK(found.st_mode) else None
            except OSError:  # the job runs, and removed it
                continue
            if target is not None or stat.S_ISREG(found.st_mode):
                kind, mode = "f" if target is None else "l", stat.S_IMODE(found.st_mode)
                yield [os.path.relpath(path, base), kind, found.st_size, found.st_mtime_ns, mode, target]


def disk_reuse(root: str, header: "Json", blobs: "Sequence[bytes]") -> "Answer":
    """Make objects of files that a job left in its copy, and return path, object and size of each.

    From now on no object is removed, until `disk_keep`.
    """
    job, paths = id_text(*split_id(header.get("id"))), header.get("paths")
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise Refused("UsageError", "paths: %s is no list of paths" % short(paths))
    objects = objects_of(root)
    keep_objects(objects)
    staging = os.path.join(objects, ".staging-%s" % os.urandom(8).hex())
    os.mkdir(staging, 0o700)
    told, made = [], {}  # type: List[Any], Dict[str, str]
    try:
        held = hold_directory(staging)
        for path in paths:
            staged = os.path.join(staging, str(len(told)))
            name, n_bytes = copy_output(root, "work/%s/workspace/%s" % (job, path), staged)
            if not is_object(objects, name):
                made[name] = staged
            told.append([path, name, n_bytes])
        move_objects(objects, made)
        os.close(held)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return {"files": told}, ()


def copy_output(root: str, path: str, target: str) -> "Tuple[str, int]":
    """Copy a file of the directory of jobs; return the name that it has as an object, and its size."""
    try:
        descriptor = open_below(root, path)
    except FileNotFoundError:
        raise Refused("UsageError", "path: %s is gone" % short(path)) from None
    hashed, n_bytes = hashlib.sha256(), 0
    with os.fdopen(descriptor, "rb", 0) as source, open(target, "xb", 0) as copy:
        found, disk = os.fstat(descriptor), os.fstatvfs(copy.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise Refused("UsageError", "path: %s is no file" % short(path))
        if found.st_size + SPARE_BYTES > disk.f_bavail * disk.f_frsize:
            told = "cannot use %s: no space for %d bytes of %s; `ports job prune --older 7d` removes old jobs there"
            raise Refused("StoreError", told % (os.path.dirname(target), found.st_size, path))
        for data in iter(lambda: source.read(2**20), b""):
            hashed.update(data)
            write_all(copy.fileno(), data)
            n_bytes += len(data)
    return hashed.hexdigest() + (".x" if found.st_mode & 0o100 else ""), n_bytes


def disk_environ(root: str, header: "Json", blobs: "Sequence[bytes]") -> "Answer":
    """Keep the environment of the script of a submission, 0600; without a blob, remove it."""
    key = check_key(header.get("key"))
    make_queue(root)
    path = os.path.join(root, "environs", key)
    if blobs:
        write_durably(path, [blobs[0]])
    elif os.path.exists(path):
        os.unlink(path)
        sync_directory(os.path.dirname(path))
    return {}, ()


OWN = {"disk.status": disk_status, "disk.read": disk_read, "disk.list": disk_list, "disk.environ": disk_environ}
OWN.update({"disk.missing": disk_missing, "disk.put": disk_put, "disk.keep": disk_keep, "disk.forget": disk_forget})
OWN.update(
    {"disk.sweep": disk_sweep, "disk.packages": disk_packages, "disk.fetched": disk_fetched, "disk.reuse": disk_reuse}
)
