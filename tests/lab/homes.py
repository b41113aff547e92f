"""What a user finds at home on each host."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.lab.credentials import KeyPair


def write_file(path: Path, text: str, *, owner: tuple[int, int], mode: int = 0o644, top: Path | None = None) -> None:
    """Write `text` to `path`, which then belongs to `owner`, as do directories made on the way below `top`."""
    missing = [parent for parent in path.parents if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode=0o700 if parent.name == ".ssh" else 0o755)
        if top is not None and parent.is_relative_to(top):
            os.chown(parent, *owner)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(descriptor, mode)
        os.fchown(descriptor, *owner)


def furnish(home: Path, files: dict[str, tuple[str, int]], *, owner: tuple[int, int]) -> None:
    """Empty `home` and put /etc/skel and `files` (path below home → text, mode) into it."""
    home.mkdir(parents=True, exist_ok=True)
    empty(home)
    os.chown(home, *owner)
    home.chmod(0o700)
    skeleton = Path("/etc/skel")
    texts = dict(files)
    for name in (".bashrc", ".profile", ".bash_logout"):
        if (skeleton / name).is_file():
            text, mode = texts.get(name, ("", 0o644))
            texts[name] = ((skeleton / name).read_text() + text, mode)
    for name, (text, mode) in texts.items():
        write_file(home / name, text, owner=owner, mode=mode, top=home)


def path_files(directory: str) -> dict[str, tuple[str, int]]:
    """Return the files by which a user of bash, tcsh or fish has `directory` on the PATH of a login shell."""
    return {
        ".profile": (f'\nPATH="{directory}:$PATH"\n', 0o644),
        ".cshrc": (f'setenv PATH "{directory}:$PATH"\n', 0o644),
        ".config/fish/config.fish": (f'if status is-login\n    set -gx PATH "{directory}" $PATH\nend\n', 0o644),
    }


def client_files(key: KeyPair, config: str, known_hosts: str) -> dict[str, tuple[str, int]]:
    """Return the files of somebody who uses ssh from here."""
    return {
        ".ssh/config": (config, 0o600),
        ".ssh/id_ed25519": (key.private, 0o600),
        ".ssh/id_ed25519.pub": (key.public, 0o644),
        ".ssh/known_hosts": (known_hosts, 0o600),
    }


def server_files(key: KeyPair) -> dict[str, tuple[str, int]]:
    """Return the files that let the owner of `key` in."""
    return {".ssh/authorized_keys": (key.public, 0o600)}


def empty(directory: Path, *, keep: tuple[str, ...] = ()) -> None:
    """Remove all that lies in `directory` but the names `keep`, and what comes and goes on this machine meanwhile."""
    for entry in directory.iterdir():
        if entry.name in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
