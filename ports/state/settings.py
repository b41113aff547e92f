"""Settings: ``ports:`` in Dask's own YAML files and ``DASK_PORTS__…`` in the environment.

Read without importing Dask, because the command line starts often; where Dask is imported already, its configuration is
taken, so that ``dask.config.set({"ports.cluster.n_workers": 4})`` works in a notebook.
"""

from __future__ import annotations

import ast
import copy
import functools
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ports.errors import SettingError, UsageError
from ports.state import paths

_PREFIX = "DASK_PORTS__"
_overridden: dict[str, Any] = {}


@functools.cache
def schema() -> dict[str, Any]:
    """Return the JSON schema of the settings; each leaf holds its default and description."""
    loaded: dict[str, Any] = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
    return loaded


def defaults() -> dict[str, Any]:
    """Return the packaged defaults."""
    return _defaults(schema())


def load() -> dict[str, Any]:
    """Return all settings: the packaged defaults, then files, then the environment.

    Raises
    ------
    SettingError
        A key or value that cannot be; it names the file, the key, the value and what is allowed.
    """
    merged = defaults()
    for source, found in _sources():
        data = _as_words(found, schema())
        _validate(source, data)
        _merge(merged, data)
    _merge(merged, _overridden)
    return merged


def get(key: str) -> Any:
    """Return one setting, ``"cluster.n_workers"``; raises as `load`."""
    value: Any = load()
    for part in key.split("."):
        value = value[part]
    return value


def override(key: str, value: str) -> None:
    """Set a setting for this process and those that it starts, before all that stands elsewhere: an option's work."""
    document: Any = value
    for part in reversed(key.split(".")):
        document = {part: document}
    _merge(_overridden, document)
    os.environ[_PREFIX + key.upper().replace(".", "__")] = value


def dask_value(key: str) -> Any:
    """Return a top-level setting of Dask's own, ``"temporary-directory"``; None where it is not set."""
    dask_config = sys.modules.get("dask.config")
    if dask_config is not None:
        return dask_config.get(key, None)
    found = os.environ.get(f"DASK_{key.upper().replace('-', '_')}")
    for _, data in [] if found else _documents(key):
        found = data.get(key, data.get(key.replace("-", "_"), found))
    return found


def variable(name: str) -> str | None:
    """Return the environment's value of a variable that the user names; None where there is none."""
    return os.environ.get(name)


def host(alias: str) -> dict[str, Any]:
    """Return the settings of the host `alias`; empty where it has none. A node ``alias/node`` has those of `alias`."""
    hosts = get("hosts")
    return dict(hosts.get(alias.partition("/")[0]) or {}) if isinstance(hosts, dict) else {}


def hosts() -> list[str]:
    """Return the aliases that `ports open` takes when none is named."""
    return list(get("hosts"))


def _sources() -> list[tuple[str, dict[str, Any]]]:
    """Return where settings come from, the last one winning, with what stands there."""
    dask_config = sys.modules.get("dask.config")
    if dask_config is not None:
        _check_files()
        found = [("dask.config", _canonical(dask_config.config.get("ports") or {}))]
        return [(source, data) for source, data in found if data]
    found = [(str(path), _canonical(data)) for path, data in _files()]
    found += [(variable, data) for variable, data in _variables()]
    return [(source, data) for source, data in found if data]


def _files() -> list[tuple[Path, Any]]:
    return [(file, data["ports"]) for file, data in _documents("ports") if data.get("ports")]


@functools.cache
def _check_files() -> None:
    """Look once for a misspelt header, where Dask has read the files."""
    _documents("ports")


def _documents(word: str) -> list[tuple[Path, dict[str, Any]]]:
    """Return the configuration files that hold `word`, parsed, the last one winning."""
    found = []
    for place in paths.configuration_directories():
        files = [*place.glob("*.yaml"), *place.glob("*.yml"), *place.glob("*.json")] if place.is_dir() else [place]
        found += [(file, data) for file in sorted(files) if (data := _read_yaml(file, word))]
    return found


def _read_yaml(file: Path, word: str) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return {}  # as Dask does: a file that may not be read is another user's affair
    except UnicodeDecodeError as error:
        raise SettingError(str(file), "ports", f"the file is not UTF-8 text ({error.reason})") from error
    # to import YAML takes 10 ms, and each installation has files of Dask's that say nothing of this
    if file.stem != "ports" and not _key(word).search(text):
        return {}
    data = _parse(file, text)
    return data if isinstance(data, dict) else {}


@functools.cache
def _key(word: str) -> re.Pattern[str]:
    """Return what finds the key `word` in YAML or JSON, outside of comments."""
    name = re.escape(word).replace(r"\-", "[-_]")
    return re.compile(rf"""^(?!\s*#).*(?<![\w.-]){name}["']?\s*:""", re.MULTILINE)


