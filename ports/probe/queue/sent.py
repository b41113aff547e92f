"""Files that home sends for a job: which are missing here, and how they become objects. All raise OSError and Refused.

An object is named after the SHA-256 of its content (``.x`` behind it if it can be executed). None of them is there
half: it is written beside its place, synced, and renamed. `ports.jobs.resource.lay_out` says what a directory is.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

if __name__ != "__main__":  # piped, these names are there already
    from .durable import sync_directory, write_all, write_durably
    from .places import data_of, make_queue
    from .words import Refused, id_text, short, split_id

MYPY = False
if MYPY:
    from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

    Json = Dict[str, Any]
    Answer = Tuple[Json, Sequence[bytes]]

TREE_HEAD = b"ports-tree 1\n"
OBJECT_STAMP = 1000000000 * 10**9  # the time of an object that nobody changed
OBJECT_NAME = re.compile(r"[0-9a-f]{64}(\.x)?\Z")
SENT_KEY = re.compile(r"[0-9a-f]{32}\Z")
PYTHON_NAME = re.compile(r"[A-Za-z0-9_./+-]{1,1000}\Z")
PACKAGES_SECONDS = 20.0
FEW_FILES = 32  # that are synced one by one; for more, the whole file system is
LOCK_SECONDS = 10.0
BEING_SENT = (
    "files of a job are being copied just now, so those of removed jobs stay; `ports job prune` removes them later"
)
PART_SECONDS = 14 * 86400.0  # for which half of a large file is kept
SENDING = {}  # type: Dict[str, int]  # the lock that keeps objects from being removed, by directory
WHOLE = {}  # type: Dict[str, Dict[str, bool]]  # directories that are there while that lock is held


def disk_missing(root: str, header: "Json", blobs: "Sequence[bytes]") -> "Answer":
    """Say which objects are missing, of `trees` with all that is in them, and of `names`; and how much room is there.

    From now on no object is removed, until `disk_keep`.
    """
    make_queue(root)
    objects = objects_of(root)
    keep_objects(objects)
    names, trees = object_names(header, "names"), object_names(header, "trees")
    known = {}  # type: Dict[str, bool]
    sys.setrecursionlimit(10000)
    missing = [one for one in trees if not is_whole(objects, one, known)]
    WHOLE[objects] = {name: True for name in known if known[name]}
    missing += [one for one in names if not is_object(objects, one)]
    disk = os.statvfs(objects)
    room = {
        "free": disk.f_bavail * disk.f_frsize,
        "block": disk.f_bsize,
        "n_free": disk.f_favail if disk.f_files else None,
    }
    return dict(room, missing=missing, parts=parts_of(objects, missing), path=objects), []


def objects_of(root: str) -> str:
    """Return the directory of objects, which is made if it is missing."""
    objects = os.path.join(data_of(root), "objects")
    os.makedirs(objects, 0o700, exist_ok=True)
    return objects


def keep_objects(objects: str) -> None:
    """Take the lock that `ports job prune` waits for."""
    import fcntl

    if objects not in SENDING:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        SENDING[objects] = os.open(os.path.join(objects, "lock"), flags, 0o600)
        fcntl.flock(SENDING[objects], fcntl.LOCK_SH)


def object_names(header: "Json", field: str) -> "List[str]":
    """Return the names of objects that a request has; raises Refused."""
    found = header.get(field, [])
    if not isinstance(found, list) or not all(isinstance(one, str) and OBJECT_NAME.match(one) for one in found):
        raise Refused("UsageError", "%s: %s is no list of objects" % (field, short(found)))
    return found


def object_path(objects: str, name: str) -> str:
    """Return the file of an object."""
    return "%s/%s/%s" % (objects, name[:2], name[2:])


def is_object(objects: str, name: str, size: "Any" = None) -> bool:
    """Tell whether an object is there, as it was written."""
    try:
        found = os.lstat(object_path(objects, name))
    except OSError:
        return False
    return found.st_mtime_ns == OBJECT_STAMP and size in (None, found.st_size)


def is_whole(objects: str, tree: str, known: "Dict[str, bool]") -> bool:
    """Tell whether a directory is there with all that is in it."""
    if tree not in known:
        try:
            with open(object_path(objects, tree), "rb") as file:
                data = file.read()
            known[tree] = hashlib.sha256(data).hexdigest() == tree and all(
                is_whole(objects, name, known) if kind == b"d" else is_object(objects, name, n_bytes)
                for kind, name, n_bytes in entries_of(data)
            )
        except (OSError, ValueError):
            known[tree] = False
    return known[tree]


def entries_of(data: bytes) -> "Iterator[Tuple[bytes, str, int]]":
    """Yield kind, object and size of what is in a directory, without links; raises ValueError."""
    if not data.startswith(TREE_HEAD):
        raise ValueError("no directory")
    parts = iter(data[len(TREE_HEAD) :].split(b"\0")[:-1])
    for part in parts:
        kind, digest, n_bytes, _ = part.split(b" ", 3)
        if kind == b"l":
            next(parts, None)
        else:
            yield kind, digest.decode("ascii") + (".x" if kind == b"x" else ""), int(n_bytes)


def parts_of(objects: str, missing: "Iterable[str]") -> "Dict[str, int]":
    """Return how much of large objects is there already; what is old is removed."""
    found, directory = {}, os.path.join(objects, ".sent")
    os.makedirs(directory, 0o700, exist_ok=True)
    wanted, now = set(missing), time.time()
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        status = os.lstat(path)
        if name in wanted:
            found[name] = reopened(path)
        elif now - max(status.st_mtime, status.st_ctime) > PART_SECONDS:  # of a whole one, the time is set back
            os.unlink(path)
    return found


def reopened(path: str) -> int:
    """Return how much of a part is there, without its last byte: so one more piece comes, which makes it an object.

    Where the disk was full or the power went between both, a part is whole, and can be read-only already.
    """
    import fcntl

    os.chmod(path, 0o600)
    with open(path, "ab", 0, opener=open_part) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another session goes on with it at this moment
            return os.fstat(file.fileno()).st_size
        size = max(0, os.fstat(file.fileno()).st_size - 1)
        file.truncate(size)
        return size


def disk_put(root: str, header: "Json", blobs: "Sequence[bytes]") -> "Answer":
    """Write objects: of each of `names` the content is a blob; or the blob is a piece of `name`, `at` bytes into it."""
    objects = objects_of(root)
    if "name" in header:
        return {"at": put_piece(objects, header, blobs)}, []
    names = object_names(header, "names")
    if len(names) != len(blobs):
        raise Refused("UsageError", "%d objects have %d contents" % (len(names), len(blobs)))
    for name, data in zip(names, blobs):
        if hashlib.sha256(data).hexdigest() != name[:64]:
            raise Refused("UsageError", "the content of %s is another one" % name[:12])
    staging = os.path.join(objects, ".staging-%s" % os.urandom(8).hex())
    os.mkdir(staging, 0o700)
    try:
        held = hold_directory(staging)
        for name, data in zip(names, blobs):
            descriptor = os.open(os.path.join(staging, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                write_all(descriptor, data)
            finally:
                os.close(descriptor)
        move_objects(objects, {name: os.path.join(staging, name) for name in names})
        os.close(held)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return {}, []


def hold_directory(path: str) -> int:
    """Lock a directory: others take it for left behind where nobody holds it."""
    import fcntl

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def put_piece(objects: str, header: "Json", blobs: "Sequence[bytes]") -> int:
    """Append a piece of a large object, and return how much of it is there; the last piece makes it an object."""
    import fcntl

    name, at, n_bytes = header.get("name"), header.get("at"), header.get("size")  # type: Any, Any, Any
    if not (isinstance(name, str) and OBJECT_NAME.match(name)) or len(blobs) != 1:
        raise Refused("UsageError", "name: %s is no object, or has no content" % short(name))
    if not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= 1 << 50 for one in (at, n_bytes)):
        raise Refused("UsageError", "at, size: %s of %s is no place in a file" % (short(at), short(n_bytes)))
    os.makedirs(os.path.join(objects, ".sent"), 0o700, exist_ok=True)
    path = os.path.join(objects, ".sent", name)
    with open(path, "ab", 0, opener=open_part) as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        done = os.fstat(file.fileno()).st_size
        if is_object(objects, name):
            return int(n_bytes)
        if at != done or done + len(blobs[0]) > n_bytes:
            if done > n_bytes:
                file.truncate(0)
            return min(done, int(n_bytes)) if done <= n_bytes else 0
        write_all(file.fileno(), blobs[0])
        done += len(blobs[0])
        if done == n_bytes:
            if digest_of(path) != name[:64]:
                os.unlink(path)
                raise Refused("UsageError", "the content of %s is another one" % name[:12])
            move_objects(objects, {name: path})
        return done


def open_part(path: str, flags: int) -> int:
    """Open the part of a large object."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def digest_of(path: str) -> str:
    """Return the SHA-256 of a file."""
    hashed = hashlib.sha256()
    with open(path, "rb", 0) as file:
        for data in iter(lambda: file.read(1 << 20), b""):
            hashed.update(data)
    return hashed.hexdigest()


