"""Settings: ``ports:`` in Dask's own YAML files and ``DASK_PORTS__…`` in the environment.

They are read without importing Dask, because the command line starts often. Where Dask is imported already, its
configuration is used, so that ``dask.config.set({"ports.cluster.n_workers": 4})`` works in a notebook.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ports.errors import SettingError, warn
from ports.state import paths
from ports.state._schema import allowed as allowed
from ports.state._schema import check as check
from ports.state._schema import default_in_words as default_in_words
from ports.state._schema import defaults as defaults
from ports.state._schema import mismatch as mismatch
from ports.state._schema import near, problems
from ports.state._schema import options as options
from ports.state._schema import schema as schema
from ports.state._schema import section as section

_PREFIX = "DASK_PORTS__"
_overridden: dict[str, Any] = {}


def load() -> dict[str, Any]:
    """Return all settings: the packaged defaults, then files, then the environment.

    A mistake in a file of the site or of the environment is a warning, and the default serves: its user may be unable
    to correct it.

    Raises
    ------
    SettingError
        A key or value is invalid; names the file, the key, the value and what is allowed.
    """
    merged = defaults()
    for source, found in _sources():
        data = _as_words(found, schema())
        for path, reason in problems(data, schema()):
            error = SettingError(source, ".".join(["ports", *path]), reason)
            if not _is_of_the_site(source, path):
                raise error
            _warn_once(f"{error}; the default serves until it is corrected")
            data = _without(data, path)
        _merge(merged, data)
    _merge(merged, _overridden)
    return merged


def explain() -> tuple[list[dict[str, Any]], list[SettingError]]:
    """Return each setting with its value and the file or variable that it is from, and all mistakes.

    What Dask has read already is not looked at: this reads the files and variables again. The `source` of a default is
    None.
    """
    mistakes: list[SettingError] = []
    sources: dict[str, str] = {}
    merged = defaults()
    for source, found in [
        *((str(file), _canonical(data["ports"])) for file, data in _documents("ports", mistakes) if data.get("ports")),
        *_variables(),
        *([("an option of this command", _overridden)] if _overridden else []),
    ]:
        data = _as_words(found, schema())
        for path, reason in problems(data, schema()):
            mistakes.append(SettingError(source, ".".join(["ports", *path]), reason))
            data = _without(data, path)
        sources |= {key: source for key, _ in _leaves(data, schema())}
        _merge(merged, data)
    rows = [{"name": key, "value": value, "source": sources.get(key)} for key, value in _leaves(merged, schema())]
    return rows, mistakes


def _without_secrets(value: Any, node: dict[str, Any]) -> Any:
    """Return a value as it can be shown: of secret addresses, only what kind of service each is."""
    if not node.get("secret"):
        return value
    texts = [str(one) for one in (value if isinstance(value, list | tuple) else [value])]
    return [f"{scheme}://…" if rest else "…" for scheme, _, rest in (text.partition("://") for text in texts)]


def _leaves(data: Any, node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of each setting in `data`."""
    for key, value in data.items() if isinstance(data, dict) else ():
        inner = node["properties"].get(key, {})
        if "properties" in inner:
            yield from _leaves(value, inner, (*path, key))
        else:
            yield ".".join([*path, key]), _without_secrets(value, inner)


def get(key: str) -> Any:
    """Return one setting, ``"cluster.n_workers"``; raises as `load`."""
    value: Any = load()
    for part in key.split("."):
        value = value[part]
    return value


def override(key: str, value: str) -> None:
    """Set a setting for this process and those that it starts; it overrides files and variables, as an option does."""
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
    """Return the value of an environment variable that the user names; None where it is not set."""
    return os.environ.get(name)


def host(alias: str) -> dict[str, Any]:
    """Return the settings of the host `alias`, or an empty dict. A node ``alias/node`` has those of `alias`."""
    hosts = get("hosts")
    return dict(hosts.get(alias.partition("/")[0]) or {}) if isinstance(hosts, dict) else {}


