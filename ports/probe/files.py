"""Files and directories of this user: what is private, what may be trusted, and how a file is replaced."""

import errno
import os
import stat

if __name__ != "__main__":  # piped, these names are there already
    from .identity import own_uid


class NotOwnError(ValueError):
    """A file is another user's, a link, or no regular file."""


def is_private(path: str) -> bool:
    """Tell whether `path` is a directory of this user's own, no link, that nobody else may enter."""
    try:
        return is_private_directory(os.lstat(path))
    except OSError:
        return False


def is_private_directory(found: "os.stat_result") -> bool:
    """Tell the same from the status of a file."""
    return stat.S_ISDIR(found.st_mode) and found.st_uid == own_uid() and not found.st_mode & 0o077


def usual_runtime_directory() -> str:
    """Return the directory for Unix sockets that `ports` uses unless somebody else made it first."""
    return "/tmp/ports-%d" % os.getuid()


def own_text(path: str, private: bool = False) -> str:
    """Return the text of a file of this user's own or of root's; `private` ones only this user may read or write.

    The file is judged once it is open, so nobody can exchange it in between. Raises OSError, NotOwnError and, for what
    is not UTF-8, UnicodeDecodeError.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # else a FIFO would block
    try:
        with open(path, encoding="utf-8", opener=lambda name, _: os.open(name, flags)) as file:
            found = os.fstat(file.fileno())
            if hasattr(os, "getuid") and found.st_uid not in ((own_uid(),) if private else (own_uid(), 0)):
                raise NotOwnError("it belongs to uid %d, not to you" % found.st_uid)
            if not stat.S_ISREG(found.st_mode):
                raise NotOwnError("it is no file")
            if private and found.st_mode & 0o077:
                raise NotOwnError("others may read or write it")
            return file.read()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotOwnError("it is a link")
        raise


def write_text(path: str, text: str) -> None:
    """Replace the file `path` by `text` in one step, mode 0600: readers see the old file or the new one, never half.

    Raises OSError; then the old file is still there.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, ".%s.%s" % (name, os.urandom(8).hex()))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(temporary, flags, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:  # it has its name already, or its directory is gone: the first error counts
            pass
        raise
