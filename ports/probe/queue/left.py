"""What is left for the next compute resource while none runs: submissions, and requests that change the queue.

Each is a file with one frame, whose name is a key that the client chose: a client that was interrupted leaves it again
with the same key, and nothing happens twice. The id of a submission is reserved first, by a directory that names the
key; then its file is written. A request has no id, and is done after the submissions.
"""

import os
import stat
import sys
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..identity import boot_id
    from .durable import create_durably, numbers_in, reserve_number, sync_directory, write_durably
    from .frames import HEAD, MAGIC, Decoder, ProtocolError, check_limits, encode, header_of
    from .words import SUBMISSION_KEY, Refused, is_number, short

MYPY = False
if MYPY:
    from typing import Any, Dict, List, NamedTuple, Optional, Sequence

    Json = Dict[str, Any]

    class LeftFile(NamedTuple):
        """One file that was left: its path, the id that was printed (0: none), what it asks; why it cannot be read."""

        path: str
        number: int
        header: Json
        blobs: Sequence[bytes]
        broken: Optional[str]

else:
    from collections import namedtuple

    LeftFile = namedtuple("LeftFile", "path number header blobs broken")

KEPT_NAMES = 256  # ids whose names stay, so that a repeated submission finds its key
REQUESTS = ("cancel",)  # what is left beside submissions
FURTHEST = 10**12


def check_key(value: object) -> str:
    """Return the key that a client chose, 32 hexadecimal digits; raises Refused."""
    if not isinstance(value, str) or not SUBMISSION_KEY.match(value):
        raise Refused("UsageError", "key: %s is not 32 hexadecimal digits" % short(value))
    return value


def since_boot() -> float:
    """Return seconds since the boot, those for which the machine was suspended included, where the system tells."""
    clock = getattr(time, "CLOCK_BOOTTIME", 7 if sys.platform == "linux" else None)  # Python 3.6 has no name for it
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def clock_stamp(monotonic: float, real: float, boot: str) -> str:
    """Return what the clocks show that nobody sets, and of which boot they are."""
    return "%.3f %.3f %s" % (monotonic, real, boot)


def leave_submission(
    root: str, key: str, submission: "Json", blobs: "Sequence[bytes]", count: "Optional[int]" = None, *, above: int = 0
) -> int:
    """Leave a submission for the next resource; return its number, when a power cut cannot undo it any more.

    Parameters
    ----------
    root : str
        The directory of jobs, whose parts exist.
    key : str
        32 hexadecimal digits; the same key gets the same id again.
    blobs : sequence of bytes
        The function or script, then the arguments of each job.
    above : int
        The highest id that the store knows: somebody can have removed the directory of ids.

    Raises Refused for an invalid key and a submission that is too large, and OSError.
    """
    check_key(key)
    ids, path = os.path.join(root, "ids"), os.path.join(root, "submissions", key)
    number = number_of_key(root, key)
    if number is None:
        number = reserve_number(ids, max([above, *numbers_in(ids)]))
        write_durably(os.path.join(ids, str(number), "key"), [key.encode()])
        sync_directory(ids)
    elif os.path.exists(path) or os.path.exists(os.path.join(ids, str(number), "taken")):
        return number
    header = {"op": "submit", "key": key, "id": number, "count": count, "submission": submission}
    header.update(at=time.time(), stamp=clock_stamp(time.monotonic(), since_boot(), boot_id()))
    try:
        data = encode(header, blobs)
    except ProtocolError as error:
        raise Refused("UsageError", "the submission is too large: %s" % error) from error
    if not create_durably(path, data):  # another process submitted with this key at the same moment
        return number_in(path) or number
    return number


def leave_request(root: str, key: str, header: "Json") -> None:
    """Leave a request for the next resource, as durable as a submission; raises OSError."""
    path = os.path.join(root, "submissions", check_key(key))
    create_durably(path, encode(dict(header, key=key, at=time.time())))


def number_of_key(root: str, key: str) -> "Optional[int]":
    """Return the id that was reserved for a key."""
    number = number_in(os.path.join(root, "submissions", key))
    if number is not None:
        return number
    ids = os.path.join(root, "ids")
    for one in sorted(numbers_in(ids), reverse=True)[: 4 * KEPT_NAMES]:
        try:
            with open(os.path.join(ids, str(one), "key"), "rb") as file:
                if file.read() == key.encode():
                    return one
        except OSError:
            continue
    return None


