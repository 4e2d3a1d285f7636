"""Arguments in a few words, for messages: `3, 'text', [1, 2, ...], key=***`.

No code of the user runs for it: a `__repr__` may hang, print, take seconds or a gigabyte.  So what
is no plain value is told by its type, with the fields of dataclasses and the shape of arrays.  Long
texts are cut, and what bears the name of a secret is not told.
"""

from __future__ import annotations

import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

__all__ = ["arguments", "short"]

_ALL = 240  # characters of everything together
_TEXT = 60
_BITS = 200
_ITEMS = 4
_DEPTH = 3

_SECRET = re.compile(
    r"passwor|passwd|passphrase|(^|_)(pass|pwd|secrets?|token|api_?key|access_?key|private_?key|"
    r"credentials?|auth|authorization|bearer|jwt|cookies?|session_?id)\d*(_|$)",
    re.IGNORECASE,
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|-")  # dbPassword, X-Api-Key
_LOGIN = re.compile(r"(://)[^/\s?#]+@")  # in the address of a database, say
_LOGIN_CUT = re.compile(r"(://)[^/\s?#@]*:[^/\s?#@]{9,}$")  # whose end is too far away
_SPOKEN = re.compile(  # "password=...", "Authorization: Bearer ..."
    r"((?:passw(?:or)?d|passphrase|secret|token|(?:api|access|private)[_-]?key|authorization)"
    r"[\"']?\s*[=:]\s*[\"']?)(?:(?:bearer|basic)\s+)?[^\s\"'&;,]+",
    re.IGNORECASE,
)
_HIDDEN = "***"

_OWN_REPR = frozenset({"datetime", "decimal", "fractions", "uuid", "pathlib", "zoneinfo"})
"""Modules of the standard library whose values say shortly what they are."""
_WITH_SHAPE = frozenset({"numpy", "pandas", "polars", "torch", "jax", "jaxlib", "cupy", "scipy"})


def arguments(args: Iterable[Any], kwargs: Mapping[str, Any] | None = None, fn: Any = None) -> str:
    """As they stand in a call; `fn` tells the names of those that have none. Never raises."""
    try:
        names = _parameters(fn)
        shown = []
        for at, value in enumerate(args):
            if at == 2 * _ITEMS:
                shown.append("...")
                break
            shown.append(_named(names[at] if at < len(names) else "", value, _DEPTH))
        for name, value in list((kwargs or {}).items())[: 2 * _ITEMS]:
            shown.append(f"{name}={_named(name, value, _DEPTH)}")
    except BaseException:  # a thread changes them meanwhile, say  # noqa: BLE001
        return "..."
    return _cut(", ".join(shown), _ALL)


def short(value: Any) -> str:
    """One value. Never raises."""
    return _short(value, _DEPTH)


def _named(name: Any, value: Any, depth: int) -> str:
    return _HIDDEN if _is_secret(name) else _short(value, depth)


def _is_secret(name: Any) -> bool:
    if type(name) is bytes:
        name = name[:_TEXT].decode("latin-1")
    return type(name) is str and _SECRET.search(_HUMP.sub("_", name[:_TEXT])) is not None


_MAKERS = ("__init__", "__new__")


def _parameters(fn: Any, depth: int = 9) -> tuple[str, ...]:
    """The names of those that have a place, as they are for who calls `fn`."""
    kind = type(fn)
    if depth == 0 or fn is None:
        return ()
    if kind.__name__ == "partial" and kind.__module__ == "functools":
        return _parameters(fn.func, depth - 1)[len(fn.args) :]
    if isinstance(fn, type):
        makers = (_parameters(getattr(fn, name, None), depth - 1) for name in _MAKERS)
        return next(filter(None, makers), ())[1:]
    bound = getattr(fn, "__func__", None)  # first: a bound method has the code of its function
    if bound is not None:
        return _parameters(bound, depth - 1)[1:]
    task = getattr(fn, "fn", None)
    if task is not None:
        return _parameters(task, depth - 1)[getattr(fn, "__self__", None) is not None :]
    if (wrapped := getattr(fn, "__wrapped__", None)) is not None:
        return _parameters(wrapped, depth - 1)
    code = getattr(fn, "__code__", None)
    if code is not None:
        names: tuple[str, ...] = code.co_varnames[: code.co_argcount]
        return names
    call = vars(kind).get("__call__")
    return _parameters(call, depth - 1)[1:] if hasattr(call, "__code__") else ()


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _short(value: Any, depth: int) -> str:
    try:
        return _of_kind(value, type(value), depth)
    except BaseException:  # an odd metaclass; or a collection that changes meanwhile  # noqa: BLE001
        return "<...>"


def _of_kind(value: Any, kind: type, depth: int) -> str:
    if kind in (type(None), bool, float, complex, type(Ellipsis), range):
        return repr(value)
    if kind is int:
        bits = value.bit_length()
        return repr(value) if bits <= _BITS else f"<int of {bits} bits>"
    if kind in (str, bytes, bytearray):
        return _text(value, kind)
    if kind in (list, tuple, set, frozenset, dict):
        return _collection(value, kind, depth)
    if isinstance(value, type) or kind.__name__ in _FUNCTIONS:
        return f"{value.__module__}.{value.__qualname__}"
    return _object(value, kind, depth)


_FUNCTIONS = frozenset({"function", "builtin_function_or_method", "method"})


def _text(value: Any, kind: type) -> str:
    some = value[: 4 * _TEXT]
    if kind is str:
        shown = repr(_without_secrets(some, len(value))[:_TEXT])
    else:
        some = _without_secrets(some.decode("latin-1"), len(value))
        shown = repr(some[:_TEXT].encode("latin-1"))
    return shown if len(value) <= _TEXT else f"{shown}... of {len(value)}"


def _without_secrets(text: str, size: int) -> str:
    text = _SPOKEN.sub(rf"\1{_HIDDEN}", _LOGIN.sub(rf"\1{_HIDDEN}@", text))
    return text if size <= 4 * _TEXT else _LOGIN_CUT.sub(rf"\1{_HIDDEN}", text)


def _collection(value: Any, kind: type, depth: int) -> str:
    if depth == 0:
        return f"<{kind.__name__} of {len(value)}>"
    some, more = list(value)[:_ITEMS] if len(value) < 1000 else _first(value), len(value) > _ITEMS
    if kind is dict:
        shown = [
            f"{_short(key, 0)}: {_named(key, value[key], depth - 1)}"
            for key in some
            if type(key) in (str, int, float, bool, tuple, bytes, type(None))
        ]
        more = more or len(shown) < len(some)
    elif len(some) == 2 and _is_secret(some[0]):  # a header, say
        shown = [_short(some[0], 0), _HIDDEN]
    else:
        shown = [_short(each, depth - 1) for each in some]
    inside = ", ".join(shown + ["..."] * more)
    if kind is tuple:
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if kind is dict:
        return f"{{{inside}}}"
    if not value:
        return f"{kind.__name__}()" if kind is not list else "[]"
    return f"[{inside}]" if kind is list else f"{{{inside}}}"


def _first(value: Any) -> list[Any]:
    found: list[Any] = []
    for each in value:
        if len(found) == _ITEMS:
            break
        found.append(each)
    return found


def _object(value: Any, kind: type, depth: int) -> str:
    module, name = kind.__module__, kind.__qualname__
    root = module.partition(".")[0]
    if root in _OWN_REPR:
        return _cut(repr(value), 2 * _TEXT)
    if root in _WITH_SHAPE and hasattr(value, "shape"):
        return f"<{kind.__name__} {tuple(value.shape)} {getattr(value, 'dtype', '')}".rstrip() + ">"
    enum = sys.modules.get("enum")
    if enum is not None and isinstance(value, enum.Enum):
        return f"{name}.{vars(value).get('_name_')}"
    fields = _fields(value, kind)
    if fields is None or depth == 0:
        return f"<{module}.{name}>"
    shown = [f"{each}={_named(each, inner, depth - 1)}" for each, inner in fields[:_ITEMS]]
    return f"{name}({', '.join(shown + ['...'] * (len(fields) > _ITEMS))})"


def _fields(value: Any, kind: type) -> list[tuple[str, Any]] | None:
    """Of a dataclass or named tuple, as they are stored."""
    if isinstance(value, tuple) and "_fields" in vars(kind):
        return list(zip(vars(kind)["_fields"], tuple.__iter__(value), strict=False))
    if "__dataclass_fields__" not in vars(kind):
        return None
    stored = object.__getattribute__(value, "__dict__")
    shown = [name for name, field in vars(kind)["__dataclass_fields__"].items() if field.repr]
    return [(name, stored[name]) for name in shown if name in stored]
