"""Where a context variable is: the module that has it, and the way to it in there.

A variable does not know.  So all modules are looked through, once for each variable: first what
they call by a name, then the classes, dicts and objects that they have.
"""

from __future__ import annotations

import sys

from unirun._payload import importable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextvars import ContextVar
    from types import ModuleType
    from typing import Any, TypeAlias

    Way: TypeAlias = tuple[tuple[bool, str], ...]

__all__ = ["find"]

_LARGEST = 1000
"""Entries up to which a dict is looked through."""
_BARE = frozenset({int, float, str, bytes, bool, type(None), tuple, list, set, frozenset})


def find(variable: ContextVar[Any]) -> tuple[str, Way] | None:
    """(module, way); None if no module has it that another process could import."""
    modules = [item for item in list(sys.modules.items()) if item[0] != "__main__"]
    for look in (_names, _insides):
        for name, module in modules:
            for way, value in look(module, name):
                if value is variable and importable(name):
                    return name, way
    return None


def _names(module: ModuleType, _: str) -> Iterator[tuple[Way, Any]]:
    for name, value in list(getattr(module, "__dict__", {}).items()):
        yield ((False, name),), value


def _insides(module: ModuleType, module_name: str) -> Iterator[tuple[Way, Any]]:
    """What is in its classes, dicts and objects."""
    package = module_name.partition(".")[0]
    for name, value in list(getattr(module, "__dict__", {}).items()):
        if type(value) in _BARE or not isinstance(name, str):
            continue
        if type(value) is dict:
            inside, is_key = value, True
        elif not str(getattr(type(value), "__module__", "")).startswith((package, "builtins")):
            continue
        else:
            inside, is_key = _attributes(value), False
        if len(inside) <= _LARGEST:
            for part, found in list(inside.items()):
                if type(part) is str:
                    yield ((False, name), (is_key, part)), found


def _attributes(value: Any) -> Any:
    """Its own, or those of a class; without running any code of its."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if hasattr(found, "items") else {}