def number_in(path: str) -> "Optional[int]":
    """Return the id that a submission file names."""
    left = read_left_file(path, has_blobs=False)
    return left.number or None if left is not None else None


def read_left(root: str, has_blobs: bool = True) -> "List[LeftFile]":
    """Return what was left: submissions in the order of their ids, and then requests in the order of their times.

    Without `has_blobs`, the headers alone are read. Raises OSError where the directory cannot be listed.
    """
    directory = os.path.join(root, "submissions")
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except FileNotFoundError:
        return []
    found = [read_left_file(os.path.join(directory, name), has_blobs) for name in names]
    lefts = [left for left in found if left is not None]
    return sorted(lefts, key=lambda left: (not left.number, left.number, left.header.get("at") or 0.0))


def read_left_file(path: str, has_blobs: bool = True) -> "Optional[LeftFile]":
    """Return what a file that was left contains; None if there is no such file."""
    try:
        with open(path, "rb", opener=opened_safely) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return LeftFile(path, 0, {}, (), "it is no file")
            data = file.read() if has_blobs else head_of(file)
        header, blobs = Decoder().feed(data)[0] if has_blobs else (header_of(data), [])
    except (FileNotFoundError, IsADirectoryError):
        return None
    except OSError as error:
        return LeftFile(path, 0, {}, (), error.strerror or str(error))
    except (ValueError, IndexError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is not complete"
        return LeftFile(path, 0, {}, (), "it is damaged: %s" % reason)
    number = header.get("id")  # type: Any
    if header.get("op") in REQUESTS:
        at = header.get("at")
        is_one = number is None and isinstance(at, (int, float)) and isinstance(header.get("ids"), list)
        return LeftFile(path, 0, header, blobs, None if is_one else "it is no request")
    if not is_number(number, 1, FURTHEST - 1):
        return LeftFile(path, 0, {}, (), "it has no id")
    return LeftFile(path, number, header, blobs, None)


def opened_safely(path: str, flags: int) -> int:
    """Return the descriptor of a file; a link is not followed, and a FIFO holds nobody."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


def head_of(file: "Any") -> bytes:
    """Return the header of the one frame in a file; raises ValueError if the file is not as long as the frame."""
    head = file.read(HEAD.size)
    if len(head) < HEAD.size:
        raise ValueError("it is not complete")
    magic, n_header, n_blobs = HEAD.unpack(head)
    if magic != MAGIC:
        raise ValueError("no frame begins with %r" % magic)
    check_limits(n_header, n_blobs, 0)
    rest = file.read(n_header + 8 * n_blobs)
    lengths = [int.from_bytes(rest[at : at + 8], "big") for at in range(n_header, len(rest), 8)]
    n_bytes = HEAD.size + n_header + 8 * n_blobs + sum(lengths)
    if os.fstat(file.fileno()).st_size != n_bytes:
        raise ValueError("it is not complete")
    return bytes(rest[:n_header])


def note_taken(root: str, lefts: "Sequence[LeftFile]") -> None:
    """Remove the files that are in the store now, and the names of ids that are long past."""
    for left in lefts:
        try:
            name = os.path.join(root, "ids", str(left.number))
            if left.number and os.path.isdir(name):  # else somebody removed it
                with open(os.path.join(name, "taken"), "ab"):
                    pass
            os.unlink(left.path)
        except OSError:  # the next resource finds that it has it
            pass
    tidy_ids(root)


def tidy_ids(root: str) -> None:
    """Remove the names of all but the newest ids: the store has the others."""
    ids = os.path.join(root, "ids")
    for number in sorted(numbers_in(ids))[:-KEPT_NAMES]:
        path = os.path.join(ids, str(number))
        try:
            if not os.path.isdir(path):
                os.unlink(path)
                continue
            for name in ("key", "taken"):
                if os.path.exists(os.path.join(path, name)):
                    os.unlink(os.path.join(path, name))
            os.rmdir(path)
        except OSError:
            pass
