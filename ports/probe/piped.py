"""The text that is piped to ``python3 -`` on another host, and the answer among what comes back."""

import json
import os
import sys

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional, Tuple

    Json = Dict[str, Any]

# An interpreter of the version that made the byte code saves the 10 ms in which it would compile the text. Both are
# packed: the probe fits into a pipe (64 KiB) and is handed over at once.
PROGRAM = """
import binascii, marshal, zlib
try:
    from _frozen_importlib_external import MAGIC_NUMBER as magic
except ImportError:
    magic = b""
known, packed, text = %r, %r, %r
if magic and magic == known:
    for code in marshal.loads(zlib.decompress(binascii.a2b_base64(packed))):
        exec(code)
else:
    exec(zlib.decompress(binascii.a2b_base64(text)).decode())
main(%r)
"""
# A program that goes on talking with home is the first line of its input. Bash, zsh, tcsh and fish understand it alike.
SESSION = '{python} -I -S -c "import sys;exec(sys.stdin.buffer.readline())"'
TOO_OLD = "too-old:"
LOADER = (
    "import os,sys,zlib,binascii\n"
    "if sys.version_info<(3,6):os.write(1,b'\\n%(marker)s%(old)s%%d.%%d\\n'%%sys.version_info[:2]);sys.exit(1)\n"
    "exec(compile(zlib.decompress(binascii.a2b_base64('%(text)s')),'ports-program','exec'))\n"
)
HAS_DOCSTRING = 0x4000000  # of co_flags
SURVEY = (
    "identity",
    "files",
    "living",
    "own_host",
    "records",
    "sockets",
    "recognise",
    "ask",
    "nodes",
    "programs/probe",
)
FILES = {
    "probe": ("answer", *SURVEY),
    "run": ("answer", "identity", "files", "own_host", "clients", "delivery", "installations", "programs/run"),
    "examine": (
        *("answer", "identity", "vitals", "files", "own_host", "memory", "installations"),
        *("programs/run", "logout", "programs/examine"),
    ),
    "who": (
        "answer",
        "identity",
        "vitals",
        "processes",
        "memory",
        "promises",
        "gpus",
        "files",
        "own_host",
        "queue/kept",
        "programs/who",
    ),
    "echo": ("answer", "identity", "programs/echo"),
    "jobs": ("answer", "identity", "files", "own_host", "socket_users", "queue/frames", "queue/reach", "programs/jobs"),
    "agent": (
        *SURVEY,
        "clients",
        "agent/mux",
        "socket_users",
        "agent/dial",
        "agent/watch",
        "vitals",
        "ring",
        "agent/views",
        "agent/browse",
        "programs/agent",
    ),
}
AT_REST = ("queue/words", "queue/durable", "queue/kept", "queue/places", "queue/left", "queue/ended", "queue/rest")
# What a program that goes on talking gets later, when it needs it.
MORE = {
    "jobs": (*AT_REST, "queue/sent", "queue/disk"),
    "agent": (
        *("processes", "memory", "promises", "gpus", "programs/who", "queue/frames", "queue/reach"),
        *AT_REST,
        "agent/view",
    ),
}


def script(request: "Json") -> str:
    """Return the program that answers `request`, as text for the standard input of ``python3 -``.

    Parameters
    ----------
    request : dict
        ``do``: a key of `FILES`, which is also the name of a function and of its file in ``programs``. ``marker``: any
        text that marks the answer among what shells print. The rest is what that function takes.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    files = [(name, os.path.join(here, name + ".py")) for name in FILES[request["do"]]]
    texts = []
    for _, path in files:
        with open(path, "rb") as file:
            texts.append(file.read())
    magic, codes = compiled(files, lines=request["do"] not in ("probe", "examine", "jobs", "who"))
    return PROGRAM % (magic, codes, packed(without_words(b"\n".join(texts))), json.dumps(request))


def first_line(request: "Json") -> bytes:
    """Return the program that answers `request` as one line for `SESSION`: the program reads what comes behind it.

    A python3 that is too old prints the marker, `TOO_OLD` and its version.
    """
    import binascii
    import zlib

    text = binascii.b2a_base64(zlib.compress(script(request).encode(), 9), newline=False).decode()
    loader = LOADER % {"marker": request["marker"], "old": TOO_OLD, "text": text}
    return b"exec(" + repr(loader).encode() + b")\n"


def more(do: str, magic: str) -> "Tuple[bool, bytes]":
    """Return the rest of the program `do`, compressed: byte code (True), if the other side runs this version, or text.

    Parameters
    ----------
    magic : str
        The magic number of the interpreter on the other side, hexadecimal.
    """
    import marshal
    import zlib

    here = os.path.dirname(os.path.abspath(__file__))
    files = [(name, os.path.join(here, name + ".py")) for name in MORE[do]]
    known, codes = code_of(files, lines=False)
    if known and known.hex() == magic:
        return True, zlib.compress(marshal.dumps(codes), 7)
    texts = []
    for _, path in files:
        with open(path, "rb") as file:
            texts.append(file.read())
    return False, zlib.compress(without_words(b"\n".join(texts)), 7)


def without_words(text: bytes) -> bytes:
    """Return source code without its docstrings and without the comments that have a line of their own."""
    import re

    text = re.sub(rb'^( *)(""".*?""")', rb"\g<1>0", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(rb"(\n *#[^\n]*)+(?=\n)|\n+(?=\n)", b"", text)


def packed(data: bytes) -> bytes:
    """Return `data` smaller, as ASCII."""
    import binascii
    import zlib

    return binascii.b2a_base64(zlib.compress(data, 7), newline=False)


def compiled(files: "List[Tuple[str, str]]", lines: bool = True) -> "Tuple[bytes, bytes]":
    """Return this interpreter's magic number and the files' byte code, packed; both empty without CPython.

    Without `lines` it is a third smaller, but the module `traceback` cannot show it, which threads use.
    """
    import marshal

    magic, codes = code_of(files, lines)
    return (magic, packed(marshal.dumps(codes))) if magic else (b"", b"")


def code_of(files: "List[Tuple[str, str]]", lines: bool) -> "Tuple[bytes, List[Any]]":
    """Return the same, not packed."""
    try:
        # the names behind importlib.machinery, which need no import
        from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader

        loaders = [SourceFileLoader("ports.probe." + name.replace("/", "."), path) for name, path in files]
        return MAGIC_NUMBER, [smaller(loader.get_code(loader.name), lines) for loader in loaders]
    except (ImportError, OSError, ValueError, TypeError, AttributeError):  # the last two: not CPython
        return b"", []


def smaller(code: "Any", lines: bool) -> "Any":
    """Return byte code without the docstrings of functions, and without the table of its lines unless `lines`."""
    constants = [smaller(one, lines) if isinstance(one, type(code)) else one for one in code.co_consts]
    # 1, OPTIMIZED: a function, no class. Its first constant is the docstring or None; from Python 3.14 on a flag tells.
    is_function = code.co_flags & 1 and not code.co_name.startswith("<")
    if is_function and constants and (sys.version_info < (3, 14) or code.co_flags & HAS_DOCSTRING):
        constants[0] = None
    if lines:
        return code.replace(co_consts=tuple(constants))
    return code.replace(co_consts=tuple(constants), co_linetable=b"", co_filename="ports")


def read_answer(output: str, marker: str) -> "Optional[Json]":
    """Return the answer in the output of `script`; None where there is none, or half of one."""
    _, found, after = output.rpartition(marker)
    try:
        answer = json.loads(after.splitlines()[0]) if found else None
    except (ValueError, IndexError):
        return None
    return answer if isinstance(answer, dict) else None
