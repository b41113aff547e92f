"""``%ports …`` in IPython and notebooks: the commands of `ports`, after ``%load_ext ports``.

A command runs as a process of its own. So it prints what it prints in a terminal, Ctrl-C or *Interrupt Kernel* ends it
and nothing else, and no event loop, signal handler or memory of the kernel is touched.
"""

from __future__ import annotations

import codecs
import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

_SILENCE_SECONDS = 0.5  # what is printed on stderr, and followed by nothing for so long, is not the error


class CommandFailedError(Exception):
    """A command that failed: notebooks show its sentence alone, and run none of the cells below."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, exit_code)
        self.message, self.exit_code = message, exit_code

    def __str__(self) -> str:
        return self.message or f"exit code {self.exit_code}"

    def _render_traceback_(self) -> list[str]:
        return [f"ports: {self.message}"] if self.message else []


def load_ipython_extension(shell: Any) -> None:
    """Register ``%ports``; IPython calls this for ``%load_ext ports``."""

    def ports(line: str) -> Any:
        """Run a command of `ports`: ``%ports list``. With ``--json``, return its document."""
        return run_line(line, has_terminal=_has_terminal(shell))

    shell.register_magic_function(ports, "line", "ports")


def unload_ipython_extension(shell: Any) -> None:
    """Remove ``%ports``."""
    shell.magics_manager.magics["line"].pop("ports", None)


def run_line(line: str, *, has_terminal: bool = False) -> Any:
    """Run what is typed behind ``%ports``, and return the document of ``--json``, else None.

    Raises
    ------
    CommandFailedError
        The command failed, or it needs a terminal and there is none.
    """
    try:
        words = shlex.split(line) or ["--help"]
    except ValueError as error:
        raise CommandFailedError(f"{line!r} cannot be split into words: {error}".lower(), 2) from None
    as_json = "--json" in words[: words.index("--") if "--" in words else None]
    if not has_terminal and needs_terminal(words):
        raise CommandFailedError(f"{line.strip()!r} takes over a terminal; type it in one", 2)
    command = [sys.executable, "-m", "ports", *words]
    if has_terminal and not as_json:
        code, message, printed = _in_terminal(command), "", ""
    else:
        code, message, printed = _pass_on(command, keep=as_json)
    if code:
        raise CommandFailedError(message, code)
    return json.loads(printed) if as_json else None


def needs_terminal(words: Sequence[str]) -> bool:
    """Say whether a command takes over the terminal in which it is typed."""
    is_shell = words[0] == "shell" and not {"--list", "--stop", "-h", "--help"}.intersection(words)
    return is_shell or "attach" in words[1:2] or list(words[:2]) == ["job", "shell"]


def split_error(said: str) -> tuple[str, str]:
    """Return what a command that failed printed on stderr before its error, and the error without ``ports:``."""
    before, mark, error = f"\n{said}".rpartition("\nports: ")
    return (before[1:] + "\n" * bool(before[1:]), error.strip()) if mark else ("", said.strip())


def _has_terminal(shell: Any) -> bool:
    try:
        return all(os.isatty(number) for number in (0, 1, 2)) and not hasattr(shell, "kernel")
    except OSError:
        return False


def _in_terminal(command: Sequence[str]) -> int:
    """Run `command` in this terminal, where Ctrl-C reaches it, too; return its exit code."""
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _pass_on(command: Sequence[str], *, keep: bool) -> tuple[int, str, str]:
    """Run `command` and print what it prints as it comes; return exit code, error, and stdout if it was kept."""
    kept, is_interrupted, messages = "", False, _Messages()
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
    ) as process:
        while True:
            try:
                for is_error, text in _pieces(process):
                    if is_error:
                        messages.add(text)
                    elif keep:
                        kept += text
                    else:
                        _write(sys.stdout, text)
                break
            except KeyboardInterrupt:  # the command says what becomes of what it waited for; the second time it ends
                process.send_signal(signal.SIGTERM if is_interrupted else signal.SIGINT)
                is_interrupted = True
        code = process.wait()
    return code, messages.end(failed=bool(code)), kept


def _write(stream: TextIO, text: str) -> None:
    """Print what the command made harmless when it printed it."""
    stream.write(text)
    stream.flush()


class _Messages:
    """What a command prints on stderr. The last message waits for the next, or for a silence: it may be the error."""

    def __init__(self) -> None:
        self.said, self.n_shown = "", 0

    def add(self, text: str) -> None:
        if not text or self.said.endswith("\n"):
            self.show(len(self.said))
        self.said += text

    def show(self, end: int) -> None:
        _write(sys.stderr, self.said[self.n_shown : end])
        self.n_shown = max(self.n_shown, end)

    def end(self, *, failed: bool) -> str:
        """Show what is no error, and return the error."""
        before, error = split_error(self.said) if failed else (self.said, "")
        self.show(len(before))
        return error


def _pieces(process: subprocess.Popen[bytes]) -> Iterator[tuple[bool, str]]:
    """Yield what comes: whether of stderr, and the text; an empty text of stderr where nothing came for a while."""
    streams = {one.fileno(): one for one in (process.stdout, process.stderr) if one is not None}
    decoders = {number: codecs.getincrementaldecoder("utf-8")("replace") for number in streams}
    with selectors.DefaultSelector() as selector:
        for number in streams:
            selector.register(number, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(_SILENCE_SECONDS)
            if not ready:
                yield True, ""
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                if text := decoders[key.fd].decode(data, final=not data):
                    yield streams[key.fd] is process.stderr, text