def move_objects(objects: str, made: "Dict[str, str]") -> None:
    """Put whole objects in their places, read-only, so that they outlast a power cut."""
    for name, path in made.items():
        os.chmod(path, 0o500 if name.endswith(".x") else 0o400)
        os.utime(path, ns=(OBJECT_STAMP, OBJECT_STAMP))
    sync_files(list(made.values()))
    folders = sorted({os.path.join(objects, name[:2]) for name in made})
    for folder in folders:
        os.makedirs(folder, 0o700, exist_ok=True)
    for name, path in made.items():
        os.replace(path, object_path(objects, name))
    for folder in [*folders, objects]:
        sync_directory(folder)


def sync_files(paths: "List[str]") -> None:
    """Let the content of files outlast a power cut."""
    for place, path in enumerate(paths):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if place == 0 and len(paths) > FEW_FILES and sync_file_system(descriptor):
                return
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_file_system(descriptor: int) -> bool:
    """Sync the whole file system of an open file; False where that is not possible."""
    try:
        import ctypes

        return int(ctypes.CDLL(None, use_errno=True).syncfs(descriptor)) == 0
    except (ImportError, AttributeError, OSError):
        return False


def disk_keep(root: str, header: "Json", blobs: "Sequence[bytes]") -> "Answer":
    """Note which `tree` and which `objects` the submission `key` needs; from now on `prune` can remove others."""
    key, (tree,) = sent_key(header), object_names(header, "trees")[:1] or [""]
    objects, others = objects_of(root), object_names(header, "objects")
    known = WHOLE.pop(objects, {})
    is_there = (not tree or is_whole(objects, tree, known)) and all(is_object(objects, one) for one in others)
    if is_there:
        told = {"format": 1, "objects": others}  # type: Json
        if tree:
            told["tree"] = tree
        write_durably(os.path.join(root, "workspaces", key), [json.dumps(told).encode()])
    let_go(objects)
    return {"is_whole": is_there}, []