def hosts() -> list[str]:
    """Return the aliases that `ports open` takes when none is named."""
    return list(get("hosts"))


def _sources() -> list[tuple[str, dict[str, Any]]]:
    """Return the sources of settings and what each contains; the last one wins."""
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
    """Look once for a misspelt key ``ports``, where Dask has read the files."""
    _documents("ports")


def _documents(word: str, mistakes: list[SettingError] | None = None) -> list[tuple[Path, dict[str, Any]]]:
    """Return the configuration files with the key `word`, parsed; the last one wins.

    A file that cannot be read is added to `mistakes`. Without `mistakes`, one of the site is a warning, and one of the
    user raises SettingError.
    """
    found = []
    for place in paths.configuration_directories():
        files = [*place.glob("*.yaml"), *place.glob("*.yml"), *place.glob("*.json")] if place.is_dir() else [place]
        for file in sorted(files):
            try:
                data = _read_yaml(file, word)
            except SettingError as error:
                if mistakes is not None:
                    mistakes.append(error)
                elif _is_of_the_site(str(file)):
                    _warn_once(f"{error}; the file is left out until it is corrected")
                else:
                    raise
                continue
            if data:
                found.append((file, data))
    return found


def _is_of_the_site(source: str, path: tuple[str, ...] = ()) -> bool:
    """Tell whether a mistake is in a file of the site or of the environment, which its user may be unable to correct.

    Where Dask has read the files, the one with a mistake at `path` is looked for.
    """
    places = paths.configuration_directories()[:2]
    if source != "dask.config":
        return any(place in (Path(source), Path(source).parent) for place in places)
    wrong = [
        str(file)
        for file, data in _files()
        if any(one == path for one, _ in problems(_as_words(_canonical(data), schema()), schema()))
    ]
    return bool(wrong) and all(_is_of_the_site(file) for file in wrong)


@functools.cache
def _warn_once(text: str) -> None:
    warn(text)


def _without(data: Any, path: tuple[str, ...]) -> Any:
    """Return `data` without what `path` leads to; of a list, without the whole list."""
    if not path or not isinstance(data, dict):
        return {}
    key = next((one for one in data if str(one) == path[0]), None)
    rest = {name: value for name, value in data.items() if name != key}
    inner = data.get(key)
    if len(path) > 1 and isinstance(inner, dict):
        rest[key] = _without(inner, path[1:])
    return rest


def _read_yaml(file: Path, word: str) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return {}  # as Dask does: a file that this user cannot read is another user's
    except UnicodeDecodeError as error:
        raise SettingError(str(file), "ports", f"the file is not UTF-8 text ({error.reason})") from error
    # importing YAML takes 10 ms, and each installation has files of Dask's without this key
    if file.stem != "ports" and not _key(word).search(text):
        return {}
    data = _parse(file, text)
    return data if isinstance(data, dict) else {}


@functools.cache
def _key(word: str) -> re.Pattern[str]:
    """Return a pattern for the key `word` in YAML or JSON, outside of comments."""
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
    """Write keys with ``_`` instead of ``-``, as Dask allows both; names of hosts and variables stay as they are."""
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
    """Return `data` with the word ``off`` where a setting allows it and YAML has read it, unquoted, as False."""
    if isinstance(data, dict) and "properties" in node:
        return {key: _as_words(value, node["properties"].get(key, {})) for key, value in data.items()}
    return "off" if data is False and "off" in node.get("enum", ()) else data


def _check_header(file: Path, data: dict[str, Any]) -> None:
    """Raise SettingError where a file called ``ports.yaml`` has a misspelt ``ports:``, or settings outside of it.

    Dask would ignore them silently. Other keys are allowed, because the file is one of Dask's.
    """
    if file.stem != "ports" or "ports" in data:
        return
    for key in map(str, data):
        if key in schema()["properties"]:
            raise SettingError(str(file), key, "it is ignored here; settings belong below the key 'ports'")
        if near(key, ["ports"]):
            raise SettingError(
                str(file), key, "it is not a key of ports, so it would be ignored; did you mean 'ports'?"
            )


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
