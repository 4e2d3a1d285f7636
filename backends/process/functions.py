"""Calls as bytes, made in the thread that submits.

A function that can be imported is sent to each worker once and known by a number from then on.
Anything else callable (a lambda, a partial, a bound method) travels with the arguments each time,
so that what it captured is what it was at submit.
"""

from __future__ import annotations

import threading
import types
from typing import Any

from unirun._payload import dumps, importable
from unirun.backend import describe

MAX_KNOWN = 4096
"""How many functions a worker keeps before it is told to forget them all."""

_BY_NAME = (types.FunctionType, types.BuiltinFunctionType, type)


class FunctionTable:
    """Numbers for functions that travel by name. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the making of numbers; reading needs none
        # id(fn) -> (fn, number, bytes). The reference keeps the id from being given to another.
        self._known: dict[int, tuple[Any, int, bytes]] = {}
        self._next = 1

    def encode(self, fn: Any, args: Any, kwargs: Any) -> tuple[int, bytes | None, bytes]:
        """(number or 0, bytes of the function or None, bytes of the rest)."""
        known = self._known.get(id(fn))
        if known is None and _travels_by_name(fn):
            known = self._learn(fn)
        what = "the call"
        if known is not None:
            return known[1], known[2], dumps((args, kwargs), what, ("args", "kwargs"))
        return 0, None, dumps((fn, args, kwargs), what, (describe(fn), "args", "kwargs"))

    def _learn(self, fn: Any) -> tuple[Any, int, bytes]:
        data = dumps(fn, describe(fn))
        with self._lock:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()  # numbers are never used twice, so old ones stay right
            known = self._known[id(fn)] = (fn, self._next, data)
            self._next += 1
        return known


def _travels_by_name(fn: Any) -> bool:
    """Whether what is sent is a name, so that nothing it captured can change."""
    if not isinstance(fn, _BY_NAME) and not getattr(type(fn), "__unirun_task__", False):
        return False
    module = getattr(fn, "__module__", None)
    name = getattr(fn, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not importable(module):
        return False
    return _find(module, name) is fn


def _find(module: str, qualname: str) -> Any:
    import sys

    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
