"""What was measured about functions: kept for the process, bounded, saved and loaded as JSON.

    _auto (measures, chooses) ──> Figures, by the function's key ──> _profile.save ──> a file

A key is "module:qualname#code", so what was measured of a function that has changed since is not
found, and lambdas of one module are told apart.  `unirun.profile` is the part for users.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from types import CodeType
from zlib import crc32

from unirun._errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MOST", "Figures", "clear", "figures", "find", "key_of", "known", "load", "save"]

MOST = 500
"""So many functions are kept; the one not asked for the longest goes first."""
LARGEST = 4 << 20
"""Bytes of a file that is read at all: several times what `MOST` functions take."""
VERSION = 1
PLACES = ("", "inline", "process", "thread")
_LONGEST_KEY = 1000

# What is in a file about each function: a number, or a number or null.
_NUMBERS = (
    *("calls", "seconds", "cpu_seconds", "together"),
    *("bytes_in", "bytes_out", "objects", "parallel"),
)
_FIELDS = (*_NUMBERS, "gil_share", "calls_on", "maps_on", "reason")


class Figures:
    """What is known of one function, each for one call (in a map: for one item).

    Written by one thread at a time, under the lock of the route that measures; a reader may see
    some numbers of one moment and some of the next, all of them true.
    """

    __slots__ = (*_FIELDS, "key", "loaded")

    def __init__(self, key: str) -> None:
        self.key = key
        self.loaded = False  # from a file: it is believed at once
        self.calls = 0  # measured
        self.seconds = 0.0  # from begin to end
        self.cpu_seconds = 0.0  # of its thread
        self.together = 0.0  # from the end of one to that of the next, in a crowd; 0: not seen
        self.gil_share: float | None = None  # of its CPU time; None: not measured
        self.bytes_in = self.bytes_out = 0.0
        self.objects = 0.0  # that a pickle of arguments and result would be made of
        self.parallel = 0  # the most calls that were under way at the same time
        self.calls_on = self.maps_on = ""  # the backend that was chosen; "": none yet
        self.reason = ""

    @property
    def cpu_share(self) -> float:
        """Of its time: 1 computes, 0 waits."""
        return min(1.0, self.cpu_seconds / self.seconds) if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        return {name: _rounded(getattr(self, name)) for name in _FIELDS}


# Guards _known. A function is put in or found under it, nothing else.
_lock = threading.Lock()
_known: OrderedDict[str, Figures] = OrderedDict()


def _renew_lock_in_forked_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_in_forked_child)


def key_of(fn: Any) -> str:
    """The name figures of `fn` go by, the same in every process that runs the same code."""
    fn = getattr(fn, "fn", fn) if hasattr(fn, "__unirun_options__") else fn
    fn = getattr(fn, "__func__", fn)
    module = getattr(fn, "__module__", None) or type(fn).__module__
    name = f"{module}:{getattr(fn, '__qualname__', type(fn).__qualname__)}"
    code = getattr(fn, "__code__", None)
    return name[:_LONGEST_KEY] + (f"#{_sum(code):08x}" if type(code) is CodeType else "")


def find(key: str) -> Figures:
    """The figures of that function, new ones if nothing is known."""
    with _lock:
        figures = _known.get(key)
        if figures is None:
            figures = _known[key] = Figures(key)
            if len(_known) > MOST:
                _known.popitem(last=False)
        else:
            _known.move_to_end(key)
        return figures


def known() -> list[Figures]:
    """Of all functions, the one used last at the end."""
    with _lock:
        return list(_known.values())


def clear() -> None:
    """Forget all of them."""
    with _lock:
        _known.clear()


def figures(fn: Any) -> tuple[tuple[str, object], ...]:
    """What is known of `fn`, for people: (name, value) pairs; empty if nothing was measured.

    Seconds, bytes, shares from 0 to 1; all of them for one call.
    """
    with _lock:
        found = _known.get(key_of(fn))
    if found is None or not (found.calls or found.reason):
        return ()
    rows: list[tuple[str, object]] = [("calls measured", found.calls)]
    if found.calls:
        rows += [
            ("seconds", float(f"{found.seconds:.3g}")),
            ("cpu share", round(found.cpu_share, 2)),
            *([("gil share", round(found.gil_share, 2))] if found.gil_share is not None else []),
            ("bytes in", round(found.bytes_in)),
            ("bytes out", round(found.bytes_out)),
        ]
    if found.calls_on:
        rows += [("calls on", found.calls_on), ("maps on", found.maps_on)]
    return (*rows, *([("because", found.reason)] if found.reason else []))


# -- files ----------------------------------------------------------------------------------------


def save(path: str | os.PathLike[str]) -> int:
    """Write all figures to `path`, at once or not at all; returns how many functions."""
    import json

    functions = {each.key: each.as_json() for each in known() if each.calls}
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    content = {"unirun profile": VERSION, "python": python, "functions": functions}
    path = os.fspath(path)
    # Beside it, so that the rename stays on one file system; of a name no other writer has.
    draft = f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
        os.replace(draft, path)
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise
    return len(functions)


def load(path: str | os.PathLike[str]) -> int:
    """Take over what the file says, in place of what is known; returns how many functions.

    A file that is wrong changes nothing. Raises ConfigError, which names the file.
    """
    name = os.fspath(path)
    functions = _checked(name, _read(name))
    with _lock:
        for figures in functions:
            _known[figures.key] = figures
            _known.move_to_end(figures.key)
            if len(_known) > MOST:
                _known.popitem(last=False)
    return len(functions)


def _read(path: str) -> Any:
    import json

    with open(path, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise _wrong(path, f"it has more than {LARGEST >> 20} MiB")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise _wrong(path, f"it is no JSON ({exc})") from exc


def _checked(path: str, content: Any) -> list[Figures]:
    if not isinstance(content, dict) or "unirun profile" not in content:
        raise _wrong(path, "it has no 'unirun profile'")
    if content["unirun profile"] != VERSION:
        found = content["unirun profile"]
        raise _wrong(path, f"it is of version {found!r}, and this unirun reads version {VERSION}")
    functions = content.get("functions")
    if not isinstance(functions, dict):
        raise _wrong(path, "'functions' is no table")
    if len(functions) > MOST:
        raise _wrong(path, f"it has {len(functions)} functions, and {MOST} are the most")
    return [_figures(path, key, values) for key, values in functions.items()]


def _figures(path: str, key: str, values: Any) -> Figures:
    if not isinstance(values, dict) or len(key) > _LONGEST_KEY + 9:
        raise _wrong(path, f"what it says of {key[:80]!r} is no table")
    made = Figures(key)
    made.loaded = True
    for name, value in values.items():
        if name not in _FIELDS:
            raise _wrong(path, f"{name!r} of {key!r} is not known")
        if not _fits(name, value):
            raise _wrong(path, f"{name} of {key!r} is {value!r}")
        setattr(made, name, value)
    missing = [name for name in _FIELDS if name not in values]
    if missing:
        raise _wrong(path, f"{missing[0]} of {key!r} is missing")
    return made


def _fits(name: str, value: Any) -> bool:
    if name == "reason":
        return isinstance(value, str) and len(value) <= _LONGEST_KEY
    if name in ("calls_on", "maps_on"):
        return isinstance(value, str) and value in PLACES
    if name == "gil_share":
        return value is None or (_is_number(value) and value <= 1)
    return _is_number(value) and (name not in ("calls", "parallel") or isinstance(value, int))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e18  # neither true nor NaN


def _wrong(path: str, what: str) -> ConfigError:
    return ConfigError(f"{path} is no profile that can be used: {what}; save it again")


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _sum(code: CodeType) -> int:
    """The same for the same code in every process: no addresses, no lines, no order of sets."""
    total = crc32(code.co_code)
    for const in code.co_consts:
        if type(const) is CodeType:
            total = crc32(_sum(const).to_bytes(4, "big"), total)
        elif isinstance(const, frozenset):
            total = crc32(repr(sorted(map(repr, const))).encode(), total)
        else:
            total = crc32(repr(const).encode(), total)
    return crc32(repr((code.co_names, code.co_varnames)).encode(), total)
