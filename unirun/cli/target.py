"""MODULE:FUNCTION on the command line: the function, or what is wrong with the name."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unirun._settings import unknown
from unirun.cli.status import WrongUse

__all__ = ["HELP", "find"]

HELP = (
    "an importable function, such as package.module:function or module:Class.method; "
    "the current directory is searched first"
)


def find(name: str) -> Callable[..., Any]:
    """The callable that `name` stands for; raises WrongUse. Imports its module."""
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise WrongUse(f"cannot use {name!r} as a function; write it as MODULE:FUNCTION")
    _make_current_directory_importable()
    found: Any = _import(module_name)
    where = f"module {module_name!r}"
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise WrongUse(f"{where}: {unknown('name', part, _public(found))}") from None
        where = f"{module_name}:{getattr(found, '__qualname__', part)}"
    if not callable(found):
        raise WrongUse(f"{name!r} is a {type(found).__name__}, not a function; name a callable")
    function: Callable[..., Any] = found
    return function


def _make_current_directory_importable() -> None:
    """As `python -m` does; the installed script starts with its own directory instead."""
    here = str(Path.cwd())
    if not sys.flags.safe_path and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _import(name: str) -> Any:
    if "/" in name or name.endswith(".py"):
        dotted = name.removesuffix(".py").strip("./").replace("/", ".")
        raise WrongUse(f"{name!r} is a file; name its module, such as {dotted!r}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise WrongUse(f"{name!r} is no name of a module; write it as package.module")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        missing = exc.name or ""
        if f"{name}.".startswith(f"{missing}."):
            raise WrongUse(_no_such_module(missing)) from None
        raise _failure(name, exc) from exc
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # whatever the module does when it is imported; sys.exit() too
        raise _failure(name, exc) from exc


def _failure(name: str, exc: BaseException) -> WrongUse:
    """Importing failed inside the module: its author wants to see where."""
    frames = traceback.extract_tb(exc.__traceback__)
    own = [frame for frame in frames[1:] if "importlib" not in frame.filename]
    trace = "".join(traceback.format_list(own))
    reason = "".join(traceback.format_exception_only(exc)).strip()
    return WrongUse(f"importing {name!r} failed\n{trace}{reason}")


def _no_such_module(missing: str) -> str:
    parent, _, last = missing.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", None)
    if parent and path is None:
        return f"there is no module {missing!r}: {parent!r} is no package; a colon goes before \
the function, as in '{parent}:{last}'"
    known = {found.name for found in pkgutil.iter_modules(path)}
    if not parent:
        known |= sys.stdlib_module_names
    return (f"package {parent!r}: " if parent else "") + unknown("module", last, sorted(known))


def _public(found: Any) -> list[str]:
    names = [name for name in dir(found) if not name.startswith("_")]
    return [name for name in names if callable(getattr(found, name, None))]
