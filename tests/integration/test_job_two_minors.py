"""Functions between two minor versions of Python: an old one at home and a new one where jobs run, and the reverse.

uv finds or brings the interpreters, and makes an environment with `ports` and numpy for each.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Home

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.xdist_group("machine")]

TOP = Path(__file__).parents[2]
OLD, NEW = "3.10", "3.13"

CODE = '''
import json, linecache, sys
import numpy
import ports
from ports.errors import JobError, UnsendableError

CELL = """
SCALE = 3
def scaled(x):
    return [SCALE * one for one in helped(x)]
def helped(x):
    import math
    return [math.floor(x), x]
"""

def cell(text, name):
    """Run a cell as IPython does: its lines are known, and no file has them."""
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), globals())

def where():
    import sys
    return "%d.%d" % sys.version_info[:2]

def double(a):
    return a * 2

def same(value):
    return value

def add(x, y):
    return x + y

def fail(x):
    return 1 / x

class OwnError(Exception):
    pass

def fail_oddly():
    raise OwnError("only here")

def returns_an_object():
    return OwnError

def copied(file):
    with open(file) as opened, open("copy.txt", "w") as made:
        made.write(opened.read().upper())
    return ports.File("copy.txt")

def error(call):
    try:
        return ["result", repr(call())]
    except Exception as error:
        return [type(error).__name__, str(error), str(error.__cause__ or "")]

VALUES = {"a": (1, [2.5, None, True]), "b": {1, 2}, "z": 1 + 2j, "big": -2**80, "bytes": b"x" * 100_000,
          "text": "\\u00fc\\ud800", "inf": float("inf"), 7: frozenset([("x",)]), "scalar": numpy.float32(1.5)}
cell(CELL, "<ipython-input-1-abcdef>")
open("data.txt", "w").write("content")
many = ports.map(double, [numpy.arange(n, dtype="f4").reshape(1, n) for n in range(30)])
found = ports.gather(many, timeout=120)
job = ports.submit(add, 40, 1)
file = ports.submit(copied, ports.File("data.txt")).result(60)
print(json.dumps({
    "here": where(), "there": ports.submit(where).result(120),
    "map": [[one.dtype.str, list(one.shape), float(one.sum())] for one in found],
    "values": repr(ports.submit(same, VALUES).result(60)) == repr(VALUES),
    "cell": ports.submit(scaled, 2.5).result(60),
    "pipeline": ports.submit(add, job, ports.submit(add, 0, 1)).result(60),
    "file": [file.name, file.read().decode()],
    "error": error(lambda: ports.submit(fail, 0).result(60)),
    "own": error(lambda: ports.submit(fail_oddly).result(60)),
    "object": error(lambda: ports.submit(returns_an_object).result(60)),
    "lambda": error(lambda: ports.submit(lambda: 1)),
    "masked": error(lambda: ports.submit(same, numpy.ma.masked_array([1, 2], [True, False]))),
    "objects": error(lambda: ports.submit(same, numpy.array([object()]))),
}))
'''


@pytest.fixture(scope="module")
def pythons() -> Iterator[dict[str, str]]:
    """Return an interpreter with `ports` for each version."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed; `pip install uv` brings it")
    directory = Path(tempfile.mkdtemp(prefix="minors-", dir="/var/tmp"))
    try:
        found = {}
        for minor in (OLD, NEW):
            made = directory / minor
            there = next(map(str, Path.home().glob(f".pyenv/versions/{minor}.*/bin/python")), minor)
            words = [uv, "venv", "-q", "--python", there, str(made)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"uv has no Python {minor} here: {done.stderr.splitlines()[-1]}")
            python = str(made / "bin" / "python")
            subprocess.run([uv, "pip", "install", "-q", "--python", python, "-e", str(TOP), "numpy"], check=True)
            found[minor] = python
        yield found
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize(("here", "there"), [(OLD, NEW), (NEW, OLD)])
def test_functions_travel_between_two_minor_versions(
    home: Home, pythons: dict[str, str], here: str, there: str
) -> None:
    def ports(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [pythons[there], "-m", "ports", *words], cwd=home.work, capture_output=True, text=True, timeout=120
        )

    started = ports("resource", "start")
    assert started.returncode == 0, started.stderr
    try:
        code = home.work / "notebook.py"
        code.write_text(CODE)
        done = subprocess.run([pythons[here], code], cwd=home.work, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        check(json.loads(done.stdout.splitlines()[-1]), here, there)
    finally:
        stopped = ports("resource", "stop", "--now")
        assert stopped.returncode == 0, stopped.stderr


def check(told: dict[str, Any], here: str, there: str) -> None:
    """Look at what the script with the functions has said."""
    assert (told["here"], told["there"]) == (here, there)
    assert told["map"] == [["<f4", [1, n], float(n * (n - 1))] for n in range(30)]
    assert told["values"] and told["cell"] == [6, 7.5] and told["pipeline"] == 42
    assert told["file"] == ["copy.txt", "CONTENT"]
    kind, text, cause = told["error"]
    assert (kind, text) == ("ZeroDivisionError", "division by zero") and "return 1 / x" in cause
    kind, text, _ = told["own"]
    assert kind == "JobError" and "OwnError: only here" in text
    assert told["object"][0] == "UnsendableError" and "does not travel between versions" in told["object"][1]
    assert told["lambda"][0] == "UnsendableError" and "a lambda has no source" in told["lambda"][1]
    for name in ("masked", "objects"):
        assert told[name][0] == "UnsendableError", told[name]