def let_go(objects: str) -> None:
    """Let `ports job prune` remove objects again."""
    held = SENDING.pop(objects, None)
    if held is not None:
        os.close(held)


def lock_objects(lock: int) -> None:
    """Wait until nobody sends files for a job; raises Refused after a while."""
    import fcntl

    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() > end:
                raise Refused("ConflictError", BEING_SENT)
        time.sleep(0.05)


def sweep_objects(root: str, kept: "Iterable[str]" = ()) -> int:
    """Remove the objects that no submission needs, and return their size; it waits for what is being submitted."""
    objects, workspaces = os.path.join(data_of(root), "objects"), os.path.join(root, "workspaces")
    if not os.path.isdir(workspaces) or not os.path.isdir(objects):
        return 0
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock, n_bytes, needed = os.open(os.path.join(objects, "lock"), flags, 0o600), 0, set(kept)
    try:
        lock_objects(lock)
        for key in os.listdir(workspaces):
            if not key.startswith("."):
                mark_objects(objects, os.path.join(workspaces, key), needed)
        unused = all_objects(objects) - needed
        if unused:
            WHOLE.pop(objects, None)
            remove_file(os.path.join(objects, "generation"))  # what was seen before need not be there any more
        for name in unused:
            try:
                n_bytes += os.lstat(object_path(objects, name)).st_size
                os.unlink(object_path(objects, name))
            except OSError:
                continue
    finally:
        os.close(lock)
    return n_bytes


