"""What a task writes that its caller would not see if it ran elsewhere, found without tracing it.

The bytecode of the task, and of the functions of its package that it calls by name, tells where
it may write: to globals, to attributes of modules, classes and global objects, to variables of an
enclosing function, into global containers.  `Watch` notes what is there before the call and looks
again afterwards: only what has changed is found.  No trace function is set, so a debugger can be.

What workers do rightly for themselves is left out: to fill something at first use (it was None,
False or missing, and the code reads it too), and to add keys to a dictionary that the code also
reads (a cache).
"""

from __future__ import annotations

import dis
import types
from collections import deque

from unirun._records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

__all__ = ["Watch", "Write"]

MOST_FUNCTIONS = 50
"""So many functions are looked into: the task, and those it calls."""
MOST_ITEMS = 1000
"""Of a global container with more items only the number of them is compared."""
MOST_SCANS = 1000
"""The bytecode of so many functions is remembered."""

_MADE_IN_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_MISSING = object()
_NOTHING = (None, False, _MISSING)  # what a place holds before its first use
_CONTAINERS = (dict, list, set, bytearray, deque)
_LOADS_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME"}
_STORES_GLOBAL = {"STORE_GLOBAL", "DELETE_GLOBAL"}
_LOADS_DEREF = {"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"}
_STORES_DEREF = {"STORE_DEREF", "DELETE_DEREF"}
_STORES_ATTRIBUTE = {"STORE_ATTR", "DELETE_ATTR"}
_LOADS_ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD"}
_STORES_ITEM = {"STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"}
_READS_ITEM = {"BINARY_SUBSCR", "BINARY_SLICE", "CONTAINS_OP"}
_CHANGES = {"append", "appendleft", "extend", "insert", "remove", "pop", "popleft", "clear"} | {
    *("sort", "reverse", "add", "discard", "update", "setdefault", "popitem", "rotate"),
    *("difference_update", "intersection_update", "symmetric_difference_update"),
}
_READS = {"get", "setdefault", "keys", "values", "items", "copy", "index", "count"}


@record
class Write:
    """A change that was found, and the line that made it."""

    subject: str
    """What was changed: "the global 'total'"."""
    file: str
    line: int
    namespace: dict[str, Any]
    """The globals of the function with that line."""


class Watch:
    """What a function may write, as it was when this was made."""

    def __init__(self, fn: types.FunctionType, arguments: Iterable[Any] = ()) -> None:
        found = [spot for function in _reachable(fn) for spot in _spots(function)]
        found += _of_classes(fn, arguments)
        by_place: dict[tuple[int, str], _Spot] = {}
        for spot in found:
            by_place.setdefault(spot.key, spot)
        self._spots = list(by_place.values())

    def changes(self) -> list[Write]:
        """What has changed since, each with its line."""
        return [spot.write for spot in self._spots if spot.has_changed()]


# -- what the bytecode says ------------------------------------------------------------------------


class _Scan:
    """Which names one function writes and reads, with the first line that does."""

    def __init__(self, code: types.CodeType) -> None:
        self.globals_stored: dict[str, int] = {}
        self.globals_loaded: dict[str, int] = {}
        self.derefs_stored: dict[str, int] = {}
        self.derefs_loaded: dict[str, int] = {}
        self.attributes_stored: dict[str, int] = {}
        self.attributes_loaded: dict[str, int] = {}
        self.lines_of: dict[str, set[int]] = {}
        self.lines_that_change: set[int] = set()  # items of something
        self.lines_that_read: set[int] = set()
        self._read(code)

    def _read(self, code: types.CodeType) -> None:
        tables = [
            (_LOADS_GLOBAL, self.globals_loaded),
            (_STORES_GLOBAL, self.globals_stored),
            (_LOADS_DEREF, self.derefs_loaded),
            (_STORES_DEREF, self.derefs_stored),
            (_STORES_ATTRIBUTE, self.attributes_stored),
            (_LOADS_ATTRIBUTE, self.attributes_loaded),
        ]
        line = code.co_firstlineno
        for instruction in dis.get_instructions(code):
            positions = instruction.positions
            line = (positions.lineno if positions else None) or line
            name, operation = instruction.argval, instruction.opname
            for operations, table in tables:
                if operation in operations:
                    table.setdefault(name, line)
            self._note_items(operation, name, line, instruction.argrepr)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._read(constant)

    def _note_items(self, operation: str, name: Any, line: int, shown: str) -> None:
        if operation in _LOADS_GLOBAL or operation in _LOADS_DEREF:
            self.lines_of.setdefault(name, set()).add(line)
        called = name if operation in _LOADS_ATTRIBUTE else None
        if operation in _STORES_ITEM or called in _CHANGES:
            self.lines_that_change.add(line)
        if operation in _READS_ITEM or called in _READS or shown == "[]":  # as 3.14 shows it
            self.lines_that_read.add(line)

    def line_that_changes(self, name: str) -> int | None:
        """The first line with that name and something that changes a container."""
        return min(self.lines_of.get(name, set()) & self.lines_that_change, default=None)

    def reads_items_of(self, name: str) -> bool:
        return not self.lines_that_read.isdisjoint(self.lines_of.get(name, ()))


_scans: dict[types.CodeType, _Scan] = {}  # replaced when full; a lost entry is made again


def _scan(code: types.CodeType) -> _Scan:
    global _scans
    found = _scans.get(code)
    if found is None:
        if len(_scans) >= MOST_SCANS:
            _scans = {}
        found = _scans[code] = _Scan(code)
    return found


