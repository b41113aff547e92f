"""Names of a package that are imported when they are first used (PEP 562)."""

import importlib

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, List, Sequence, Tuple

    Face = Tuple[Callable[[str], Any], Callable[[], List[str]], List[str]]


def face(package: str, names: "Dict[str, Sequence[str]]", modules: "Sequence[str]" = ()) -> "Face":
    """Return the ``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Parameters
    ----------
    package : str
        The package's ``__name__``.
    names : dict
        Module of the package -> its names that the package hands on.
    modules : sequence of str
        Modules that the package hands on whole, under the last part of their name.
    """
    known = {name: (module, name) for module, inner in names.items() for name in inner}
    known.update({module.rpartition(".")[2]: (module, "") for module in modules})

    def look_up(name: str) -> "Any":
        if name not in known:
            raise AttributeError("module %r has no attribute %r" % (package, name))
        module, inner = known[name]
        found = importlib.import_module("%s.%s" % (package, module))
        return getattr(found, inner) if inner else found

    return look_up, lambda: sorted(known), sorted(known)