@functools.lru_cache(maxsize=64)
def _parse(file: Path, text: str) -> Any:
    import yaml

    try:
        data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise SettingError(str(file), "ports", f"the file is not YAML: {' '.join(str(error).split())}") from error
    if isinstance(data, dict):
        _check_header(file, data)
    return data


def _variables() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for variable, text in sorted(os.environ.items()):
        if variable.startswith(_PREFIX):
            value: Any = text
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                if text.lower() in ("true", "false"):
                    value = text.lower() == "true"
                elif text.lower() in ("none", "null"):
                    value = None
            for part in reversed(variable.removeprefix(_PREFIX).lower().split("__")):
                value = {part: value}
            found.append((f"${variable}", _canonical(value)))
    return found


def _canonical(data: Any, depth: int = 0, inside: str = "") -> Any:
    """Write keys with ``_`` for ``-``, as Dask takes both; names of hosts and variables stay as they are."""
    if not isinstance(data, dict):
        return data
    free = inside in ("hosts", "environ", "options")
    return {
        (str(key) if free else str(key).replace("-", "_")): _canonical(
            value, depth + 1, "" if free or depth > 1 else str(key)
        )
        for key, value in data.items()
    }


def _as_words(data: Any, node: dict[str, Any]) -> Any:
    """Return `data` with the word ``off`` where a setting takes it and YAML, unquoted, has made it False."""
    if isinstance(data, dict) and "properties" in node:
        return {key: _as_words(value, node["properties"].get(key, {})) for key, value in data.items()}
    return "off" if data is False and "off" in node.get("enum", ()) else data


@functools.cache
def _validator() -> Any:
    import fastjsonschema

    return fastjsonschema.compile(schema(), use_default=False)


def _validate(source: str, data: Any) -> None:
    import fastjsonschema

    try:
        _validator()(data)
    except fastjsonschema.JsonSchemaValueException as error:
        key = ".".join(["ports", *error.path[1:]])
        reason = error.message.removeprefix(f"{error.name} ")
        if error.rule == "additionalProperties":
            unknown = sorted(set(error.value) - set(error.definition.get("properties", {})))
            key, known = f"{key}.{unknown[0]}", ", ".join(sorted(error.definition.get("properties", {})))
            meant = _near(unknown[0], error.definition.get("properties", {}))
            raise SettingError(source, key, f"no such setting; {meant}there are {known}") from error
        raise SettingError(source, key, f"{error.value!r} {reason}{_allowed(error.definition)}") from error


def _near(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean …; ``; empty where nothing resembles `word`."""
    import difflib

    near = difflib.get_close_matches(word.lower().replace("-", "_"), sorted(known), n=1)
    return f"did you mean {near[0]}? " if near else ""


def _check_header(file: Path, data: dict[str, Any]) -> None:
    """Raise SettingError where a file of our name has no ``ports:``, but what was meant to be it or to stand below it.

    Dask reads such a file in silence. Other keys may stand in it: it is one of Dask's own.
    """
    if file.stem != "ports" or "ports" in data:
        return
    for key in map(str, data):
        if key in schema()["properties"]:
            raise SettingError(str(file), key, "it is ignored where it stands; settings stand below the key 'ports'")
        if _near(key, ["ports"]):
            raise SettingError(str(file), key, "it is no key of ports and would be ignored; did you mean 'ports'?")


def _allowed(definition: dict[str, Any]) -> str:
    """Return the range and the meaning that the schema gives, to follow what is wrong."""
    least, most = definition.get("minimum"), definition.get("maximum")
    within = f", {least} to {most}" if most is not None else f", {least} or more" if least is not None else ""
    about = definition.get("description")
    return within + (f" ({str(about).rstrip('.')})" if about else "")


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _defaults(node: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _defaults(inner)
        if inner.get("type") == "object" and "properties" in inner
        else copy.deepcopy(inner["default"])
        for key, inner in node["properties"].items()
    }


# Of numbers among the options: (least, most, what the number is)
_NUMBERS = {
    "guard_mark": (0.001, 0.9, "the part of the memory that shall stay available"),
    "guard_pressure": (0.1, 100, "percent"),
    "idle": (0, 1e6, "hours, or 0 for never"),
    "expire": (0, 1e6, "days, or 0 for never"),
}


def check_limits(options: Mapping[str, Any]) -> None:
    """Look whether the numbers among `NAMES` can be, those that are given; raises as `check`."""
    for name, value in options.items():
        least, most, what = _NUMBERS[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise UsageError(f"{name} is {value!r}; it must be from {least:g} to {most:g}: {what}")