def _reachable(fn: types.FunctionType) -> Iterator[types.FunctionType]:
    """`fn`, and the functions of its package that it calls by a global name, and so on."""
    package = str(fn.__module__).partition(".")[0]
    waiting, seen = deque([fn]), {fn}
    while waiting:
        function = waiting.popleft()
        yield function
        for name in _scan(function.__code__).globals_loaded:
            other = function.__globals__.get(name)
            if not isinstance(other, types.FunctionType) or other in seen:
                continue
            if str(other.__module__).partition(".")[0] == package and len(seen) < MOST_FUNCTIONS:
                seen.add(other)
                waiting.append(other)


# -- places --------------------------------------------------------------------------------------


class _Spot:
    """A place that a function may write to, and what was there."""

    def __init__(
        self, key: tuple[int, str], function: types.FunctionType, subject: str, line: int
    ) -> None:
        self.key = key
        file, namespace = function.__code__.co_filename, function.__globals__
        self.write = Write(subject, file, line, namespace)

    def has_changed(self) -> bool:
        raise AssertionError  # each kind of place has its own


class _Name(_Spot):
    """A name in a namespace: a global, or an attribute of a module, class or object."""

    def __init__(self, owner: object, names: Any, name: str, is_read: bool, *about: Any) -> None:
        super().__init__((id(owner), name), *about)
        self._names, self._name, self._is_read = names, name, is_read
        self._before = names.get(name, _MISSING)

    def has_changed(self) -> bool:
        if self._names.get(self._name, _MISSING) is self._before:
            return False
        return not (self._is_read and any(self._before is each for each in _NOTHING))


class _Cell(_Spot):
    """A variable of an enclosing function."""

    def __init__(self, cell: types.CellType, is_read: bool, *about: Any) -> None:
        super().__init__((id(cell), ""), *about)
        self._cell, self._is_read, self._before = cell, is_read, _contents(cell)

    def has_changed(self) -> bool:
        if _contents(self._cell) is self._before:
            return False
        return not (self._is_read and any(self._before is each for each in _NOTHING))


class _Container(_Spot):
    """A container, by its items; what is in these is not looked at."""

    def __init__(self, container: Any, is_read: bool, *about: Any) -> None:
        super().__init__((id(container), "[]"), *about)
        self._container, self._is_read = container, is_read
        self._before = _items(container)

    def has_changed(self) -> bool:
        before, now = self._before, _items(self._container)
        if isinstance(before, dict) and isinstance(now, dict):
            kept = all(now.get(key, _MISSING) is value for key, value in before.items())
            return not kept or (len(now) > len(before) and not self._is_read)
        if isinstance(before, list) and isinstance(now, list):
            return len(before) != len(now) or any(
                one is not other for one, other in zip(before, now, strict=True)
            )
        return bool(before != now)


def _items(container: Any) -> Any:
    """What can be compared later; items are kept, so that their ids stay theirs."""
    if len(container) > MOST_ITEMS:
        return len(container)
    try:
        if isinstance(container, dict):
            return dict(container)
        return bytes(container) if isinstance(container, bytearray) else list(container)
    except RuntimeError:  # another thread is changing it just now
        return len(container)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _spots(function: types.FunctionType) -> Iterator[_Spot]:
    scan, namespace = _scan(function.__code__), function.__globals__
    for name, line in scan.globals_stored.items():
        read = name in scan.globals_loaded
        yield _Name(namespace, namespace, name, read, function, f"the global {name!r}", line)
    for name, line in scan.globals_loaded.items():
        yield from _inside(function, scan, "the global", name, namespace.get(name), line)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        what = "the variable {!r} of the enclosing function".format
        read = name in scan.derefs_loaded
        if name in scan.derefs_stored:
            yield _Cell(cell, read, function, what(name), scan.derefs_stored[name])
        yield from _inside(function, scan, "the variable", name, _contents(cell), 0)


def _inside(
    function: types.FunctionType, scan: _Scan, what: str, name: str, value: Any, line: int
) -> Iterator[_Spot]:
    """The places within a global, or within a variable of an enclosing function."""
    if isinstance(value, _CONTAINERS):
        found = scan.line_that_changes(name)
        line = found or line or function.__code__.co_firstlineno
        is_read = scan.reads_items_of(name)
        yield _Container(value, is_read, function, f"{what} {name!r}", line)
        return
    names = _attributes(value)
    if names is None:
        return
    for attribute, stored in scan.attributes_stored.items():
        read = attribute in scan.attributes_loaded
        subject = f"{name}.{attribute}"
        yield _Name(value, names, attribute, read, function, f"the attribute {subject!r}", stored)


def _of_classes(function: types.FunctionType, arguments: Iterable[Any]) -> Iterator[_Spot]:
    """Attributes of classes that come as arguments, or as those of arguments."""
    scan = _scan(function.__code__)
    for value in arguments if scan.attributes_stored else ():
        cls = value if isinstance(value, type) else type(value)
        if cls.__flags__ & _MADE_IN_PYTHON:
            yield from _inside(function, scan, "the class", cls.__name__, cls, 0)


def _attributes(value: Any) -> Any:
    """Where what a module, a class or an object of the user's has is kept; None if unknown."""
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType)) or value is None:
        return None
    if type(value).__module__ in ("_thread", "_threading_local"):  # of each thread by design
        return None
    names = getattr(value, "__dict__", None)
    return names if isinstance(names, (dict, types.MappingProxyType)) else None