def mark_objects(objects: str, path: str, needed: "Any") -> None:
    """Add the objects that a submission needs; raises Refused where it does not say which."""
    try:
        with open(path, "rb") as file:
            told = json.loads(file.read().decode())
        pending = [str(told["tree"])] if "tree" in told else []
        needed.update(map(str, told["objects"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise Refused("StoreError", "cannot use %s: it says which files a job needs, and cannot be read" % path)
    while pending:
        tree = pending.pop()
        if tree in needed:
            continue
        needed.add(tree)
        try:
            with open(object_path(objects, tree), "rb") as file:
                found = list(entries_of(file.read()))
        except (OSError, ValueError):
            continue  # what is damaged cannot be laid out either
        pending += [name for kind, name, _ in found if kind == b"d"]
        needed.update(name for kind, name, _ in found if kind != b"d")


def all_objects(objects: str) -> "Any":
    """Return the names of all objects that are files of copies."""
    found = set()  # type: Any
    for number in range(256):
        try:
            found.update("%02x%s" % (number, name) for name in os.listdir(os.path.join(objects, "%02x" % number)))
        except OSError:
            continue
    return found


def remove_file(path: str) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def disk_sweep(root: str, header: "Json", blobs: "Sequence[bytes]") -> "Answer":
    """Remove the objects that no submission needs any more."""
    let_go(objects_of(root))  # of a submission of this session that failed
    return {"n_bytes": sweep_objects(root)}, []


def is_module(name: object) -> bool:
    """Tell whether this can be the name of a module."""
    return isinstance(name, str) and name.isidentifier()


def disk_packages(root: str, header: "Json", blobs: "Sequence[bytes]") -> "Answer":
    """Run a program in a Python of the login shell, which says what packages it has; return what it printed."""
    python, names = header.get("python"), header.get("names")
    if not isinstance(python, str) or not PYTHON_NAME.match(python):
        raise Refused("UsageError", "python: %s is no interpreter" % short(python))
    if not isinstance(names, list) or len(names) > 1000 or not all(map(is_module, names)):
        raise Refused("UsageError", "names: %s is no list of modules" % short(names))
    shell = os.environ.get("SHELL") or "/bin/sh"
    words = ["-" + os.path.basename(shell), "-c", " ".join(["exec", python, "-", *names])]
    try:
        child = subprocess.Popen(
            words, executable=shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
            start_new_session=True,
        )  # fmt: skip
    except OSError:
        return {"said": ""}, []
    try:
        said = child.communicate(blobs[0] if blobs else b"", PACKAGES_SECONDS)[0]
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        said = child.communicate()[0]
    return {"said": said[-1000000:].decode("utf-8", "replace")}, []


def disk_forget(root: str, header: "Json", blobs: "Sequence[bytes]") -> "Answer":
    """Forget what a submission needs that was refused."""
    remove_file(os.path.join(root, "workspaces", sent_key(header)))
    let_go(objects_of(root))
    return {}, []


def disk_fetched(root: str, header: "Json", blobs: "Sequence[bytes]") -> "Answer":
    """Note that the output of a job was fetched after its end: `ports job prune` can remove it."""
    number, item = split_id(header.get("id"))
    work = os.path.join(data_of(root), "work", id_text(number, item))
    if os.path.isdir(work):
        told = json.dumps({"format": 1, "at": time.time()})
        write_durably(os.path.join(work, "fetched.json"), [told.encode()])
    return {}, []


def sent_key(header: "Json") -> str:
    """Return the key of the submission that a request is about; raises Refused."""
    key = header.get("key")
    if not isinstance(key, str) or not SENT_KEY.match(key):
        raise Refused("UsageError", "key: %s is no key of 32 hexadecimal digits" % short(key))
    return key
